"""Cardiothoracic ratio: gates, choice of the image, segments, ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fhir_ext.dicom.radiograph import Radiograph
from fhir_ext.dicom.seg_image import ImageSegmentation
from fhir_ext.results import Refusal, Region
from models.cardiothoracic_ratio.conclusions import RATIO, Thresholds, conclude
from models.cardiothoracic_ratio.measure import check_lungs, ratio
from models.cardiothoracic_ratio.segments import chest_of, is_drawn
from models.gates import choose
from models.manifest import Manifest
from models.manifest.demands import checked, measures_only
from models.runtime.host import Host
from models.said import measured
from models.segmentation.structures import DRAWN_BY_PROGRAM
from models.service import ModelInput, ServiceOutput, sources_of


class Numbers(BaseModel):
    """`settings` and `thresholds` of the manifest: exactly these.

    Attributes:
        side_by_side: share of the smaller lung's rows that the other one must have too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    thresholds: Thresholds
    side_by_side: float = Field(ge=0, le=1)


class CardiothoracicRatio:
    """The service. Holds no state between studies; `run` may be called from several threads.

    Args:
        manifest: its manifest.

    Raises:
        ManifestError: a setting or threshold is missing, unknown or of the wrong type, or an
            output is not measured here.
    """

    def __init__(self, manifest: Manifest) -> None:
        measures_only(manifest, {(RATIO, Region.HEART)})
        self._manifest = manifest
        self._numbers = checked(
            manifest, Numbers, {**manifest.settings, "thresholds": dict(manifest.thresholds)}
        )

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at radiographs and at segments drawn on them."""
        chosen = self._choose(given.radiographs, given.image_segmentations)
        if isinstance(chosen, Refusal):
            # Nothing was chosen: the refusal speaks of all images of the study.
            main, *further = sorted(sources_of(given.radiographs))
            return replace(self._said(chosen), main=main, further=tuple(further))
        (main,) = sources_of([chosen])
        chest = chest_of(chosen, given.image_segmentations)
        if isinstance(chest, Refusal):
            return replace(self._said(chest), main=main)
        refusal = check_lungs(chest.lungs, chosen.towards_left, self._numbers.side_by_side)
        output = self._said(refusal or ratio(chest.heart, chest.lungs))
        if output.stands and chest.automatic:
            output = replace(output, notes=(*output.notes, (RATIO, DRAWN_BY_PROGRAM)))
        return replace(output, main=main, further=tuple(sorted(sources_of(chest.sources))))

    def _choose(
        self, images: Sequence[Radiograph], segmentations: Sequence[ImageSegmentation]
    ) -> Radiograph | Refusal:
        """The one image that is measured."""
        chosen = choose(self._manifest.all_gates(), images)
        if isinstance(chosen, Refusal):
            return chosen
        drawn = [image for image in chosen.images if is_drawn(image, segmentations)]
        if len(drawn) > 1:
            needed = "segments on one PA image"
            return Refusal("duplicate-view", f"segments on {len(drawn)} PA images", needed)
        return drawn[0] if drawn else chosen.images[0]

    def _said(self, found: float | Refusal) -> ServiceOutput:
        rule = partial(conclude, limits=self._numbers.thresholds)
        return measured(self._manifest, {}, lambda _: found, rule)


def create(manifest: Manifest, _folder: Path, _host: Host) -> CardiothoracicRatio:
    """What `models.registry` calls; there is nothing for a GPU to do."""
    return CardiothoracicRatio(manifest)
