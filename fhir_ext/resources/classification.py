"""Observation of a classification: the category, and the probability of every category.

R4 has no place for probabilities of a coded value: each is a component, whose code names the
category. A refused classification has `dataAbsentReason` as a withheld number has.
"""

from __future__ import annotations

from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import result_id
from fhir_ext.resources.observation import (
    absent_reason,
    component,
    dicom_identifier,
    inference_identifier,
    observation,
    refusal_text,
)
from fhir_ext.results import Classification, ServiceResult

Json = dict[str, Any]

PROFILE = "imaging-classification"


def classification(result: ServiceResult, item: Classification, context: WriteContext) -> Json:
    """The Observation of one classification.

    Args:
        result: the work that it came from: model, inference key, status of the study.
        item: the category, or why there is none.
        context: patient, study and time.

    Raises:
        KeyError: the classification, its category or its region has no code.
    """
    resource = observation(result, context, _id(result, item), PROFILE)
    resource["identifier"] = [inference_identifier(result)]
    if context.sr_instance_uid:
        resource["identifier"].append(dicom_identifier(context.sr_instance_uid))
    resource["code"] = concept(
        codes.CLASSIFICATION.coding(item.name), codes.STANDARD_CLASSIFICATION[item.name]
    )
    resource["bodySite"] = concept(codes.CLASSIFIED_SITE[item.region])
    if item.chosen is not None:
        system = codes.CATEGORIES[item.name]
        resource["valueCodeableConcept"] = concept(
            system.coding(item.chosen), codes.STANDARD_CATEGORY[item.name][item.chosen]
        )
        resource["component"] = [
            _probability(item.name, category, value)
            for category, value in zip(item.categories, item.probabilities, strict=True)
        ]
    elif item.refusal is not None:
        resource["dataAbsentReason"] = absent_reason(item.refusal)
        resource["note"] = [{"text": refusal_text(item.refusal)}]
    return resource


def classification_reference(result: ServiceResult, item: Classification) -> Json:
    """Reference to the Observation of a classification."""
    return {"reference": f"Observation/{_id(result, item)}"}


def _id(result: ServiceResult, item: Classification) -> str:
    return result_id(result.inference_key, "classification", item.name, str(item.region))


def _probability(name: str, category: str, value: float) -> Json:
    code = codes.CLASSIFICATION.coding(f"{name}-{category}-probability")
    quantity = {"value": round(value, 6), "system": codes.UCUM, "code": "1"}
    return component(code, valueQuantity=quantity)
