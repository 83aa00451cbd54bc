"""What a service is shown of a study, and what it says: the contract of every model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.mammography import Mammogram
from fhir_ext.dicom.radiograph import Radiograph
from fhir_ext.dicom.seg import Segmentation
from fhir_ext.dicom.seg_image import ImageSegmentation
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import (
    Classification,
    Detection,
    Issue,
    Measurement,
    Refusal,
    Risk,
    SeriesSource,
)

Conclusions = tuple[tuple[Risk, ...], tuple[Issue, ...]]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """As much of one study as a manifest's `inputs.images` asks for; nothing is changed.

    Attributes:
        volume: the stack of one series (`volume`, `segmented-volume`).
        segmentations: SEG objects in the frame of reference of the volume.
        mammograms: all 2D mammograms of the study, in any order; at least one (`mammograms`).
        radiographs: all CR and DX images of the study, in any order; at least one
            (`radiographs`, `segmented-radiographs`).
        image_segmentations: SEG objects that refer to radiographs (`segmented-radiographs`).
        study: what tells studies apart for fairness between them; nothing is read from it.
        urgent: the request behind the study is urgent, asap or stat.
    """

    volume: CTVolume | None = None
    segmentations: tuple[Segmentation, ...] = ()
    mammograms: tuple[Mammogram, ...] = ()
    radiographs: tuple[Radiograph, ...] = ()
    image_segmentations: tuple[ImageSegmentation, ...] = ()
    study: str = ""
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class MaskOutput:
    """Segments on the grid of the volume that was shown.

    Attributes:
        name: of the output of the manifest.
        labels: uint8 (slices, rows, columns); 0 is background, others as the manifest's
            labels say.
    """

    name: str
    labels: npt.NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServiceOutput:
    """What one service says about what it was shown.

    Attributes:
        measurements, classifications: a value or a refusal for every output of that kind of
            the manifest, in its order.
        risks, issues: what follows from the values that stand.
        detections: highest score first.
        masks: segments; they become a SEG in the archive.
        notes: (name of an output, sentence) that a reader must know beside it.
        main: the series that the result speaks of, where the service chose it (mammograms);
            None: the series of the volume.
        further: other instances that were used, by series.
        searched: places were looked for, so that none found is an answer.
        withheld: (name of an output of places or segments, why it gives none).
    """

    measurements: tuple[Measurement, ...] = ()
    risks: tuple[Risk, ...] = ()
    issues: tuple[Issue, ...] = ()
    classifications: tuple[Classification, ...] = ()
    detections: tuple[Detection, ...] = ()
    masks: tuple[MaskOutput, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    main: SeriesSource | None = None
    further: tuple[SeriesSource, ...] = ()
    searched: bool = False
    withheld: tuple[tuple[str, Refusal], ...] = ()

    @property
    def stands(self) -> bool:
        """Whether anything was said that is not a refusal."""
        values = any(item.value is not None for item in self.measurements)
        categories = any(item.chosen is not None for item in self.classifications)
        return values or categories or self.searched or bool(self.masks)


class Instance(Protocol):
    """An instance that a service was shown."""

    @property
    def series_instance_uid(self) -> str: ...

    @property
    def sop_instance_uid(self) -> str: ...


def sources_of(instances: Iterable[Instance]) -> list[SeriesSource]:
    """Instances by series, in the order in which the series come first."""
    series: dict[str, list[str]] = {}
    for item in instances:
        series.setdefault(item.series_instance_uid, []).append(item.sop_instance_uid)
    return [SeriesSource(uid, tuple(sorted(uids))) for uid, uids in series.items()]


class Service(Protocol):
    """A loaded model version. `run` may be called from several threads."""

    def run(self, given: ModelInput) -> ServiceOutput:
        """Gate, measure, and draw conclusions.

        Raises:
            ModelFailure: the network gives no number that may be used; the study is parked.
            UpstreamError: a remote model server is down or slow; tried again later.
        """
