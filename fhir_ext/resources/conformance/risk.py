"""Profile and extension of risk scores."""

from __future__ import annotations

from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.conformance.elements import (
    R4,
    bound,
    element,
    local_coding,
    profile,
    required,
    sliced,
)

Json = dict[str, Any]


def _part(name: str, minimum: int, types: tuple[str, ...], **rules: Any) -> tuple[Json, ...]:
    """A nested extension of the extension `risk-input`."""
    root = f"Extension.extension:{name}"
    return (
        {
            "id": root,
            "path": "Extension.extension",
            "sliceName": name,
            "min": minimum,
            "max": "1",
        },
        {"id": f"{root}.extension", "path": "Extension.extension.extension", "max": "0"},
        {"id": f"{root}.url", "path": "Extension.extension.url", "fixedUri": name},
        {
            "id": f"{root}.value[x]",
            "path": "Extension.extension.value[x]",
            "min": 1,
            "type": [{"code": code} for code in types],
            **rules,
        },
    )


RISK_INPUT: Final[Json] = {
    "resourceType": "StructureDefinition",
    "id": "fhir-ext-risk-input",
    "url": codes.RISK_INPUT_EXTENSION,
    "name": "FhirExtRiskInput",
    "title": "Input of a risk score",
    "description": "One value that a risk score was computed from, and where it came from.",
    "fhirVersion": "4.0.1",
    "kind": "complex-type",
    "abstract": False,
    "context": [{"type": "element", "expression": "RiskAssessment"}],
    "type": "Extension",
    "baseDefinition": f"{R4}/Extension",
    "derivation": "constraint",
    "differential": {
        "element": [
            {"id": "Extension", "path": "Extension"},
            {
                "id": "Extension.extension",
                "path": "Extension.extension",
                "slicing": {
                    "discriminator": [{"type": "value", "path": "url"}],
                    "rules": "closed",
                },
                "min": 3,
            },
            *_part("name", 1, ("code",), binding=bound(codes.RISK_INPUT)),
            *_part("value", 1, ("Quantity", "boolean", "code", "integer")),
            *_part("source", 1, ("code",), binding=bound(codes.RISK_INPUT_SOURCE)),
            *_part("date", 0, ("dateTime",)),
            *_part("reference", 0, ("Reference",)),
            *_part("preliminary", 0, ("boolean",)),
            {
                "id": "Extension.url",
                "path": "Extension.url",
                "fixedUri": codes.RISK_INPUT_EXTENSION,
            },
            {"id": "Extension.value[x]", "path": "Extension.value[x]", "max": "0"},
        ]
    },
}

RISK_SCORE: Final = profile(
    "risk-score",
    "RiskAssessment",
    "Risk score",
    "A probability in percent by a published model, with every input it was computed from.",
    element(
        "RiskAssessment.extension",
        slicing=sliced("value", "url"),
        min=1,
    ),
    {
        "id": "RiskAssessment.extension:input",
        "path": "RiskAssessment.extension",
        "sliceName": "input",
        "min": 1,
        "max": "*",
        "type": [{"code": "Extension", "profile": [codes.RISK_INPUT_EXTENSION]}],
    },
    required("RiskAssessment.method"),
    *local_coding("RiskAssessment.method", codes.RISK_MODEL),
    required("RiskAssessment.code", binding=bound(codes.RISK_OUTCOME)),
    required("RiskAssessment.occurrence[x]", type=[{"code": "dateTime"}]),
    required("RiskAssessment.prediction"),
    required("RiskAssessment.prediction.outcome", binding=bound(codes.RISK_OUTCOME)),
    required("RiskAssessment.prediction.probability[x]", type=[{"code": "decimal"}]),
    element("RiskAssessment.mitigation", max="0"),
    required("RiskAssessment.note"),
)

RISK_PROFILES: Final = (RISK_INPUT, RISK_SCORE)
