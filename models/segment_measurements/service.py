"""Measurements on segmentations: gates, structures, numbers, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fhir_ext.dicom.seg import CodedEntry, Segmentation
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Measurement, Refusal
from models.gates import BLOOD_POOL, Subject
from models.manifest import Manifest
from models.manifest.demands import unfit
from models.manifest.outputs import MeasurementOutput
from models.runtime.host import Host
from models.segment_measurements.conclusions import AGATSTON, conclude
from models.segment_measurements.measure import BLOOD, WANTED, Study
from models.segment_measurements.settings import numbers_of
from models.segmentation.structures import Structures, collect
from models.service import ModelInput, ServiceOutput, sources_of

#: Decimals by unit: what is written, and what thresholds are compared with.
_DECIMALS = {"1": 3, "mm3": 1, "mL": 1, "mm": 1, "[hnsf'U]": 2}


@dataclass(frozen=True, slots=True)
class SegmentOutput(ServiceOutput):
    """What the service says about one volume and its segmentations.

    Attributes:
        unknown: segment codes that the table does not know; codes and meanings, no labels.
        segmentations: SOP Instance UIDs of the SEG that numbers were measured in, sorted.
    """

    unknown: tuple[CodedEntry, ...] = ()
    segmentations: tuple[str, ...] = ()


class SegmentMeasurements:
    """The service. Holds no state between volumes; `run` may be called from several threads.

    Args:
        manifest: its manifest.

    Raises:
        ManifestError: a setting or threshold is missing, unknown or of the wrong type, or a gate
            asks for blood where none is.
    """

    def __init__(self, manifest: Manifest) -> None:
        for gate in manifest.gates:
            unknown = set(getattr(gate, "structures", ())) - set(BLOOD)
            if unknown:
                raise unfit(manifest, "gates", f"no blood pool: {min(unknown)}")
        self._manifest = manifest
        self._numbers = numbers_of(manifest)

    def run(self, given: ModelInput) -> SegmentOutput:
        """See `models.service.Service`; looks at the volume and the segmentations."""
        assert given.volume is not None
        output = self.read(given.volume, given.segmentations)
        used = output.segmentations
        measured = (item for item in given.segmentations if item.sop_instance_uid in used)
        return replace(output, further=tuple(sorted(sources_of(measured))))

    def read(self, volume: CTVolume, segmentations: Sequence[Segmentation] = ()) -> SegmentOutput:
        """Measure one volume in the segments of a study.

        Args:
            volume: the images; only read.
            segmentations: every SEG of the study, in any order; those of other frames of
                reference are passed over.

        Returns:
            Without any segmentation every number is refused as `segment-missing`.
        """
        structures = collect(volume, segmentations, WANTED)
        return self.measure(volume, structures)

    def measure(self, volume: CTVolume, structures: Structures) -> SegmentOutput:
        """Measure structures that are on the grid of the volume already, such as a segmenter's."""
        study = Study(volume, structures, self._numbers)
        subject = Subject.of_volume(volume, {BLOOD_POOL: study.blood})
        refused = self._manifest.refusals(subject)
        measurements = tuple(
            _measurement(output, refused.get(output.name), study)
            for output in self._manifest.measurements
        )
        risks, issues = conclude(measurements, self._numbers.thresholds)
        return SegmentOutput(
            measurements,
            risks,
            issues,
            notes=tuple(_notes(volume, structures, measurements)),
            unknown=structures.unknown,
            segmentations=tuple(
                sorted({s.sop_instance_uid for s in structures.found.values()} - {""})
            ),
        )


def create(manifest: Manifest, _folder: Path, _host: Host) -> SegmentMeasurements:
    """What `models.registry` calls; there is nothing for a GPU to do."""
    return SegmentMeasurements(manifest)


def _measurement(output: MeasurementOutput, refusal: Refusal | None, study: Study) -> Measurement:
    """One output of the manifest as a number, or as what withholds it."""
    if refusal is None:
        found = study.number(output.name, output.region)
        if isinstance(found, Refusal):
            refusal = found
        else:
            value = round(found, _DECIMALS[output.unit])
            low, high = output.valid
            if low <= value <= high:
                return Measurement(output.name, output.region, output.unit, value=value)
            refusal = Refusal("implausible-value", f"{value:g}", f"{low:g} to {high:g}")
    return Measurement(output.name, output.region, output.unit, refusal=refusal)


def _notes(
    volume: CTVolume, structures: Structures, measurements: tuple[Measurement, ...]
) -> list[tuple[str, str]]:
    standing = {m.name for m in measurements if m.value is not None}
    notes = []
    if AGATSTON in standing:
        gated = volume.acquisition.ecg_gated
        said = {
            True: "The scan was ECG-gated.",
            False: "The scan was not ECG-gated: the score is not interchangeable with a gated one.",
            None: (
                "The header does not say whether the scan was ECG-gated; without gating the score "
                "is not interchangeable with a gated one."
            ),
        }[gated]
        notes.append((AGATSTON, said))
        increment = volume.geometry.spacing_mm[0]
        if increment < 2.5:
            notes.append(
                (AGATSTON, f"Slices are {increment:.2f} mm apart: noise may raise the score.")
            )
    hands = {s.drawn_by for s in structures.found.values()}
    if standing and "AUTOMATIC" in hands:
        notes += [(name, "Measured in a segment that a program drew.") for name in sorted(standing)]
    return notes
