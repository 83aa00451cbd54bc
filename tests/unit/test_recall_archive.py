"""After a recall the archive holds a note beside every object that was withdrawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom import Dataset
from recall_samples import RECALL, PagedFhir, add
from result_samples import ISSUED

from fhir_ext.clients.qido import InstanceInfo, SeriesInfo
from fhir_ext.clients.stow import StoreReport
from fhir_ext.errors import NotFoundError, ParkedWork, UpstreamError
from fhir_ext.resources.codes import REFERENCED_SEGMENT, REJECTED_FOR_QUALITY
from fhir_ext.resources.ids import dicom_uid, recall_dicom_uid, result_id
from fhir_ext.results import ServiceResult
from operations.model_registry.recall import Recaller, groups_of
from subscriptions.recall import DESCRIPTION, RejectRecalled


@dataclass
class Archive:
    """Holds one study: the SR of a result, and what else is put into `series`."""

    of: ServiceResult
    series: dict[str, list[str]]
    gone: bool = False
    failure: int | None = None
    stored: list[Dataset] = field(default_factory=list)

    def list_series(self, study: str) -> list[SeriesInfo]:
        if self.gone:
            raise NotFoundError("no such study")
        return [SeriesInfo(uid, "SR", 1, None, None, None) for uid in self.series]

    def list_instances(self, study: str, series: str) -> list[InstanceInfo]:
        return [InstanceInfo(uid, "1.2", 1, None, None, None) for uid in self.series[series]]

    def instance_metadata(self, study: str, series: str, instance: str) -> Dataset:
        from fhir_ext.dicom.sr import build_sr

        header = Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        header.StudyInstanceUID = self.of.study_instance_uid
        header.SeriesInstanceUID = self.of.series_instance_uid
        header.SOPInstanceUID = self.of.sop_instance_uids[0]
        header.Modality, header.PatientID, header.PatientName = "CT", "MRN-1", "Doe^Jane"
        header.PatientBirthDate, header.PatientSex = "19600101", "F"
        header.StudyDate, header.StudyTime, header.StudyID = "20260105", "101500", ""
        header.AccessionNumber, header.ReferringPhysicianName = "", ""
        found = build_sr(self.of, [header], ISSUED)
        found.SeriesInstanceUID, found.SOPInstanceUID = series, instance
        return found

    def store(self, instances: list[Dataset]) -> StoreReport:
        self.stored += instances
        uid = str(instances[0].SOPInstanceUID)
        if self.failure is not None:
            return StoreReport(frozenset(), {uid: self.failure})
        return StoreReport(frozenset({uid}), {})


def recalled() -> tuple[PagedFhir, ServiceResult, str]:
    """(server, result, id of its Provenance) after a recall."""
    fhir = PagedFhir()
    of = add(fhir, 1)
    sr = dicom_uid(of.inference_key, "sr")
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    named = [i for i in panel["identifier"] if i["system"] != "urn:dicom:uid"]
    named.append({"system": "urn:dicom:uid", "value": f"urn:oid:{sr}"})
    # The samples name a SEG; most results have none.
    kept = [c for c in panel["component"] if not _names_segment(c)]
    fhir.put({**panel, "identifier": named, "component": kept})
    for page in groups_of(fhir, RECALL.device_id):
        for group in page:
            Recaller(fhir).settle(RECALL, group)
    return fhir, of, result_id(of.inference_key, "provenance")


def _names_segment(component: dict[str, Any]) -> bool:
    return any(c["code"] == REFERENCED_SEGMENT.code for c in component["code"]["coding"])


def archive_of(of: ServiceResult) -> Archive:
    sr_series, sr = (dicom_uid(of.inference_key, kind) for kind in ("sr-series", "sr"))
    return Archive(of, {of.series_instance_uid: ["1.2.3.1"], sr_series: [sr]})


def reject(fhir: PagedFhir, archive: Any, provenance_id: str) -> None:
    RejectRecalled(fhir, archive)({"provenance_id": provenance_id})


def referred(note: Dataset) -> set[str]:
    """SOP Instance UIDs that a note speaks of."""
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    return {
        str(item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def test_one_note_names_the_sr_and_nothing_else() -> None:
    fhir, of, provenance_id = recalled()
    archive = archive_of(of)
    reject(fhir, archive, provenance_id)
    (note,) = archive.stored
    sr = dicom_uid(of.inference_key, "sr")
    assert note.SOPInstanceUID == recall_dicom_uid(provenance_id, "rejection")
    assert (note.Modality, note.Manufacturer) == ("KO", "fhir-ext")
    title = note.ConceptNameCodeSequence[0]
    assert title.CodeValue == REJECTED_FOR_QUALITY.code
    assert referred(note) == {sr}
    texts = [str(item.get("TextValue", "")) for item in note.ContentSequence]
    assert DESCRIPTION in texts
    assert note.PatientID == "MRN-1"


def test_a_repeat_stores_the_same_bytes() -> None:
    fhir, of, provenance_id = recalled()
    archive = archive_of(of)
    reject(fhir, archive, provenance_id)
    reject(fhir, archive, provenance_id)
    assert archive.stored[0] == archive.stored[1]


def test_a_segmentation_of_ours_is_rejected_too_and_one_of_others_is_not() -> None:
    fhir, of, provenance_id = recalled()
    archive = archive_of(of)
    sr, seg, seg_series = (dicom_uid(of.inference_key, k) for k in ("sr", "seg", "seg-series"))
    archive.series[seg_series] = [seg]
    archive.series["1.2.3.88"] = ["1.2.3.99"]
    reject(fhir, archive, provenance_id)
    (note,) = archive.stored
    assert referred(note) == {sr, seg}


@pytest.mark.parametrize("ours", [True, False])
def test_a_segmentation_that_comes_later_is_waited_for_when_it_is_ours(ours: bool) -> None:
    fhir, of, provenance_id = recalled()
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    named = dicom_uid(of.inference_key, "seg") if ours else "1.2.3.99"
    segment = {"code": {"coding": [REFERENCED_SEGMENT.as_json()]}, "valueString": named}
    fhir.put({**panel, "component": [*panel["component"], segment]})
    archive = archive_of(of)
    if ours:
        with pytest.raises(UpstreamError):
            reject(fhir, archive, provenance_id)
    else:
        reject(fhir, archive, provenance_id)
    assert len(archive.stored) == (0 if ours else 1)


def test_an_sr_that_comes_later_is_waited_for() -> None:
    fhir, of, provenance_id = recalled()
    archive = archive_of(of)
    del archive.series[dicom_uid(of.inference_key, "sr-series")]
    with pytest.raises(UpstreamError):
        reject(fhir, archive, provenance_id)
    assert archive.stored == []


def test_a_study_that_the_archive_deleted_needs_no_note() -> None:
    fhir, of, provenance_id = recalled()
    archive = archive_of(of)
    archive.gone = True
    reject(fhir, archive, provenance_id)
    assert archive.stored == []


def test_an_archive_that_refuses_for_good_parks_the_chore() -> None:
    fhir, of, provenance_id = recalled()
    archive = archive_of(of)
    archive.failure = 0xA900
    with pytest.raises(ParkedWork):
        reject(fhir, archive, provenance_id)


def test_a_result_that_still_stands_gets_no_note() -> None:
    fhir, of, provenance_id = recalled()
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    fhir.put({**panel, "status": "final"})
    archive = archive_of(of)
    reject(fhir, archive, provenance_id)
    assert archive.stored == []
