"""Measurements on segmentations: gates, structures, numbers, notes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Measurement
from models.gates import BLOOD_POOL, Subject
from models.manifest import Manifest
from models.manifest.demands import unfit
from models.runtime.host import Host
from models.said import measured
from models.segment_measurements.conclusions import AGATSTON, conclude
from models.segment_measurements.measure import BLOOD, WANTED, Study
from models.segment_measurements.settings import numbers_of
from models.segmentation.structures import DRAWN_BY_PROGRAM, Structures, collect
from models.service import ModelInput, ServiceOutput, sources_of


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

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the volume and the segmentations.

        Segmentations of other frames of reference are passed over; without any, every number is
        refused as `segment-missing`.
        """
        assert given.volume is not None
        structures = collect(given.volume, given.segmentations, WANTED)
        used = {found.sop_instance_uid for found in structures.found.values()}
        sources = sources_of(item for item in given.segmentations if item.sop_instance_uid in used)
        return replace(self.measure(given.volume, structures), further=tuple(sorted(sources)))

    def measure(self, volume: CTVolume, structures: Structures) -> ServiceOutput:
        """Measure structures that are on the grid of the volume already; both are only read."""
        study = Study(volume, structures, self._numbers)
        subject = Subject.of_volume(volume, {BLOOD_POOL: study.blood})
        output = measured(
            self._manifest,
            self._manifest.refusals(subject),
            lambda wanted: study.number(wanted.name, wanted.region),
            partial(conclude, limits=self._numbers.thresholds),
        )
        notes = _notes(volume, structures, output.measurements)
        return replace(output, notes=(*output.notes, *notes))


def create(manifest: Manifest, _folder: Path, _host: Host) -> SegmentMeasurements:
    """What `models.registry` calls; there is nothing for a GPU to do."""
    return SegmentMeasurements(manifest)


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
        notes += [(name, DRAWN_BY_PROGRAM) for name in sorted(standing)]
    return notes
