"""What the archive may say to an SR, and what the workflow makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from analytic import geometry_of, volume_of
from finding_samples import SEG_SERIES, detected, of_a_site
from pydicom import Dataset
from result_samples import ISSUED, result
from seg_samples import ct_header

from fhir_ext.clients.stow import StoreReport
from fhir_ext.errors import NotFoundError, ParkedWork, UpstreamError
from fhir_ext.resources.ids import dicom_uid
from models.registry import Registry
from models.service import MaskOutput
from operations.analyze.store_dicom import (
    SegReference,
    source_headers,
    sr_is_stored,
    store_masks,
    store_sr,
)


@dataclass
class FakeArchive:
    """Takes one SR and answers with a given failure reason, or stores it."""

    failure: int | None = None
    silent: bool = False
    listed: tuple[str, ...] | None = ()
    stored: list[Dataset] = field(default_factory=list)

    def instance_metadata(self, study: str, series: str, instance: str) -> Dataset:
        header = Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        header.SOPInstanceUID, header.SeriesInstanceUID = instance, series
        header.StudyInstanceUID = study
        header.Modality = "CT"
        header.PatientID, header.PatientName = "MRN-1", "Doe^Jane"
        header.PatientBirthDate, header.PatientSex = "19600101", "F"
        header.StudyDate, header.StudyTime = "20260105", "101500"
        header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "", "", ""
        return header

    def store(self, instances: list[Dataset]) -> StoreReport:
        self.stored += instances
        uid = str(instances[0].SOPInstanceUID)
        if self.silent:
            return StoreReport(frozenset(), {})
        if self.failure is not None:
            return StoreReport(frozenset(), {uid: self.failure})
        return StoreReport(frozenset({uid}), {})

    def list_instances(self, study: str, series: str):
        if self.listed is None:
            raise NotFoundError("no such series")
        return [SimpleNamespace(sop_instance_uid=uid) for uid in self.listed]


def test_a_stored_sr_has_the_uid_that_fhir_names() -> None:
    made = result()
    archive = FakeArchive()
    assert store_sr(archive, made, ISSUED) == dicom_uid(made.inference_key, "sr")
    (sr,) = archive.stored
    assert sr.SOPInstanceUID == dicom_uid(made.inference_key, "sr")
    assert sr.SeriesInstanceUID == dicom_uid(made.inference_key, "sr-series")
    assert sr.Manufacturer == "fhir-ext"


@pytest.mark.parametrize("reason", [0x0110, 0xA700])
def test_a_passing_refusal_is_tried_again(reason: int) -> None:
    with pytest.raises(UpstreamError):
        store_sr(FakeArchive(failure=reason), result(), ISSUED)


def test_silence_about_the_sr_is_tried_again() -> None:
    with pytest.raises(UpstreamError):
        store_sr(FakeArchive(silent=True), result(), ISSUED)


@pytest.mark.parametrize("reason", [0xA900, 0xC000, 0x0122])
def test_a_final_refusal_needs_a_human(reason: int) -> None:
    with pytest.raises(ParkedWork) as caught:
        store_sr(FakeArchive(failure=reason), result(), ISSUED)
    assert caught.value.code == "stow-refused"
    assert f"{reason:#06x}" in caught.value.message


def test_without_a_readable_instance_there_is_no_sr() -> None:
    archive = FakeArchive()
    assert store_sr(archive, result(instances=()), ISSUED) is None
    assert archive.stored == []


def test_whether_an_sr_is_there() -> None:
    made = result()
    wanted = dicom_uid(made.inference_key, "sr")
    assert sr_is_stored(FakeArchive(listed=(wanted,)), made)
    assert not sr_is_stored(FakeArchive(listed=("1.2.3",)), made)
    assert not sr_is_stored(FakeArchive(listed=None), made)
    assert sr_is_stored(FakeArchive(listed=None), result(instances=()))


def test_every_instance_names_its_own_series() -> None:
    made = of_a_site()
    headers = source_headers(FakeArchive(), made)
    assert [(str(h.SeriesInstanceUID), str(h.SOPInstanceUID)) for h in headers] == [
        *((made.series_instance_uid, uid) for uid in made.sop_instance_uids),
        (SEG_SERIES, "1.2.3.9"),
    ]


def test_places_become_an_sr_too() -> None:
    archive = FakeArchive()
    made = detected()
    assert store_sr(archive, made, ISSUED) == dicom_uid(made.inference_key, "sr")


LOBES = """
id: lobes
version: 1.0.0
title: Lobes
licence: MIT
intended_use: Tests.
not_for: Patients.
inputs: {modality: [CT]}
runtime: {kind: operators}
outputs:
  - name: lobes
    kind: segmentation
    region: lungs
    labels:
      - {value: 2, name: left, code: {system: "http://snomed.info/sct", code: "44029006",
          display: Left lung}}
      - {value: 3, name: right}
"""


def test_masks_are_stored_once_under_the_uids_of_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "lobes"
    folder.mkdir()
    (folder / "manifest.yaml").write_text(LOBES)
    manifest = Registry(root=tmp_path).manifest("lobes")
    shape = (4, 8, 8)
    grid = geometry_of(shape, (3.0, 1.0, 1.0))
    headers = tuple(ct_header(grid, shape, index) for index in range(shape[0]))
    volume = replace(volume_of(np.zeros(shape, np.int16), grid), evidence=headers)
    labels = np.zeros(shape, np.uint8)
    labels[1, 2:4, 2:4], labels[2, 5:7, 5:7] = 2, 3
    key = "cd" * 32
    archive = FakeArchive()
    masks = (MaskOutput("lobes", labels),)
    found = [store_masks(archive, manifest, key, masks, volume) for _ in range(2)]
    assert found == [SegReference(dicom_uid(key, "seg-series"), dicom_uid(key, "seg"))] * 2
    first, second = archive.stored
    assert first == second
    left, right = first.SegmentSequence
    assert left.SegmentedPropertyTypeCodeSequence[0].CodeValue == "44029006"
    kind = right.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.LongCodeValue) == ("99FHIREXT", "lobes.lobes.right")

    empty = (MaskOutput("lobes", np.zeros(shape, np.uint8)),)
    assert store_masks(archive, manifest, key, empty, volume) is None
    assert store_masks(archive, manifest, key, (), volume) is None
    nowhere = replace(volume, geometry=replace(grid, frame_of_reference_uid=""))
    assert store_masks(archive, manifest, key, masks, nowhere) is None
    assert len(archive.stored) == 2
    with pytest.raises(ParkedWork):
        store_masks(FakeArchive(failure=0xC000), manifest, key, masks, volume)
