"""Observation: one panel per result, one member per measurement and region.

R4 has no Device among `performer`; the model stands in `device`. Anatomy is not part of the
code: it is `bodySite`, with the side once more as a component, so that it can be searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding, concept, profile
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import device_id, dicom_uid, result_id
from fhir_ext.results import Measurement, Refusal, Region, ServiceResult

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


def evidence_references(result: ServiceResult, names: Sequence[str]) -> list[Json]:
    """References to the members that a statement about `names` rests on.

    The number of both lungs speaks for its parts; without it, all regions are named.

    Raises:
        ValueError: none of the numbers stands, so there is nothing to rest on.
    """
    found = []
    for name in names:
        items = [m for m in result.measurements if m.name == name and m.value is not None]
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


def panel(result: ServiceResult, context: WriteContext) -> Json:
    """The panel: where the numbers come from, and its members.

    Raises:
        KeyError: the service has no panel code.
    """
    code = codes.PANEL[result.service]
    resource = observation(result, context, result_id(result.inference_key, "panel"), code)
    resource["code"] = concept(codes.MEASUREMENT.coding(code))
    resource["identifier"] = [inference_identifier(result)]
    if context.sr_instance_uid:
        resource["identifier"].append(dicom_identifier(context.sr_instance_uid))
    sites = {codes.REGION_SITE[m.region] for m in result.measurements}
    if len(sites) == 1:
        resource["bodySite"] = concept(*sites)
    resource["hasMember"] = [measurement_reference(result, m) for m in result.measurements]
    resource["component"] = [
        component(codes.SERIES_INSTANCE_UID, valueString=result.series_instance_uid)
    ]
    if context.seg_instance_uid:
        resource["component"].append(
            component(codes.REFERENCED_SEGMENT, valueString=context.seg_instance_uid)
        )
    return resource


def measurement(result: ServiceResult, item: Measurement, context: WriteContext) -> Json:
    """One member: the number, or why there is none.

    Raises:
        KeyError: the measurement has no code.
    """
    resource = observation(result, context, _measurement_id(result, item), "imaging-measurement")
    codings = [codes.MEASUREMENT.coding(item.name)]
    if item.name in codes.STANDARD_MEASUREMENT:
        codings.append(codes.STANDARD_MEASUREMENT[item.name])
    resource["code"] = concept(*codings)
    # By it the gateway knows the resource as ours.
    resource["identifier"] = [inference_identifier(result)]
    resource["bodySite"] = _body_site(item.region)
    if item.refusal is None:
        resource["valueQuantity"] = {
            "value": item.value,
            "unit": codes.UNIT_TEXT.get(item.unit, item.unit),
            "system": codes.UCUM,
            "code": item.unit,
        }
    else:
        resource["dataAbsentReason"] = absent_reason(item.refusal)
        resource["note"] = [{"text": refusal_text(item.refusal)}]
    side = codes.REGION_LATERALITY.get(item.region)
    resource["component"] = [
        *(
            [component(codes.LATERALITY, valueCodeableConcept=concept(side))]
            if side is not None
            else []
        ),
        component(codes.TRACKING_UID, valueString=tracking_uid(result, item.region)),
    ]
    if item.name in codes.THRESHOLD_HU:
        threshold = {
            "value": codes.THRESHOLD_HU[item.name],
            "unit": "HU",
            "system": codes.UCUM,
            "code": "[hnsf'U]",
        }
        resource["component"].append(
            component(codes.THRESHOLD_ATTENUATION, valueQuantity=threshold)
        )
    return resource


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


def _body_site(region: Region) -> Json:
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
