"""Profile of what monitoring says about a model version."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources.codes.monitoring import MODEL_ALERT
from fhir_ext.resources.conformance.profiles import _bound, _element, _pattern, _profile, _required

Json = dict[str, Any]

MODEL_DRIFT_ISSUE: Final = _profile(
    "model-drift-issue",
    "DetectedIssue",
    "Drift of a model",
    "What changed over many results of one model version; about no patient.",
    _required(
        "DetectedIssue.code", patternCodeableConcept=_pattern(MODEL_ALERT.coding("model-drift"))
    ),
    _required("DetectedIssue.severity"),
    _element("DetectedIssue.patient", max="0"),
    _required("DetectedIssue.identified[x]"),
    _required("DetectedIssue.author", "Device"),
    _required("DetectedIssue.implicated", "Device"),
    _required("DetectedIssue.evidence"),
    _required("DetectedIssue.evidence.code", binding=_bound(MODEL_ALERT)),
    _required("DetectedIssue.detail"),
)

MONITORING_PROFILES: Final = (MODEL_DRIFT_ISSUE,)
