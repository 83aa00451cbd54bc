"""DetectedIssue: something a human should look at."""

from __future__ import annotations

from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import result_id
from fhir_ext.resources.observation import (
    device_reference,
    evidence_references,
    inference_identifier,
    meta,
    panel_reference,
)
from fhir_ext.results import Issue, ServiceResult

Json = dict[str, Any]


def is_known(issue: Issue, context: WriteContext) -> bool:
    """Whether the problem list already says what the issue would say."""
    return issue.known_condition is not None and issue.known_condition in context.known_conditions


def detected_issue(result: ServiceResult, issue: Issue, context: WriteContext) -> Json:
    """A preliminary DetectedIssue with the measurements as its evidence.

    Raises:
        KeyError: the issue has no code.
    """
    evidence: Json = {"detail": evidence_references(result, issue.evidence, issue.region)}
    if issue.code in codes.ISSUE_EVIDENCE:
        evidence["code"] = [concept(codes.ISSUE_EVIDENCE[issue.code])]
    return {
        "resourceType": "DetectedIssue",
        "id": result_id(result.inference_key, "issue", issue.code),
        "meta": meta("ai-detected-issue"),
        "identifier": [inference_identifier(result)],
        "status": "preliminary",
        "code": concept(codes.DETECTED_ISSUE.coding(issue.code)),
        "severity": issue.severity,
        "patient": context.patient,
        "identifiedDateTime": context.issued_instant,
        "author": device_reference(result),
        "implicated": [panel_reference(result)],
        "evidence": [evidence],
        "detail": issue.detail,
    }
