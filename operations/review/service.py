"""`$review`, `$claim` and `$release` of a review Task; no HTTP.

Nothing is kept here: the Task says whether it is decided, by whom and how. A write goes out
with the versions that were read, and is tried again from the reading when HAPI reports a
conflict, so that of several reviewers one wins and the others are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import fhir_ext
from fhir_ext.clients.fhir import CONFLICT_WAITS, FhirClient
from fhir_ext.errors import (
    ConflictError,
    ForbiddenError,
    OutcomeIssue,
    PreconditionFailed,
    UnprocessableError,
)
from fhir_ext.logs import event, get_logger
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import transaction, update_entry
from fhir_ext.resources.codes import concept
from fhir_ext.resources.context import instant
from fhir_ext.resources.reading import read_member
from fhir_ext.resources.review import (
    UNSIGNED,
    ChosenCategory,
    Decision,
    Reviewed,
    Reviewer,
    review_bundle,
)
from fhir_ext.resources.review_reading import (
    is_of_ours,
    outcome_of,
    output_of,
    read_reviewed,
    service_of,
)
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.effects import Conclusions, categories_of, unit_of
from operations.review.parameters import Change, ReviewRequest

log = get_logger(__name__)

Json = dict[str, Any]

#: Chore that brings the archive in line with a decision; its key is the Task's id.
CORRECT_SR: Final = "correct-sr"

#: Statuses of a Task that can be claimed and decided.
OPEN: Final = frozenset({"requested", "received", "accepted", "ready", "in-progress", "on-hold"})

#: What a change is for, in words.
_WORDS: Final = {"measurement": "number", "classification": "category", "detection": "place"}

#: Raises ForbiddenError unless the caller may see a patient.
Allow = Callable[[str], None]


class ChoreQueue(Protocol):
    """The part of the queue that is needed."""

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str: ...


@dataclass(frozen=True, slots=True)
class ReviewService:
    """Decides review Tasks. Safe to share between threads.

    Attributes:
        queue: where the work on the archive is put.
        registry: whose services say what follows from changed numbers.
    """

    fhir: FhirClient
    queue: ChoreQueue
    registry: Registry
    metrics: Metrics
    software_version: str = field(default=fhir_ext.__version__)

    def review(
        self, task_id: str, reviewer: Reviewer, request: ReviewRequest, version: str, allow: Allow
    ) -> Json:
        """Decide a Task, or find that the same decision stands already.

        Args:
            version: of the Task that the reviewer looked at.

        Returns:
            The Task as it stands.

        Raises:
            NotFoundError: no such Task.
            ForbiddenError: the caller may not see its patient.
            PreconditionFailed: the Task has another version, and is not decided.
            ConflictError: decided otherwise, claimed by somebody else, or superseded.
            UnprocessableError: no review Task, or a change that does not fit its target.
            UpstreamError: HAPI is down.
        """
        moment = datetime.now(UTC)
        for wait in CONFLICT_WAITS:
            task = self._task(task_id, allow)
            if task["status"] == "completed":
                return self._repeated(task, reviewer, request)
            self._check_open(task)
            _check_version(task, version)
            _check_owner(task, reviewer)
            reviewed = read_reviewed(self.fhir, task)
            if reviewed is None or reviewed.panel["status"] not in UNSIGNED:
                raise ConflictError("the result was superseded or withdrawn", code="review-closed")
            decision = self._decision(reviewed, reviewer, request, moment)
            conclusions = Conclusions(self.fhir, self.registry).follow(reviewed, decision)
            bundle = review_bundle(reviewed, decision, conclusions, self.software_version)
            try:
                self.fhir.transaction_once(bundle, replace_labels=True)
            except ConflictError:
                time.sleep(wait)
                continue
            return self._decided(task_id, reviewed, request)
        raise ConflictError("others keep writing the same resources", code="write-conflict")

    def claim(self, task_id: str, reviewer: Reviewer, version: str | None, allow: Allow) -> Json:
        """Make the caller the owner of a Task.

        Args:
            version: checked when the caller gives one.

        Raises:
            ConflictError: decided, closed, or claimed by somebody else.
        """

        def claimed(task: Json) -> Json | None:
            _check_owner(task, reviewer)
            if task.get("owner") == reviewer.reference:
                return None
            return {
                **task,
                "status": "accepted",
                "owner": reviewer.reference,
                "businessStatus": concept(codes.REVIEW_STATUS.coding("claimed")),
            }

        return self._change(task_id, version, allow, claimed)

    def release(
        self,
        task_id: str,
        reviewer: Reviewer,
        version: str | None,
        allow: Allow,
        *,
        administrator: bool = False,
    ) -> Json:
        """Give a claimed Task back; one that nobody has claimed stays as it is.

        Raises:
            ForbiddenError: somebody else has claimed it, and the caller is no administrator.
            ConflictError: decided or closed.
        """

        def released(task: Json) -> Json | None:
            owner = task.get("owner")
            if owner is None:
                return None
            if owner != reviewer.reference and not administrator:
                raise ForbiddenError("somebody else has claimed the Task", code="review-claimed")
            kept = {k: v for k, v in task.items() if k not in ("owner", "businessStatus")}
            return {**kept, "status": "requested"}

        return self._change(task_id, version, allow, released)

    def _change(
        self, task_id: str, version: str | None, allow: Allow, change: Callable[[Json], Json | None]
    ) -> Json:
        """Change an open Task; `change` gives None when nothing is to be done."""
        for wait in CONFLICT_WAITS:
            task = self._task(task_id, allow)
            self._check_open(task)
            changed = change(task)
            if changed is None:
                return task
            if version is not None:
                _check_version(task, version)
            changed["lastModified"] = instant(datetime.now(UTC))
            try:
                self.fhir.transaction_once(transaction([update_entry(changed)]))
            except ConflictError:
                time.sleep(wait)
                continue
            return self.fhir.read("Task", task_id)
        raise ConflictError("others keep writing the same resources", code="write-conflict")

    def _task(self, task_id: str, allow: Allow) -> Json:
        task = self.fhir.read("Task", task_id)
        kind, _, patient_id = task.get("for", {}).get("reference", "").partition("/")
        if kind != "Patient":
            raise UnprocessableError("the Task asks for no review", code="not-a-review")
        allow(patient_id)
        asked = {c.get("code") for c in task.get("code", {}).get("coding", [])}
        if not is_of_ours(task) or codes.TASK_TYPE.coding("review-ai-result").code not in asked:
            raise UnprocessableError("the Task asks for no review", code="not-a-review")
        return task

    def _check_open(self, task: Json) -> None:
        if task["status"] == "completed":
            raise ConflictError("the review is decided", code="review-decided")
        if task["status"] not in OPEN:
            raise ConflictError("the result was superseded or withdrawn", code="review-closed")

    def _repeated(self, task: Json, reviewer: Reviewer, request: ReviewRequest) -> Json:
        """A decided Task, when it was decided like this by the same reviewer."""
        asked = _decision(reviewer, request, datetime.now(UTC), {})
        same = output_of(task, "request-digest").get("valueString") == asked.digest
        if not same or task.get("owner") != reviewer.reference:
            raise ConflictError("the review was decided otherwise", code="review-decided")
        self._enqueue(task)
        return task

    def _decision(
        self, reviewed: Reviewed, reviewer: Reviewer, request: ReviewRequest, moment: datetime
    ) -> Decision:
        members = {member["id"]: member for member in reviewed.members}
        service = service_of(reviewed.panel)
        issues: list[OutcomeIssue] = []
        concepts: dict[str, Json] = {}
        for change in request.changes:
            member = members.get(change.target)
            if change.category is not None and member is not None:
                known = categories_of(member, self.registry, service)
                concepts[change.target] = known.get(change.category, {})
            text = self._misfit(member, change, service, concepts.get(change.target))
            if text:
                place = change.place
                issues.append(OutcomeIssue("invalid", "review-target", text, expression=place))
        if issues:
            raise UnprocessableError("a change does not fit", code="review-target", issues=issues)
        return _decision(reviewer, request, moment, concepts)

    def _misfit(
        self, member: Json | None, change: Change, service: str, concept: Json | None
    ) -> str | None:
        """Why a change does not fit its target; None when it does.

        Args:
            concept: of a category, as it would be written; empty when it is none of them.
        """
        reading = read_member(member) if member is not None else None
        wanted = _kind(change)
        if member is None or reading is None or reading.kind != wanted:
            return f"the target is no {_WORDS[wanted]} of the reviewed result"
        if member["status"] not in UNSIGNED:
            return "the target was signed before"
        if wanted == "classification":
            return _wrong_category(member, concept or {})
        if wanted == "detection":
            return None
        unit = unit_of(member, self.registry, service)
        if unit is None:
            return "the unit of the withheld number is not known here: its model is not installed"
        if change.unit != unit:
            return f"the unit must be {unit}"
        if member.get("valueQuantity", {}).get("value") == change.value:
            return "the number is the one that stands"
        return None

    def _decided(self, task_id: str, reviewed: Reviewed, request: ReviewRequest) -> Json:
        task = self.fhir.read("Task", task_id)
        service = service_of(reviewed.panel)
        self.metrics.review(service, request.outcome)
        event(log, "review-decided", service=service, state=request.outcome)
        self._enqueue(task)
        return task

    def _enqueue(self, task: Json) -> None:
        """Put the work on the archive into the queue; the leader finds what is lost here."""
        waits = {c.get("code") for c in task.get("businessStatus", {}).get("coding", [])}
        if "sr-pending" in waits and outcome_of(task):
            self.queue.enqueue_chore(CORRECT_SR, task["id"], {"task_id": task["id"]})


def _decision(
    reviewer: Reviewer, request: ReviewRequest, moment: datetime, concepts: Mapping[str, Json]
) -> Decision:
    """The decision that a request asks for.

    Args:
        concepts: target to its new category, as it is written.
    """
    changes = request.changes
    return Decision(
        request.outcome,
        reviewer,
        moment,
        request.reason,
        {change.target: _quantity(change) for change in changes if change.value is not None},
        {
            change.target: ChosenCategory(change.category, concepts.get(change.target, {}))
            for change in changes
            if change.category is not None
        },
        frozenset(change.target for change in changes if change.struck),
    )


def _kind(change: Change) -> str:
    """Kind of the member that a change is for."""
    if change.struck:
        return "detection"
    return "measurement" if change.category is None else "classification"


def _wrong_category(member: Json, concept: Json) -> str | None:
    if not concept:
        return "the category is none of those that are known of the classification"
    if member.get("valueCodeableConcept", {}).get("coding", [])[:1] == concept["coding"][:1]:
        return "the category is the one that stands"
    return None


def _quantity(change: Change) -> Json:
    return {
        "value": change.value,
        "unit": codes.UNIT_TEXT.get(change.unit, change.unit),
        "system": codes.UCUM,
        "code": change.unit,
    }


def _check_version(task: Json, version: str) -> None:
    if str(task["meta"]["versionId"]) != version:
        raise PreconditionFailed("If-Match names another version of the Task")


def _check_owner(task: Json, reviewer: Reviewer) -> None:
    owner = task.get("owner")
    if owner is not None and owner != reviewer.reference:
        raise ConflictError("somebody else has claimed the Task", code="review-claimed")
