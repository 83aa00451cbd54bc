"""Observation: what all results have in common, and one member per measurement and region.

R4 has no Device among `performer`; the model stands in `device`. Anatomy is not part of the
code: it is `bodySite`, with the side once more as a component, so that it can be searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding, concept, naming, profile
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import device_id, dicom_uid, result_id
from fhir_ext.results import Measurement, Refusal, Region, ServiceResult, Uncertainty

Json = dict[str, Any]


def panel_reference(result: ServiceResult) -> Json:
    """Reference to the panel of a result."""
    return {"reference": f"Observation/{result_id(result.inference_key, 'panel')}"}


def measurement_reference(result: ServiceResult, item: Measurement) -> Json:
    """Reference to the member of one measurement."""
    return {"reference": f"Observation/{_measurement_id(result, item)}"}


def device_reference(result: ServiceResult) -> Json:
    """Reference to the Device of the model version."""
    return {"reference": f"Device/{device_id(result.model)}"}


def evidence_references(
    result: ServiceResult, names: Sequence[str], region: Region | None = None
) -> list[Json]:
    """References to the members that a statement about `names` rests on.

    Without a region the number of both lungs speaks for its parts; where there is none, all
    regions are named.

    Raises:
        ValueError: none of the numbers stands, so there is nothing to rest on.
    """
    found = []
    for name in names:
        items = [
            item
            for item in result.measurements
            if item.name == name and item.value is not None and region in (None, item.region)
        ]
        whole = [m for m in items if m.region is Region.LUNGS]
        found += [measurement_reference(result, item) for item in whole or items]
    if not found:
        raise ValueError("a risk or an issue rests on no number that stands")
    return found


def meta(profile_name: str) -> Json:
    """Meta of everything that a model says: its profile and the label AIAST."""
    return {"profile": [profile(profile_name)], "security": [codes.AI_ASSERTED.as_json()]}


def inference_identifier(result: ServiceResult) -> Json:
    """Identifier by which all resources of one piece of work are found."""
    return {"system": codes.INFERENCE_KEY, "value": result.inference_key}


def measurement(result: ServiceResult, item: Measurement, context: WriteContext) -> Json:
    """One member: the number, or why there is none."""
    ours = naming.MEASUREMENTS.is_ours(result.service, item.name)
    name = "imaging-measurement" if ours else "site-measurement"
    resource = observation(result, context, _measurement_id(result, item), name)
    resource["code"] = concept(*naming.measurement_codings(result, item))
    resource["bodySite"] = body_site(item.region)
    if item.refusal is None:
        resource["valueQuantity"] = quantity(item.value, item.unit)
        note(resource, result, item.name)
    else:
        withhold(resource, item.refusal)
    resource["component"] = [
        *laterality(item.region),
        component(codes.TRACKING_UID, valueString=tracking_uid(result, item.region)),
    ]
    if ours and item.name in codes.THRESHOLD_HU:
        threshold = quantity(codes.THRESHOLD_HU[item.name], "[hnsf'U]")
        resource["component"].append(
            component(codes.THRESHOLD_ATTENUATION, valueQuantity=threshold)
        )
    if item.uncertainty is not None:
        resource["component"] += _uncertainty(item.uncertainty, item.unit)
    return resource


def _uncertainty(uncertainty: Uncertainty, unit: str) -> list[Json]:
    """The range as TID 310 of DICOM PS3.16 has it; an interval says its level too."""
    level = uncertainty.level
    text = "One standard deviation"
    if uncertainty.kind == "interval":
        text = "Half of the confidence interval"
    coded = concept(codes.MEASUREMENT_UNCERTAINTY, text=text)
    found = [{"code": coded, "valueQuantity": quantity(uncertainty.value, unit)}]
    if level is not None:
        found.append(
            component(
                codes.RESULT_PART.coding("confidence-level"), valueQuantity=quantity(level, "1")
            )
        )
    return found


def quantity(value: float | None, unit: str) -> Json:
    """Quantity of a number in a UCUM unit."""
    return {
        "value": value,
        "unit": codes.UNIT_TEXT.get(unit, unit),
        "system": codes.UCUM,
        "code": unit,
    }


def withhold(resource: Json, refusal: Refusal) -> None:
    """Say that there is no value, and why."""
    resource["dataAbsentReason"] = absent_reason(refusal)
    resource["note"] = [{"text": refusal_text(refusal)}]


def note(resource: Json, result: ServiceResult, name: str) -> None:
    """What a reader must know beside the output `name`."""
    said = list(dict.fromkeys(text for output, text in result.notes if output == name))
    if said:
        resource["note"] = [{"text": text} for text in said]


def laterality(region: Region) -> list[Json]:
    """The side of a region once more as a component, so that it can be searched."""
    side = codes.REGION_LATERALITY.get(region)
    if side is None:
        return []
    return [component(codes.LATERALITY, valueCodeableConcept=concept(side))]


def tracking_uid(result: ServiceResult, region: Region) -> str:
    """Tracking Unique Identifier of a region, the same in FHIR and in the SR."""
    return dicom_uid(result.inference_key, f"tracking/{region}")


def _measurement_id(result: ServiceResult, item: Measurement) -> str:
    return result_id(result.inference_key, "measurement", item.name, str(item.region))


def observation(
    result: ServiceResult, context: WriteContext, resource_id: str, profile_name: str
) -> Json:
    """What all Observations of a result have in common; it says nothing yet."""
    resource: Json = {
        "resourceType": "Observation",
        "id": resource_id,
        "meta": meta(profile_name),
        # By it the gateway knows the resource as ours.
        "identifier": [inference_identifier(result)],
        "status": "preliminary",
        "category": [concept(codes.CATEGORY_IMAGING)],
        "subject": context.patient,
        "issued": context.issued_instant,
        "device": device_reference(result),
        "derivedFrom": [context.imaging_study],
    }
    if context.started:
        resource["effectiveDateTime"] = context.started
    return resource


def body_site(region: Region) -> Json:
    """SNOMED CT site; one side as an expression of the site and its laterality."""
    site, side = codes.REGION_SITE[region], codes.REGION_LATERALITY.get(region)
    codings = [site]
    if side is not None and side is not codes.BILATERAL:
        refined = Coding(
            codes.SCT,
            f"{site.code}:{codes.LATERALITY.code}={side.code}",
            f"{site.display} : {codes.LATERALITY.display} = {side.display}",
        )
        codings = [refined, site]
    return concept(*codings, text=codes.REGION_TEXT[region])


def absent_reason(refusal: Refusal) -> Json:
    """Observation.dataAbsentReason: the general reason of HL7 and ours."""
    general = codes.ABSENT_ERROR if refusal.rule in codes.FAILED_ANALYSIS else codes.NOT_PERFORMED
    return concept(
        general, codes.REFUSAL_REASON.coding_or_other(refusal.rule), text=refusal_text(refusal)
    )


def refusal_text(refusal: Refusal) -> str:
    """A refusal in one line, for people."""
    return f"{refusal.rule}: found {refusal.seen}; needed {refusal.needed}"


def component(code: Coding, **value: Any) -> Json:
    """Observation.component of one code and one value[x]."""
    return {"code": concept(code), **value}


def dicom_identifier(sop_instance_uid: str) -> Json:
    """Identifier of what also stands in a DICOM object."""
    return {"system": codes.DICOM_UID, "value": f"urn:oid:{sop_instance_uid}"}
