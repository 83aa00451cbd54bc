"""Observation of a classification: the category, and the probability of every category.

R4 has no place for probabilities of a coded value: each is a component, whose code names the
category. A refused classification has `dataAbsentReason` as a withheld number has.
"""

from __future__ import annotations

from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept, naming
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import result_id
from fhir_ext.resources.observation import (
    body_site,
    component,
    laterality,
    note,
    observation,
    quantity,
    withhold,
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
        KeyError: its region has no code.
    """
    ours = naming.CLASSIFICATIONS.is_ours(result.service, item.name)
    resource = observation(
        result, context, _id(result, item), PROFILE if ours else "site-classification"
    )
    resource["code"] = concept(*naming.classification_codings(result, item))
    site = codes.CLASSIFIED_SITE.get(item.region)
    resource["bodySite"] = body_site(item.region) if site is None else concept(site)
    parts = [] if site is not None else laterality(item.region)
    if item.chosen is not None:
        codings = naming.category_codings(result, item, item.chosen)
        resource["valueCodeableConcept"] = concept(*codings)
        if item.probabilities:
            parts += [
                _probability(result, item, category, value)
                for category, value in zip(item.categories, item.probabilities, strict=True)
            ]
        note(resource, result, item.name)
    elif item.refusal is not None:
        withhold(resource, item.refusal)
    if parts:
        resource["component"] = parts
    return resource


def classification_reference(result: ServiceResult, item: Classification) -> Json:
    """Reference to the Observation of a classification."""
    return {"reference": f"Observation/{_id(result, item)}"}


def _id(result: ServiceResult, item: Classification) -> str:
    return result_id(result.inference_key, "classification", item.name, str(item.region))


def _probability(result: ServiceResult, item: Classification, category: str, value: float) -> Json:
    coding = naming.probability_coding(result, item, category)
    return component(coding, valueQuantity=quantity(round(value, 6), "1"))
