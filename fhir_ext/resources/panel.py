"""The panel of a result: what groups its members, and says where they come from."""

from __future__ import annotations

from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.classification import classification, classification_reference
from fhir_ext.resources.codes import Coding, concept, naming
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.detection import detection, detection_reference
from fhir_ext.resources.ids import result_id
from fhir_ext.resources.observation import (
    component,
    dicom_identifier,
    measurement,
    measurement_reference,
    observation,
)
from fhir_ext.results import ServiceResult

Json = dict[str, Any]


def panel(result: ServiceResult, context: WriteContext) -> Json:
    """The panel: where the results come from, and its members.

    Notes that belong to no member that stands are its own.
    """
    name = codes.PANEL.get(result.service, "site-panel")
    resource = observation(result, context, result_id(result.inference_key, "panel"), name)
    resource["code"] = concept(naming.panel_coding(result.model, result.service))
    if context.sr_instance_uid:
        resource["identifier"].append(dicom_identifier(context.sr_instance_uid))
    sites = _sites(result)
    if len(sites) == 1:
        resource["bodySite"] = concept(*sites)
    if members := member_references(result):
        resource["hasMember"] = members
    resource["component"] = [
        component(codes.SERIES_INSTANCE_UID, valueString=result.series_instance_uid)
    ]
    segmentation = context.seg_instance_uid or result.seg_instance_uid
    if segmentation:
        resource["component"].append(component(codes.REFERENCED_SEGMENT, valueString=segmentation))
    if notes := _own_notes(result):
        resource["note"] = notes
    return resource


def members(result: ServiceResult, context: WriteContext) -> list[Json]:
    """Every number, category and place of a result, as `panel` names them.

    Raises:
        KeyError: a region has no code.
    """
    return [
        *(measurement(result, item, context) for item in result.measurements),
        *(classification(result, item, context) for item in result.classifications),
        *(detection(result, at, context) for at in range(len(result.detections))),
    ]


def member_references(result: ServiceResult) -> list[Json]:
    """References to the members, in their order."""
    return [
        *(measurement_reference(result, item) for item in result.measurements),
        *(classification_reference(result, item) for item in result.classifications),
        *(detection_reference(result, at) for at in range(len(result.detections))),
    ]


def _sites(result: ServiceResult) -> set[Coding]:
    found = {codes.REGION_SITE[item.region] for item in result.measurements}
    found |= {codes.REGION_SITE[item.region] for item in result.detections}
    return found | {
        codes.CLASSIFIED_SITE.get(item.region, codes.REGION_SITE[item.region])
        for item in result.classifications
    }


def _own_notes(result: ServiceResult) -> list[Json]:
    standing = {item.name for item in result.measurements if item.value is not None}
    standing |= {item.name for item in result.classifications if item.chosen is not None}
    standing |= {item.name for item in result.detections}
    left = (text for name, text in result.notes if name not in standing)
    return [{"text": text} for text in dict.fromkeys(left)]
