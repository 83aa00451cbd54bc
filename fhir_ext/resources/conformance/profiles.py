"""Profiles of what the result builders write: modest differentials on R4 4.0.1."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.codes import CANONICAL, Coding, LocalSystem, naming, profile

Json = dict[str, Any]

_R4: Final = "http://hl7.org/fhir/StructureDefinition"


def _profile(name: str, base: str, title: str, description: str, *elements: Json) -> Json:
    return {
        "resourceType": "StructureDefinition",
        "id": f"fhir-ext-{name}",
        "url": profile(name),
        "name": "FhirExt" + "".join(part.capitalize() for part in name.split("-")),
        "title": title,
        "description": description,
        "fhirVersion": "4.0.1",
        "kind": "resource",
        "abstract": False,
        "type": base,
        "baseDefinition": f"{_R4}/{base}",
        "derivation": "constraint",
        "differential": {"element": [{"id": base, "path": base}, *elements]},
    }


def _element(path: str, **rules: Any) -> Json:
    return {"id": path, "path": path, **rules}


def _required(path: str, *targets: str, **rules: Any) -> Json:
    found = _element(path, min=1, **rules)
    if targets:
        found["type"] = [
            {"code": "Reference", "targetProfile": [f"{_R4}/{target}" for target in targets]}
        ]
    return found


def _pattern(coding: Coding) -> Json:
    return {"coding": [{"system": coding.system, "code": coding.code}]}


def _bound(system: LocalSystem) -> Json:
    return {"strength": "required", "valueSet": f"{CANONICAL}/ValueSet/{system.id}"}


def _local_coding(path: str, system: LocalSystem) -> tuple[Json, ...]:
    """One coding must be ours; others may say the same in other words.

    The binding sits on the coding: bound as a whole, a concept with a further coding in a
    system that the validator does not know is refused.
    """
    return (
        {
            "id": f"{path}.coding",
            "path": f"{path}.coding",
            "slicing": {
                "discriminator": [{"type": "value", "path": "system"}],
                "rules": "open",
            },
            "min": 1,
        },
        {
            "id": f"{path}.coding:local",
            "path": f"{path}.coding",
            "sliceName": "local",
            "min": 1,
            "max": "1",
            "binding": _bound(system),
        },
        {
            "id": f"{path}.coding:local.system",
            "path": f"{path}.coding.system",
            "min": 1,
            "fixedUri": system.url,
        },
    )


def site_coding(path: str, kind: str) -> tuple[Json, ...]:
    """One coding must be in a site's own system, whose codes nobody but the site defines."""
    return (
        {
            "id": f"{path}.coding",
            "path": f"{path}.coding",
            "slicing": {
                "discriminator": [{"type": "value", "path": "system"}],
                "rules": "open",
            },
            "min": 1,
        },
        {
            "id": f"{path}.coding:site",
            "path": f"{path}.coding",
            "sliceName": "site",
            "min": 1,
            "max": "1",
        },
        {
            "id": f"{path}.coding:site.system",
            "path": f"{path}.coding.system",
            "min": 1,
            "fixedUri": naming.site_system(kind),
        },
        {"id": f"{path}.coding:site.code", "path": f"{path}.coding.code", "min": 1},
    )


def _observation(*elements: Json) -> tuple[Json, ...]:
    """What panel and members have in common, around what is their own, in R4's order."""
    return (
        _required("Observation.meta.security"),
        _element("Observation.category", patternCodeableConcept=_pattern(codes.CATEGORY_IMAGING)),
        *elements,
    )


_SERIES: Final = codes.SERIES_INSTANCE_UID


def _panel(name: str) -> Json:
    """Profile of the panel of one service."""
    coding = codes.MEASUREMENT.coding(name)
    return panel_profile(
        name,
        coding.display if coding.display.endswith("panel") else f"{coding.display}: panel",
        "Groups what one model version said of one series or study.",
        _element("Observation.code", patternCodeableConcept=_pattern(coding)),
    )


def panel_profile(name: str, title: str, description: str, *code: Json) -> Json:
    """Profile of a panel; `code` says what it may be called."""
    return _profile(
        name,
        "Observation",
        title,
        description,
        *_observation(
            *code,
            _required("Observation.subject", "Patient"),
            _element("Observation.value[x]", max="0"),
            _required("Observation.device", "Device"),
            _required("Observation.hasMember", "Observation"),
            _required("Observation.derivedFrom", "ImagingStudy"),
            _element(
                "Observation.component",
                min=1,
                slicing={
                    "discriminator": [{"type": "pattern", "path": "code"}],
                    "rules": "open",
                },
            ),
            {
                "id": "Observation.component:series",
                "path": "Observation.component",
                "sliceName": "series",
                "min": 1,
                "max": "1",
            },
            {
                "id": "Observation.component:series.code",
                "path": "Observation.component.code",
                "patternCodeableConcept": _pattern(_SERIES),
            },
            {
                "id": "Observation.component:series.value[x]",
                "path": "Observation.component.value[x]",
                "min": 1,
                "type": [{"code": "string"}],
            },
        ),
    )


PANELS: Final = tuple(_panel(name) for name in codes.PANEL.values())

MEASUREMENT: Final = _profile(
    "imaging-measurement",
    "Observation",
    "Measurement on images",
    "One number of a model in one region, or the coded reason why it is withheld.",
    *_observation(
        *_local_coding("Observation.code", codes.MEASUREMENT),
        _required("Observation.subject", "Patient"),
        _element("Observation.value[x]", type=[{"code": "Quantity"}]),
        _required("Observation.bodySite"),
        _required("Observation.device", "Device"),
        _required("Observation.derivedFrom", "ImagingStudy"),
    ),
)

RISK_ASSESSMENT: Final = _profile(
    "ai-risk-assessment",
    "RiskAssessment",
    "Risk assessment by a model",
    "A qualitative risk with its rule and the measurements it rests on; no probability.",
    _required("RiskAssessment.meta.security"),
    _required("RiskAssessment.method"),
    _required("RiskAssessment.code", binding=_bound(codes.RISK_OUTCOME)),
    _element(
        "RiskAssessment.subject",
        type=[{"code": "Reference", "targetProfile": [f"{_R4}/Patient"]}],
    ),
    _required("RiskAssessment.performer", "Device"),
    _required("RiskAssessment.basis"),
    _required("RiskAssessment.prediction"),
    _required("RiskAssessment.prediction.outcome"),
    _element("RiskAssessment.prediction.probability[x]", max="0"),
    _required("RiskAssessment.prediction.qualitativeRisk"),
    _required("RiskAssessment.prediction.rationale"),
)

DETECTED_ISSUE: Final = _profile(
    "ai-detected-issue",
    "DetectedIssue",
    "Issue detected by a model",
    "Something a human should look at, with the measurements as its evidence.",
    _required("DetectedIssue.meta.security"),
    _required("DetectedIssue.code", binding=_bound(codes.DETECTED_ISSUE)),
    _required("DetectedIssue.severity"),
    _required("DetectedIssue.patient"),
    _required("DetectedIssue.author", "Device"),
    _required("DetectedIssue.implicated"),
    _required("DetectedIssue.evidence"),
    _required("DetectedIssue.evidence.detail"),
)

REVIEW_TASK: Final = _profile(
    "review-task",
    "Task",
    "Review of a result",
    "Asks a human to accept, modify or reject a preliminary result.",
    _required(
        "Task.code",
        patternCodeableConcept=_pattern(codes.TASK_TYPE.coding("review-ai-result")),
    ),
    _required("Task.focus", "Observation"),
    _required("Task.for", "Patient"),
    _required("Task.authoredOn"),
    _required("Task.requester", "Device"),
    _required("Task.reasonCode", binding=_bound(codes.TASK_REASON)),
    _required("Task.input"),
)

PROFILES: Final = (*PANELS, MEASUREMENT, RISK_ASSESSMENT, DETECTED_ISSUE, REVIEW_TASK)
