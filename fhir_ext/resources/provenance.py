"""Provenance: who made the results, from what, and what they replace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import result_id, software_device_id
from fhir_ext.resources.observation import device_reference, dicom_identifier
from fhir_ext.results import ServiceResult

Json = dict[str, Any]


def provenance(result: ServiceResult, targets: Sequence[Json], context: WriteContext) -> Json:
    """One Provenance for all results of a piece of work.

    Its id derives from the inference key: whoever has the key finds out with one read
    whether the work is written.

    Args:
        targets: references to everything that was written for the patient.
    """
    study = {
        "reference": f"{context.imaging_study['reference']}/_history/"
        f"{context.imaging_study_version}",
        # HAPI drops the version of a stored reference, so it is said in words too.
        "display": f"ImagingStudy version {context.imaging_study_version}",
    }
    return {
        "resourceType": "Provenance",
        "id": result_id(result.inference_key, "provenance"),
        "target": list(targets),
        "occurredDateTime": context.issued_instant,
        "recorded": context.recorded_instant,
        "reason": [concept(codes.AI_ASSERTED)],
        "agent": [
            {"type": concept(codes.AUTHOR), "who": device_reference(result)},
            {
                "type": concept(codes.ASSEMBLER),
                "who": {"reference": f"Device/{software_device_id(context.software_version)}"},
            },
        ],
        "entity": [
            {"role": "source", "what": study},
            *({"role": "source", "what": what} for what in _series(result)),
            *({"role": "derivation", "what": what} for what in _segmentations(result)),
            *({"role": "revision", "what": what} for what in _revised(context)),
        ],
    }


def _series(result: ServiceResult) -> list[Json]:
    """Every series that was looked at; R4 has no resource for one."""
    uids = (result.series_instance_uid, *(item.series_instance_uid for item in result.further))
    return [_dicom(uid, "DICOM series") for uid in dict.fromkeys(uids) if uid]


def _segmentations(result: ServiceResult) -> list[Json]:
    """The SEG with the masks of this result, which stands in the archive only."""
    uid = result.seg_instance_uid
    return [_dicom(uid, "DICOM segmentation of this result")] if uid else []


def _dicom(uid: str, display: str) -> Json:
    return {"identifier": dicom_identifier(uid), "display": display}


def _revised(context: WriteContext) -> list[Json]:
    """What the results replace: not a Task, which is work, nor what was replaced before."""
    return [
        {"reference": f"{item['resourceType']}/{item['id']}"}
        for item in context.superseded
        if item["resourceType"] != "Task" and item.get("status") != "cancelled"
    ]
