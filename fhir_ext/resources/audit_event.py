"""AuditEvent: that this software wrote results about a patient.

Shaped like IHE BALP `PatientCreate`: the client is the source of what is created, the server
its destination, and the patient an entity of type 1 and role 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import result_id, software_device_id
from fhir_ext.results import ServiceResult

Json = dict[str, Any]


def audit_event(result: ServiceResult, targets: Sequence[Json], context: WriteContext) -> Json:
    """One AuditEvent for all results of a piece of work.

    Args:
        targets: references to everything that was written for the patient.
    """
    software = {"reference": f"Device/{software_device_id(context.software_version)}"}
    details = [{"type": "inference-key", "valueString": result.inference_key}]
    if context.trace_id:
        details.append({"type": "trace-id", "valueString": context.trace_id})
    return {
        "resourceType": "AuditEvent",
        "id": result_id(result.inference_key, "audit"),
        "type": codes.AUDIT_REST.as_json(),
        "subtype": [codes.AUDIT_CREATE.as_json()],
        "action": "C",
        "recorded": context.recorded_instant,
        "outcome": "0",
        "agent": [
            {"type": concept(codes.SOURCE_ROLE), "who": software, "requestor": True},
            {
                "type": concept(codes.DESTINATION_ROLE),
                "who": {"display": "FHIR server"},
                "requestor": False,
            },
        ],
        "source": {"observer": software, "type": [codes.AUDIT_APPLICATION.as_json()]},
        "entity": [
            {
                "what": context.patient,
                "type": codes.ENTITY_PERSON.as_json(),
                "role": codes.ROLE_PATIENT.as_json(),
            },
            {
                "what": context.imaging_study,
                "type": codes.ENTITY_SYSTEM.as_json(),
                "role": codes.ROLE_RESOURCE.as_json(),
                "detail": details,
            },
            *(
                {
                    "what": target,
                    "type": codes.ENTITY_SYSTEM.as_json(),
                    "role": codes.ROLE_RESOURCE.as_json(),
                }
                for target in targets
            ),
        ],
    }
