"""What follows a review outside of the FHIR server: the archive, and counts per model version.

The chore `correct-sr` brings the archive in line with a decision: after changed numbers a
verified successor of the SR (PS3.3 C.17.2), after a rejection a note that withdraws it. The
leader's loop looks for decided Tasks, so that neither the chore nor a count is lost when the
program that answered the reviewer dies right after the transaction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from pydicom import Dataset

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import ConflictError, NotFoundError, UnprocessableError, UpstreamError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import transaction, update_entry
from fhir_ext.resources.codes import concept
from fhir_ext.resources.ids import dicom_uid, review_dicom_uid
from fhir_ext.resources.reading import read_member
from fhir_ext.resources.result_reading import result_of
from fhir_ext.resources.review import Reviewed
from fhir_ext.resources.review_reading import (
    Difference,
    machine_values,
    outcome_of,
    output_of,
    read_decided,
    read_reviewed,
)
from fhir_ext.results import Region, SeriesSource, ServiceResult
from fhir_ext.store.repository import Repository
from fhir_ext.store.tables import ReviewOutcome
from operations.analyze.store_dicom import source_headers, store_object
from operations.review.service import CORRECT_SR
from subscriptions.intake.sweep import Swept, sweep_changed
from subscriptions.queue import WorkQueue

log = get_logger(__name__)

Json = dict[str, Any]

CURSOR: Final = "reviews/Task"

#: Characters that a component of a person name must not have (PS3.5 6.2), controls included.
_NOT_IN_NAMES: Final = re.compile(r"[\\^=\x00-\x1f\x7f]+")

#: Verifying Organization is type 1, and a token names none.
UNKNOWN_ORGANIZATION: Final = "Not stated"


@dataclass(frozen=True, slots=True)
class CorrectSr:
    """Handler of the chore: payload `{"task_id": …}`. Idempotent; UIDs follow from the Task."""

    fhir: FhirClient
    archive: DicomWebClient

    def __call__(self, payload: Json) -> None:
        """Write what the archive lacks, then say so in the Task.

        Raises:
            UpstreamError: a server is down, or the first SR is not in the archive (yet).
            ParkedWork: the archive refuses the document.
            UnprocessableError: Task or result cannot be read back.
        """
        task = self.fhir.read("Task", str(payload["task_id"]))
        outcome = outcome_of(task)
        if outcome not in ("modify", "reject") or not _pending(task):
            return
        reviewed = read_reviewed(self.fhir, task)
        trail = output_of(task, "trail").get("valueReference")
        if reviewed is None or trail is None:
            raise UnprocessableError("the review cannot be read back", code="resource-not-found")
        provenance = self.fhir.read("Provenance", trail["reference"].partition("/")[2])
        decided = datetime.fromisoformat(provenance["recorded"])
        result = self._result(reviewed)
        first = self._first_sr(result)
        if outcome == "modify":
            document = self._successor(task, result, first, provenance, decided)
        else:
            document = self._rejection(task, result, first, decided)
        store_object(self.archive, document)
        event(log, "review-stored", state=outcome, service=result.service)
        self._done(task["id"])

    def _result(self, reviewed: Reviewed) -> ServiceResult:
        panel = reviewed.panel
        device = self.fhir.read("Device", _id(panel["device"]))
        study = self.fhir.read("ImagingStudy", _id(panel["derivedFrom"][0]))
        return result_of(panel, reviewed.members, device, study)

    def _first_sr(self, result: ServiceResult) -> Dataset:
        """The machine's SR. It is stored beside the FHIR transaction and may come after it."""
        key = result.inference_key
        try:
            return self.archive.instance_metadata(
                result.study_instance_uid, dicom_uid(key, "sr-series"), dicom_uid(key, "sr")
            )
        except NotFoundError as error:
            raise UpstreamError("the first SR is not in the archive", code="stow-failed") from error

    def _successor(
        self, task: Json, result: ServiceResult, first: Dataset, trail: Json, decided: datetime
    ) -> Dataset:
        from fhir_ext.dicom.sr import Correction, build_sr

        whole = _with_sources(result, first)
        headers = source_headers(self.archive, whole)
        correction = Correction(
            sop_instance_uid=review_dicom_uid(task["id"], "sr"),
            predecessor=first,
            observer=self._observer(task["owner"]),
            organization=str(headers[0].get("InstitutionName") or UNKNOWN_ORGANIZATION),
            by_hand=_by_hand(trail),
        )
        return build_sr(whole, headers, decided, correction)

    def _rejection(
        self, task: Json, result: ServiceResult, first: Dataset, decided: datetime
    ) -> Dataset:
        from fhir_ext.dicom.rejection import build_rejection

        main = _with_sources(result, first).sop_instance_uids[:1]
        header, *_ = source_headers(self.archive, replace(result, sop_instance_uids=main))
        return build_rejection(
            [first, *self._masks(result)],
            header,
            review_dicom_uid(task["id"], "rejection-series"),
            review_dicom_uid(task["id"], "rejection"),
            decided,
        )

    def _masks(self, result: ServiceResult) -> list[Dataset]:
        """The SEG that was stored with the result, when the archive (still) has it."""
        uid, series = result.seg_instance_uid, dicom_uid(result.inference_key, "seg-series")
        if uid is None:
            return []
        try:
            return [self.archive.instance_metadata(result.study_instance_uid, series, uid)]
        except NotFoundError:
            return []

    def _observer(self, owner: Json) -> str:
        """Name of the reviewer as a DICOM person name.

        A token names a reference and no person: the name is that of the Practitioner in the
        FHIR server, or the reference itself where there is none.
        """
        reference = str(owner.get("reference", ""))
        kind, _, resource_id = reference.partition("/")
        person = self.fhir.find(kind, resource_id) if kind == "Practitioner" else None
        for name in (person or {}).get("name", []):
            parts = [
                _component(name.get("family", "")),
                _component(" ".join(name.get("given", []))),
            ]
            if parts[0]:
                return "^".join(part for part in parts if part)
        known = reference or str(owner.get("identifier", {}).get("value", ""))
        return _component(known) or "Reviewer"

    def _done(self, task_id: str) -> None:
        """Say in the Task that the archive has everything; another writer's change stays."""
        task = self.fhir.read("Task", task_id)
        if not _pending(task):
            return
        task["businessStatus"] = concept(codes.REVIEW_STATUS.coding("done"))
        try:
            self.fhir.transaction_once(transaction([update_entry(task)]))
        except ConflictError as error:
            raise UpstreamError("the Task is being changed", code="write-conflict") from error


def follow_reviews(
    fhir: FhirClient, queue: WorkQueue, repository: Repository, overlap: timedelta
) -> int:
    """Count decided reviews, and queue what the archive still lacks.

    Starts at a stored watermark with an overlap; in a lost database at the beginning, by
    which the counts are made again from HAPI.

    Returns:
        How many Tasks were looked at.

    Raises:
        UpstreamError: HAPI is down; the watermark stays where the last page left it.
    """
    reviews = Swept(
        CURSOR,
        "Task",
        {"code": f"{codes.TASK_TYPE.url}|review-ai-result", "status": "completed"},
        lambda task: _follow(fhir, queue, repository, task),
        elements=None,
    )
    return sweep_changed(fhir, repository, reviews, overlap)


def _follow(fhir: FhirClient, queue: WorkQueue, repository: Repository, task: Json) -> None:
    if outcome_of(task) is None:
        return
    if _pending(task):
        queue.enqueue_chore(CORRECT_SR, task["id"], {"task_id": task["id"]})
    if repository.review(task["id"]) is not None:
        return
    decided = read_decided(fhir, task)
    if decided is None:
        return
    repository.record_review(
        ReviewOutcome(
            task_id=decided.task_id,
            service=decided.service,
            model_id=decided.model.id,
            model_version=decided.model.version,
            settings_hash=decided.model.settings_hash,
            outcome=decided.outcome,
            differences=[_difference(d) for d in decided.differences],
            decided_at=decided.decided_at,
        )
    )


def _difference(item: Difference) -> Json:
    """One difference as a row keeps it; of a category also which it was and is."""
    found: Json = {"name": item.name, "region": str(item.region), "difference": item.difference}
    if item.now:
        found |= {"from": item.was, "to": item.now}
    return found


def _pending(task: Json) -> bool:
    coded = task.get("businessStatus", {}).get("coding", [])
    return any(coding.get("code") == "sr-pending" for coding in coded)


def _with_sources(result: ServiceResult, first: Dataset) -> ServiceResult:
    """The result with the instances that the SR names as its evidence, by series."""
    found: dict[str, tuple[str, ...]] = {}
    for study in first.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            uids = (str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence)
            found[str(series.SeriesInstanceUID)] = tuple(sorted(uids))
    main = found.pop(result.series_instance_uid, ())
    if not main:
        raise UnprocessableError("the first SR names no instance", code="no-slices")
    further = tuple(SeriesSource(uid, uids) for uid, uids in sorted(found.items()))
    return replace(result, sop_instance_uids=main, further=further)


def _by_hand(trail: Json) -> frozenset[tuple[str, Region]]:
    readings = (read_member(kept) for kept in machine_values(trail).values())
    return frozenset((r.name, r.region) for r in readings if r is not None)


def _component(text: str) -> str:
    """A component of a person name: at most 64 characters in all, half for each of two."""
    return _NOT_IN_NAMES.sub(" ", text).strip()[:31]


def _id(reference: Json) -> str:
    return str(reference["reference"]).partition("/")[2].partition("/")[0]
