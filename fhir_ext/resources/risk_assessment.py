"""RiskAssessment: a qualitative risk that follows from measurements."""

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
)
from fhir_ext.results import Risk, ServiceResult

Json = dict[str, Any]


def risk_assessment(result: ServiceResult, risk: Risk, context: WriteContext) -> Json:
    """A preliminary RiskAssessment without a probability: there is none to give.

    Raises:
        KeyError: the outcome has no code.
    """
    outcome = [codes.RISK_OUTCOME.coding(risk.outcome)]
    if risk.outcome in codes.STANDARD_OUTCOME:
        outcome.append(codes.STANDARD_OUTCOME[risk.outcome])
    resource: Json = {
        "resourceType": "RiskAssessment",
        "id": result_id(result.inference_key, "risk", risk.outcome),
        "meta": meta("ai-risk-assessment"),
        "identifier": [inference_identifier(result)],
        "status": "preliminary",
        "method": {"text": f"{result.model.title}, {result.model.id} {result.model.version}"},
        "code": concept(codes.RISK_OUTCOME.coding(risk.outcome)),
        "subject": context.patient,
        "performer": device_reference(result),
        "basis": evidence_references(result, risk.basis),
        "prediction": [
            {
                "outcome": concept(*outcome),
                "qualitativeRisk": concept(codes.RISK_PROBABILITY[risk.qualitative]),
                "rationale": risk.rationale,
            }
        ],
    }
    if context.started:
        resource["occurrenceDateTime"] = context.started
    return resource
