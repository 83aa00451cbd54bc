"""What the archive may say to an SR, and what the workflow makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from pydicom import Dataset
from result_samples import ISSUED, result

from fhir_ext.clients.stow import StoreReport
from fhir_ext.errors import NotFoundError, ParkedWork, UpstreamError
from fhir_ext.resources.ids import dicom_uid
from operations.analyze.store_dicom import sr_is_stored, store_sr


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
