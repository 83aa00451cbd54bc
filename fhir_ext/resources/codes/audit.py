"""Codes of AuditEvents about accesses: IHE BALP 1.1.4, DICOM CID 402, FHIR R4."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import DCM, HL7, Coding

_BALP: Final = "https://profiles.ihe.net/ITI/BALP"

APPLICATION_AGENT: Final = Coding(DCM, "110150", "Application")
CUSTODIAN: Final = Coding(f"{HL7}/provenance-participant-type", "custodian", "Custodian")
INFORMATION_RECIPIENT: Final = Coding(
    f"{HL7}/v3-ParticipationType", "IRCP", "information recipient"
)
PARTICIPATING_AUTHOR: Final = Coding(f"{HL7}/v3-ParticipationType", "AUT", "author (originator)")
ROLE_QUERY: Final = Coding(f"{HL7}/object-role", "24", "Query")
ENTITY_REQUEST_ID: Final = Coding(
    f"{_BALP}/CodeSystem/BasicAuditEntityType",
    "XrequestId",
    "transport specific unique identifier where http X-Request-Id is used",
)

#: AuditEvent.agent.network.type (FHIR R4 network-type).
NETWORK_IP: Final = "2"
NETWORK_URI: Final = "5"

#: FHIR R4 restful-interaction.
INTERACTIONS: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        code: Coding("http://hl7.org/fhir/restful-interaction", code, code)
        for code in (
            "batch",
            "capabilities",
            "create",
            "delete",
            "history",
            "history-instance",
            "history-system",
            "history-type",
            "operation",
            "patch",
            "read",
            "search",
            "search-system",
            "search-type",
            "transaction",
            "update",
            "vread",
        )
    }
)


def balp_profile(name: str) -> str:
    """Canonical URL of a profile of BALP, as `Read` or `PatientRead`."""
    return f"{_BALP}/StructureDefinition/IHE.BasicAudit.{name}"
