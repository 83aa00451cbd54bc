"""Standard codes that we write or look for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import DCM, HL7, SCT, Coding

# Standard codes: DICOM and SNOMED CT (pydicom SR dictionary)

LUNG: Final = Coding(SCT, "39607008", "Lung structure")
LATERALITY: Final = Coding(SCT, "272741003", "Laterality")
LEFT: Final = Coding(SCT, "7771000", "Left")
RIGHT: Final = Coding(SCT, "24028007", "Right")
BILATERAL: Final = Coding(SCT, "51440002", "Bilateral")
VOLUME: Final = Coding(SCT, "118565006", "Volume")
COMPUTED_TOMOGRAPHY: Final = Coding(SCT, "77477000", "Computed tomography")
EMPHYSEMA: Final = Coding(SCT, "87433001", "Emphysema")

OTHER_MODALITY: Final = Coding(DCM, "OT", "Other Modality")
MEAN_ATTENUATION: Final = Coding(DCM, "112181", "Mean Attenuation Coefficient")
THRESHOLD_ATTENUATION: Final = Coding(DCM, "112032", "Threshold Attenuation Coefficient")
SERIES_INSTANCE_UID: Final = Coding(DCM, "112002", "Series Instance UID")
TRACKING_UID: Final = Coding(DCM, "112040", "Tracking Unique Identifier")
REFERENCED_SEGMENT: Final = Coding(DCM, "121191", "Referenced Segment")
SOURCE_ROLE: Final = Coding(DCM, "110153", "Source Role ID")
DESTINATION_ROLE: Final = Coding(DCM, "110152", "Destination Role ID")

# Standard codes: HL7

AI_ASSERTED: Final = Coding(
    f"{HL7}/v3-ObservationValue", "AIAST", "Artificial Intelligence asserted"
)
AI_DEVICE: Final = Coding(
    "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS",
    "Artificial-Intelligence",
    "Artificial Intelligence",
)
ACCESSION: Final = Coding(f"{HL7}/v2-0203", "ACSN", "Accession ID")
CATEGORY_IMAGING: Final = Coding(f"{HL7}/observation-category", "imaging", "Imaging")
NOT_PERFORMED: Final = Coding(f"{HL7}/data-absent-reason", "not-performed", "Not Performed")
ABSENT_ERROR: Final = Coding(f"{HL7}/data-absent-reason", "error", "Error")
AUTHOR: Final = Coding(f"{HL7}/provenance-participant-type", "author", "Author")
ASSEMBLER: Final = Coding(f"{HL7}/provenance-participant-type", "assembler", "Assembler")
AUDIT_REST: Final = Coding(f"{HL7}/audit-event-type", "rest", "RESTful Operation")
AUDIT_CREATE: Final = Coding("http://hl7.org/fhir/restful-interaction", "create", "create")
AUDIT_APPLICATION: Final = Coding(f"{HL7}/security-source-type", "4", "Application Server")
ENTITY_PERSON: Final = Coding(f"{HL7}/audit-entity-type", "1", "Person")
ENTITY_SYSTEM: Final = Coding(f"{HL7}/audit-entity-type", "2", "System Object")
ROLE_PATIENT: Final = Coding(f"{HL7}/object-role", "1", "Patient")
ROLE_RESOURCE: Final = Coding(f"{HL7}/object-role", "4", "Domain Resource")

RISK_PROBABILITY: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        code: Coding(f"{HL7}/risk-probability", code, display)
        for code, display in {
            "negligible": "Negligible likelihood",
            "low": "Low likelihood",
            "moderate": "Moderate likelihood",
            "high": "High likelihood",
            "certain": "Certain",
        }.items()
    }
)
