"""Observation of a detection: one place that a model points at.

Its place is given in the patient coordinate system of DICOM (PS3.3 C.7.6.2.1.1), which means
nothing without the frame of reference that is named beside it.
"""

from __future__ import annotations

from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept, naming
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import dicom_uid, result_id
from fhir_ext.resources.observation import (
    body_site,
    component,
    laterality,
    note,
    observation,
    quantity,
)
from fhir_ext.results import ServiceResult

Json = dict[str, Any]

#: Decimals of millimetres that are written.
MILLIMETRE_DECIMALS = 2


def detection(result: ServiceResult, at: int, context: WriteContext) -> Json:
    """The Observation of the detection at an index of `result.detections`.

    Raises:
        KeyError: its region has no code.
    """
    item = result.detections[at]
    ours = naming.DETECTIONS.is_ours(result.service, item.name)
    name = "imaging-detection" if ours else "site-detection"
    resource = observation(result, context, _id(result, at), name)
    resource["code"] = concept(*naming.detection_codings(result, item))
    resource["valueCodeableConcept"] = concept(*naming.found_codings(result, item))
    resource["bodySite"] = body_site(item.region)
    note(resource, result, item.name)
    part = codes.RESULT_PART.coding
    lengths = {
        f"{what}-{axis}": round(value, MILLIMETRE_DECIMALS)
        for what, values in (("centre", item.centre_mm), ("size", item.size_mm))
        for axis, value in zip("xyz", values, strict=True)
    }
    resource["component"] = [
        *laterality(item.region),
        component(codes.TRACKING_UID, valueString=detection_uid(result, at)),
        component(codes.SERIES_INSTANCE_UID, valueString=result.series_instance_uid),
        *(
            [component(codes.FRAME_OF_REFERENCE_UID, valueString=result.frame_of_reference_uid)]
            if result.frame_of_reference_uid
            else []
        ),
        component(part("score"), valueQuantity=quantity(round(item.score, 6), "1")),
        *(
            component(part(name), valueQuantity=quantity(value, "mm"))
            for name, value in lengths.items()
        ),
    ]
    return resource


def detection_reference(result: ServiceResult, at: int) -> Json:
    """Reference to the Observation of the detection at an index."""
    return {"reference": f"Observation/{_id(result, at)}"}


def detection_uid(result: ServiceResult, at: int) -> str:
    """Tracking Unique Identifier of a detection, the same in FHIR and in the SR."""
    known = result.detections[at].tracking_uid
    return known or dicom_uid(result.inference_key, f"tracking/detection/{at}")


def _id(result: ServiceResult, at: int) -> str:
    return result_id(result.inference_key, "detection", str(at))
