"""Task: what a human is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept, profile, resource_type
from fhir_ext.resources.context import WriteContext, instant
from fhir_ext.resources.ids import parked_chore_id, parked_task_id, task_id
from fhir_ext.resources.observation import (
    device_reference,
    inference_identifier,
    panel_reference,
)
from fhir_ext.results import ServiceResult

Json = dict[str, Any]

#: Reasons that speak of a study in the archive, not of our own steps.
_INCOMPLETE: Final = frozenset({"incomplete-study", "not-in-archive"})


def review_task(
    result: ServiceResult, raised: Sequence[Json], context: WriteContext
) -> Json | None:
    """The Task that asks for a review, or None when the model's policy asks for none.

    A refused result is no result to review. What the service said itself (`result.review`)
    goes before the policy.

    Args:
        raised: references to the RiskAssessments and DetectedIssues that were written.
    """
    policy = result.model.review
    wanted = policy == "always" or (policy == "rule" and bool(raised))
    if result.review is not None:
        wanted = result.review
    if result.status == "refused" or not wanted:
        return None
    reason = "policy-always" if policy == "always" else "policy-rule"
    subject = panel_reference(result)
    return {
        "resourceType": "Task",
        "id": task_id(result.inference_key),
        "meta": {"profile": [profile("review-task")]},
        "identifier": [inference_identifier(result)],
        "status": "requested",
        "intent": "order",
        "priority": "routine",
        "code": concept(codes.TASK_TYPE.coding("review-ai-result")),
        "description": f"Review the preliminary result of {result.model.title}.",
        "focus": subject,
        "for": context.patient,
        "authoredOn": context.issued_instant,
        "requester": device_reference(result),
        "reasonCode": concept(codes.TASK_REASON.coding(reason)),
        "input": [
            {
                "type": concept(resource_type(item["reference"].partition("/")[0])),
                "valueReference": item,
            }
            for item in (subject, *raised)
        ],
    }


def parked_task(
    imaging_study_id: str,
    *,
    patient_reference: str | None,
    step: str,
    code: str,
    text: str,
    authored: datetime,
) -> Json:
    """The Task of a study that cannot go on: incomplete, or a step gave up.

    Args:
        imaging_study_id: id of the ImagingStudy.
        patient_reference: its subject, when known.
        step: name of the step.
        code: code in `codes.TASK_REASON`; `other` stands in for one that is not there.
        text: one sentence for an operator, without patient data.
        authored: when it was parked; aware.
    """
    kind = "incomplete-study" if code in _INCOMPLETE else "stuck-work"
    study = {"reference": f"ImagingStudy/{imaging_study_id}"}
    task: Json = {
        "resourceType": "Task",
        "id": parked_task_id(imaging_study_id),
        "identifier": [
            {"system": f"{codes.CANONICAL}/identifier/parked-study", "value": imaging_study_id}
        ],
        "status": "requested",
        "intent": "order",
        "priority": "routine",
        "code": concept(codes.TASK_TYPE.coding(kind)),
        "description": f"Step {step}: {text or code}",
        "focus": study,
        "authoredOn": instant(authored),
        "reasonCode": concept(codes.TASK_REASON.coding_or_other(code), text=code),
        "input": [
            {
                "type": {"text": "command that resumes the work"},
                "valueString": f"fhir-ext analyze {imaging_study_id}",
            }
        ],
    }
    if patient_reference:
        task["for"] = {"reference": patient_reference}
    return task


def parked_chore_task(name: str, key: str, code: str, text: str, authored: datetime) -> Json:
    """The Task of a chore (an audit entry, a new score, a corrected SR) that cannot be done.

    Args:
        name: name of the chore.
        key: what it is about, as the queue names it.
        code: code in `codes.TASK_REASON`; `other` stands in for one that is not there.
        text: one sentence for an operator, without patient data.
        authored: when it was parked; aware.
    """
    return {
        "resourceType": "Task",
        "id": parked_chore_id(name, key),
        "status": "requested",
        "intent": "order",
        "priority": "routine",
        "code": concept(codes.TASK_TYPE.coding("stuck-work")),
        "description": f"Chore {name}: {text or code}",
        "authoredOn": instant(authored),
        "reasonCode": concept(codes.TASK_REASON.coding_or_other(code), text=code),
        "input": [
            {
                "type": {"text": "command that resumes the work"},
                "valueString": f"fhir-ext retry-chore {name}/{key}",
            }
        ],
    }
