"""The chore that brings the archive in line with a decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom import Dataset
from result_samples import ISSUED, result
from review_samples import ANN, BOB, MemoryFhir, Queue, allow, member_id, request, stored, task_of

from fhir_ext.clients.stow import StoreReport
from fhir_ext.errors import NotFoundError, ParkedWork, UnprocessableError, UpstreamError
from fhir_ext.resources.ids import dicom_uid, review_dicom_uid
from fhir_ext.resources.review import Reviewer
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.service import ReviewService
from subscriptions.intake.bridge import RESULT_MODALITIES
from subscriptions.review import CorrectSr

REGISTRY = Registry()
OF = result(model=REGISTRY.manifest("lung-density").identity())
LAA = member_id(OF, "laa-950")


@dataclass
class Archive:
    """Holds the CT and, unless it was not stored yet, the machine's SR."""

    failure: int | None = None
    has_sr: bool = True
    institution: str = ""
    stored: list[Dataset] = field(default_factory=list)

    def header(self, instance: str) -> Dataset:
        found = Dataset()
        found.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        found.StudyInstanceUID, found.SeriesInstanceUID = OF.study_instance_uid, "1.2.3"
        found.SeriesInstanceUID, found.SOPInstanceUID = OF.series_instance_uid, instance
        found.Modality, found.PatientID, found.PatientName = "CT", "MRN-1", "Doe^Jane"
        found.PatientBirthDate, found.PatientSex = "19600101", "F"
        found.StudyDate, found.StudyTime, found.StudyID = "20260105", "101500", ""
        found.AccessionNumber, found.ReferringPhysicianName = "", ""
        if self.institution:
            found.InstitutionName = self.institution
        return found

    def instance_metadata(self, study: str, series: str, instance: str) -> Dataset:
        from fhir_ext.dicom.sr import build_sr

        if series != dicom_uid(OF.inference_key, "sr-series"):
            return self.header(instance)
        if not self.has_sr:
            raise NotFoundError("no such instance")
        return build_sr(OF, [self.header(uid) for uid in OF.sop_instance_uids], ISSUED)

    def store(self, instances: list[Dataset]) -> StoreReport:
        self.stored += instances
        uid = str(instances[0].SOPInstanceUID)
        if self.failure is not None:
            return StoreReport(frozenset(), {uid: self.failure})
        return StoreReport(frozenset({uid}), {})


def decided(outcome: str, reviewer: Reviewer = ANN) -> MemoryFhir:
    fhir = stored(OF)
    changes = [(LAA, 3.5, "%")] if outcome == "modify" else []
    service = ReviewService(fhir, Queue(), REGISTRY, Metrics())
    service.review(task_of(OF), reviewer, request(outcome, *changes), "1", allow)
    return fhir


def follow(fhir: MemoryFhir, archive: Archive) -> None:
    CorrectSr(fhir, archive)({"task_id": task_of(OF)})


def business_status(fhir: MemoryFhir) -> str:
    found: str = fhir.read("Task", task_of(OF))["businessStatus"]["coding"][0]["code"]
    return found


def observer(archive: Archive) -> str:
    (sr,) = archive.stored
    return str(sr.VerifyingObserverSequence[0].VerifyingObserverName)


def test_changed_numbers_make_one_successor() -> None:
    fhir, archive = decided("modify"), Archive()
    assert business_status(fhir) == "sr-pending"
    follow(fhir, archive)
    (sr,) = archive.stored
    assert sr.SOPInstanceUID == review_dicom_uid(task_of(OF), "sr")
    assert sr.SeriesInstanceUID == dicom_uid(OF.inference_key, "sr-series")
    values = [
        (
            item.ConceptNameCodeSequence[0].CodeValue,
            float(item.MeasuredValueSequence[0].NumericValue),
        )
        for item in walk(sr)
        if item.get("ValueType") == "NUM"
    ]
    assert len(values) == 12
    assert values.count(("laa-950", 3.5)) == 1
    assert values.count(("laa-950", 7.25)) == 2
    assert business_status(fhir) == "done"
    follow(fhir, archive)
    assert len(archive.stored) == 1, "a repeat has nothing to do"


def walk(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence", []))
    return [*children, *(deeper for child in children for deeper in walk(child))]


def test_a_rejection_is_a_note_of_a_modality_that_the_bridge_knows() -> None:
    fhir, archive = decided("reject"), Archive()
    follow(fhir, archive)
    (note,) = archive.stored
    assert note.SOPInstanceUID == review_dicom_uid(task_of(OF), "rejection")
    assert note.Modality in RESULT_MODALITIES
    assert business_status(fhir) == "done"


def test_an_accepted_result_needs_nothing() -> None:
    fhir, archive = decided("accept"), Archive()
    follow(fhir, archive)
    assert archive.stored == []
    assert business_status(fhir) == "done"


def test_who_verified() -> None:
    named = decided("modify")
    name = {"family": "Reader^=", "given": ["Ann", "B\\\\"]}
    named.put({"resourceType": "Practitioner", "id": "ann", "name": [{}, name]})
    for fhir, expected in (
        (decided("modify"), "Practitioner/ann"),
        (named, "Reader^Ann B"),
        (decided("modify", BOB), "sub-bob"),
        (decided("modify", Reviewer("x" * 90, "Person/1")), "x" * 31),
    ):
        archive = Archive()
        follow(fhir, archive)
        assert observer(archive) == expected


@pytest.mark.parametrize(
    ("institution", "said"), [("", "Not stated"), ("St. Elsewhere", "St. Elsewhere")]
)
def test_the_organization_is_that_of_the_images(institution: str, said: str) -> None:
    fhir, archive = decided("modify"), Archive(institution=institution)
    follow(fhir, archive)
    (sr,) = archive.stored
    assert sr.VerifyingObserverSequence[0].VerifyingOrganization == said


@pytest.mark.parametrize("outcome", ["modify", "reject"])
def test_what_cannot_be_stored_stays_pending(outcome: str) -> None:
    fhir = decided(outcome)
    for archive, error in (
        (Archive(has_sr=False), UpstreamError),
        (Archive(failure=0xA700), UpstreamError),
        (Archive(failure=0xA900), ParkedWork),
    ):
        with pytest.raises(error):
            follow(fhir, archive)
        assert business_status(fhir) == "sr-pending"


def test_a_task_that_changes_meanwhile_is_tried_again() -> None:
    fhir, archive = decided("modify"), Archive()

    def touched() -> None:
        fhir.put({**fhir.read("Task", task_of(OF)), "note": [{"text": "seen"}]})

    fhir.before_transaction.append(touched)
    with pytest.raises(UpstreamError):
        follow(fhir, archive)
    follow(fhir, archive)
    assert fhir.read("Task", task_of(OF))["note"] == [{"text": "seen"}]
    assert business_status(fhir) == "done"


def test_a_review_that_lost_its_parts_is_told() -> None:
    fhir: Any = decided("modify")
    task = fhir.read("Task", task_of(OF))
    fhir.put({**task, "output": task["output"][:1]})
    with pytest.raises(UnprocessableError):
        follow(fhir, Archive())
