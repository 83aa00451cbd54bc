"""The only home of ids: everything that is written has an id that follows from what it says.

    imaging_study_id   Study Instance UID
    inference_key      what was looked at and by which model version
      result_id        inference key, kind and part: the same work gives the same resources
      dicom_uid        inference key and kind: the same work gives the same DICOM objects
    device_id          model version
    parked_task_id     ImagingStudy
    risk_score_id      patient, model, inputs and date of a score
    review_*           review Task: one of its reviews can win, so all of them derive from it
    recall_*           model version, and the Provenance of the piece of work that is withdrawn

Resource ids are version 5 UUIDs under `NAMESPACE`; UIDs are UUIDs under 2.25 (PS3.5 B.2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from fhir_ext.resources.codes import CANONICAL
from fhir_ext.results import ModelIdentity, RiskScore

#: Never changed: every id that was ever written hangs on it.
NAMESPACE: Final = uuid5(NAMESPACE_URL, CANONICAL)


def _uuid(kind: str, *parts: str) -> UUID:
    # JSON keeps ("a/b", "c") and ("a", "b/c") apart.
    return uuid5(NAMESPACE, json.dumps([kind, *parts]))


def imaging_study_id(study_instance_uid: str) -> str:
    """Id of the ImagingStudy of a DICOM study."""
    return str(_uuid("ImagingStudy", study_instance_uid))


def inference_key(
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uids: Iterable[str],
    model: ModelIdentity,
    priors: Iterable[str] = (),
) -> str:
    """What identifies one piece of work: its input and the model version, nothing else.

    Args:
        sop_instance_uids: every instance of the series that was there, in any order.
        priors: Study Instance UIDs of earlier studies that were used, in any order.

    Returns:
        sha256 in hexadecimal.
    """
    work = {
        "study": study_instance_uid,
        "series": series_instance_uid,
        "instances": sorted(set(sop_instance_uids)),
        "model": [model.id, model.version, model.settings_hash],
        "priors": sorted(set(priors)),
    }
    text = json.dumps(work, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def result_id(inference_key: str, kind: str, *parts: str) -> str:
    """Id of a resource that a piece of work writes.

    Args:
        kind: `panel`, `measurement`, `risk`, `issue`, `task`, `provenance` or `audit`.
        parts: what tells several resources of a kind apart.
    """
    return str(_uuid("result", inference_key, kind, *parts))


def task_id(inference_key: str) -> str:
    """Id of the Task that asks for a review of a piece of work."""
    return result_id(inference_key, "task")


def device_id(model: ModelIdentity) -> str:
    """Id of the Device of one exact model version."""
    return str(_uuid("Device", model.id, model.version, model.settings_hash))


def software_device_id(version: str) -> str:
    """Id of the Device of this software."""
    return str(_uuid("Device", "fhir-ext", version))


def parked_task_id(imaging_study_id: str) -> str:
    """Id of the Task of a study that cannot go on; there is one, whatever the reason."""
    return str(_uuid("Task", "parked", imaging_study_id))


def access_event_id(request_id: str, patient: str | None) -> str:
    """Id of the AuditEvent of one access to one patient's data, or to no patient's."""
    return str(_uuid("AuditEvent", "access", request_id, *([patient] if patient else [])))


def model_event_id(service: str, version: str, at: str, action: str) -> str:
    """Id of what the audit says of one change of a model version.

    Args:
        at: when, as ISO 8601.
    """
    return str(_uuid("ModelEvent", service, version, at, action))


def parked_chore_id(name: str, key: str) -> str:
    """Id of the Task of a chore that cannot be done."""
    return str(_uuid("Task", "parked-chore", name, key))


def model_alert_id(service: str, version: str, settings_hash: str, kind: str, period: int) -> str:
    """Id of the DetectedIssue of one kind of change in a model version, once in a period."""
    return str(_uuid("DetectedIssue", "drift", service, version, settings_hash, kind, str(period)))


def risk_score_id(patient_id: str | None, score: RiskScore) -> str:
    """Id of the RiskAssessment of a score: the same person, inputs, model and date, the same id."""
    inputs = [
        [i.name, i.value, i.unit, i.source, i.date, i.reference, i.preliminary]
        for i in score.inputs
    ]
    what = json.dumps([score.model, score.version, score.as_of, inputs], separators=(",", ":"))
    return str(_uuid("RiskAssessment", "score", patient_id or "", what))


def risk_provenance_id(assessment_id: str) -> str:
    """Id of the Provenance of a kept score."""
    return str(_uuid("Provenance", "score", assessment_id))


def dicom_uid(inference_key: str, kind: str) -> str:
    """UID of a DICOM object or item that a piece of work writes: 2.25 and a UUID (PS3.5 B.2).

    Args:
        kind: `sr`, `sr-series`, `observer` or `tracking/<region>`.
    """
    return f"2.25.{_uuid('dicom', inference_key, kind).int}"


def review_provenance_id(task_id: str, reviewer: str, outcome: str) -> str:
    """Id of the Provenance of a decided review.

    Args:
        reviewer: reference or subject of who decided.
        outcome: code in `codes.REVIEW_OUTCOME`.
    """
    return str(_uuid("review", task_id, "provenance", reviewer, outcome))


def review_dicom_uid(task_id: str, kind: str) -> str:
    """UID of a DICOM object that follows from a review (PS3.5 B.2).

    Args:
        kind: `sr` for the corrected SR; `rejection` and `rejection-series` for the note
            that withdraws the first.
    """
    return f"2.25.{_uuid('review-dicom', task_id, kind).int}"


def model_card_id(model: ModelIdentity) -> str:
    """Id of the DocumentReference that holds the card of one exact model version."""
    return str(_uuid("DocumentReference", "model-card", device_id(model)))


def recall_task_id(device_id: str) -> str:
    """Id of the Task of a recall; a version is recalled once."""
    return str(_uuid("Task", "model-recall", device_id))


def recall_provenance_id(provenance_id: str) -> str:
    """Id of the Provenance of what a recall withdrew of one piece of work.

    Args:
        provenance_id: of the Provenance that the piece of work wrote.
    """
    return str(_uuid("Provenance", "model-recall", provenance_id))


def recall_review_id(provenance_id: str) -> str:
    """Id of the Task that asks a human what becomes of a signed piece of work."""
    return str(_uuid("Task", "recall-review", provenance_id))


def recall_dicom_uid(provenance_id: str, kind: str) -> str:
    """UID of the note that withdraws the DICOM objects of one piece of work (PS3.5 B.2).

    Args:
        provenance_id: of the Provenance that the piece of work wrote.
        kind: `rejection` and `rejection-series`.
    """
    return f"2.25.{_uuid('recall-dicom', provenance_id, kind).int}"
