"""Profiles of what follows from results, of reviews, and of drift."""

from __future__ import annotations

from typing import Final

from fhir_ext.resources import codes
from fhir_ext.resources.conformance.elements import R4, bound, element, pattern, profile, required

RISK_ASSESSMENT: Final = profile(
    "ai-risk-assessment",
    "RiskAssessment",
    "Risk assessment by a model",
    "A qualitative risk with its rule and the measurements it rests on; no probability.",
    required("RiskAssessment.meta.security"),
    required("RiskAssessment.method"),
    required("RiskAssessment.code", binding=bound(codes.RISK_OUTCOME)),
    element(
        "RiskAssessment.subject",
        type=[{"code": "Reference", "targetProfile": [f"{R4}/Patient"]}],
    ),
    required("RiskAssessment.performer", "Device"),
    required("RiskAssessment.basis"),
    required("RiskAssessment.prediction"),
    required("RiskAssessment.prediction.outcome"),
    element("RiskAssessment.prediction.probability[x]", max="0"),
    required("RiskAssessment.prediction.qualitativeRisk"),
    required("RiskAssessment.prediction.rationale"),
)

DETECTED_ISSUE: Final = profile(
    "ai-detected-issue",
    "DetectedIssue",
    "Issue detected by a model",
    "Something a human should look at, with the measurements as its evidence.",
    required("DetectedIssue.meta.security"),
    required("DetectedIssue.code", binding=bound(codes.DETECTED_ISSUE)),
    required("DetectedIssue.severity"),
    required("DetectedIssue.patient"),
    required("DetectedIssue.author", "Device"),
    required("DetectedIssue.implicated"),
    required("DetectedIssue.evidence"),
    required("DetectedIssue.evidence.detail"),
)

REVIEW_TASK: Final = profile(
    "review-task",
    "Task",
    "Review of a result",
    "Asks a human to accept, modify or reject a preliminary result.",
    required(
        "Task.code",
        patternCodeableConcept=pattern(codes.TASK_TYPE.coding("review-ai-result")),
    ),
    required("Task.focus", "Observation"),
    required("Task.for", "Patient"),
    required("Task.authoredOn"),
    required("Task.requester", "Device"),
    required("Task.reasonCode", binding=bound(codes.TASK_REASON)),
    required("Task.input"),
)

MODEL_DRIFT_ISSUE: Final = profile(
    "model-drift-issue",
    "DetectedIssue",
    "Drift of a model",
    "What changed over many results of one model version; about no patient.",
    required(
        "DetectedIssue.code",
        patternCodeableConcept=pattern(codes.MODEL_ALERT.coding("model-drift")),
    ),
    required("DetectedIssue.severity"),
    element("DetectedIssue.patient", max="0"),
    required("DetectedIssue.identified[x]"),
    required("DetectedIssue.author", "Device"),
    required("DetectedIssue.implicated", "Device"),
    required("DetectedIssue.evidence"),
    required("DetectedIssue.evidence.code", binding=bound(codes.MODEL_ALERT)),
    required("DetectedIssue.detail"),
)

PROFILES: Final = (RISK_ASSESSMENT, DETECTED_ISSUE, REVIEW_TASK, MODEL_DRIFT_ISSUE)
