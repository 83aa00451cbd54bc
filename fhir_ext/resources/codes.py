"""The only home of codes: systems, standard codes, and our own code systems as data.

A standard code stands here only when it is in the SR dictionary of pydicom (DICOM PS3.16),
in FHIR R4 4.0.1, or in the HL7 and IHE guides that `docs/conformance.md` names. Where none
was found, the code is ours, under `CANONICAL`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from fhir_ext.results import Region

Json = dict[str, Any]

CANONICAL: Final = "https://w3id.org/fhir-ext"

SCT: Final = "http://snomed.info/sct"
DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
UCUM: Final = "http://unitsofmeasure.org"
DICOM_UID: Final = "urn:dicom:uid"
_HL7: Final = "http://terminology.hl7.org/CodeSystem"

#: Identifier systems of ours.
INFERENCE_KEY: Final = f"{CANONICAL}/identifier/inference-key"
MODEL_VERSION: Final = f"{CANONICAL}/identifier/model-version"

#: Coding Scheme Designator (0008,0102) of our code systems in DICOM; 99 marks it as private
#: (PS3.16 section 8.2).
PRIVATE_SCHEME: Final = "99FHIREXT"


@dataclass(frozen=True, slots=True)
class Coding:
    """A code as FHIR `Coding` writes it."""

    system: str
    code: str
    display: str

    def as_json(self) -> Json:
        return {"system": self.system, "code": self.code, "display": self.display}


def concept(*codings: Coding, text: str | None = None) -> Json:
    """CodeableConcept: several codings say the same thing, the most specific first."""
    found: Json = {}
    if codings:
        found["coding"] = [coding.as_json() for coding in codings]
    if text is not None:
        found["text"] = text
    return found


@dataclass(frozen=True, slots=True)
class LocalCode:
    """One concept of a CodeSystem of ours."""

    code: str
    display: str
    definition: str


@dataclass(frozen=True, slots=True)
class LocalSystem:
    """A CodeSystem of ours.

    Attributes:
        id: last part of the canonical URL, and id of the resource.
        title: name for people.
        description: what the codes are for.
        codes: in the order in which they are published.
        complete: False when other codes may be in use too (CodeSystem.content `fragment`).
    """

    id: str
    title: str
    description: str
    codes: tuple[LocalCode, ...]
    complete: bool = True

    @property
    def url(self) -> str:
        return f"{CANONICAL}/CodeSystem/{self.id}"

    def __contains__(self, code: object) -> bool:
        return any(item.code == code for item in self.codes)

    def coding(self, code: str) -> Coding:
        """The Coding of one of the codes.

        Raises:
            KeyError: there is no such code.
        """
        for item in self.codes:
            if item.code == code:
                return Coding(self.url, code, item.display)
        raise KeyError(code)

    def coding_or_other(self, code: str) -> Coding:
        """The Coding of a code, `other` for one that is not (yet) published."""
        return self.coding(code if code in self else "other")


def _codes(*rows: tuple[str, str, str]) -> tuple[LocalCode, ...]:
    return tuple(LocalCode(*row) for row in rows)


_OTHER = ("other", "Other", "A reason that has no code of its own; the text says which.")

#: Who makes what we write: Device.manufacturer, and Manufacturer (0008,0070) of our DICOM
#: objects, by which the archive bridge knows them as ours.
MANUFACTURER: Final = "fhir-ext"

# Ours: what is measured

MEASUREMENT: Final = LocalSystem(
    "measurement",
    "Measurements on images",
    "Numbers that the services measure, and the panels that group them.",
    _codes(
        (
            "lung-density-panel",
            "Lung density panel",
            "Volume and attenuation of both lungs and of each lung on one CT series.",
        ),
        (
            "lung-volume",
            "Lung volume",
            "Volume of the lung without trachea and main bronchi, as it was in the scan.",
        ),
        (
            "mean-lung-density",
            "Mean lung density",
            "Mean attenuation of the lung without trachea and main bronchi.",
        ),
        (
            "laa-950",
            "Low attenuation area below -950 HU",
            "Share of the lung's voxels with an attenuation of -950 HU or less.",
        ),
        (
            "perc15",
            "15th percentile of lung density",
            "Attenuation below which 15 percent of the lung's voxels lie.",
        ),
    ),
)

# Ours: why something was not done

REFUSAL_REASON: Final = LocalSystem(
    "refusal-reason",
    "Reasons for withholding a number",
    "Why a service gives no number: what the images or the acquisition lack.",
    _codes(
        ("modality", "Wrong modality", "The modality is not one the model was made for."),
        ("image-type", "Image type not measurable", "A localizer, projection or derived image."),
        ("kernel", "Kernel not accepted", "The convolution kernel is not known to be smooth."),
        ("slice-thickness", "Slice thickness out of range", "The nominal thickness of slices."),
        ("spacing", "Spacing out of range", "The distance of slices or of pixels."),
        ("slice-count", "Too few slices", "The stack holds too few slices."),
        ("coverage", "Organ not covered", "The stack does not cover the whole organ."),
        ("gap", "Slices missing", "Slices are missing inside the stack."),
        ("irregular-spacing", "Irregular spacing", "The distance of slices varies."),
        ("duplicate-slices", "Duplicate slices", "Several slices lie at the same place."),
        ("single-slice", "Single slice", "The stack is a single slice."),
        ("gantry-tilt", "Gantry tilt", "The stack is sheared by a tilted gantry."),
        ("contrast-agent", "Contrast agent given", "A contrast agent was given."),
        ("kvp", "Tube voltage out of range", "The tube voltage is outside the accepted range."),
        ("patient-age", "Age out of range", "The patient's age is outside the accepted range."),
        ("burned-in-annotation", "Burned-in text", "Text is burned into the pixels."),
        (
            "lung-mask-implausible",
            "Lungs not plausible",
            "The lungs that were found cannot be believed.",
        ),
        ("implausible-value", "Value not plausible", "Outside of what a body can show."),
        ("localizer", "Localizer", "The instance is a localizer, not a slice of the stack."),
        ("truncated", "Truncated", "The instance ends before its data do."),
        ("not-dicom", "Not DICOM", "The bytes are no DICOM instance."),
        ("missing-geometry", "Geometry missing", "Position, orientation or spacing is missing."),
        ("too-large", "Too large", "A size is over a limit of this installation."),
        ("not-an-image", "Not an image", "The instance has no pixel data."),
        (
            "unsupported-transfer-syntax",
            "Transfer syntax not supported",
            "The pixels are encoded in a way that cannot be decoded here.",
        ),
        ("unsupported-pixels", "Pixels not supported", "The pixel format is not a CT image's."),
        (
            "photometric-interpretation",
            "Photometric interpretation not supported",
            "The pixels are colours or inverted grey values.",
        ),
        ("not-hounsfield", "Not in Hounsfield units", "The pixels have no Hounsfield scale."),
        ("duplicate", "Duplicate instance", "The same instance came more than once."),
        ("corrupt-pixels", "Pixels corrupt", "The pixel data cannot be decoded."),
        ("wrong-study", "Wrong study", "The instance belongs to another study."),
        ("no-slices", "No slices", "The series holds no slice that can be used."),
        ("model-not-installed", "Model not installed", "The model or its weights are missing."),
        _OTHER,
    ),
)

NOT_APPLIED_REASON: Final = LocalSystem(
    "not-applied-reason",
    "Reasons for not looking at a series",
    "Why the planning rules do not show a series to a service.",
    _codes(
        ("modality", "Modality", "The modality is not one of the rule."),
        ("body-part", "Body part", "The body part is not one of the rule, or not known."),
        ("description", "Description", "The series description is excluded by the rule."),
        ("too-few-instances", "Too few instances", "The series has fewer instances than needed."),
        ("age", "Age", "The age at the study is outside the rule, or not known."),
        ("program", "Program", "The patient is no member of the rule's program."),
        ("no-rule", "No rule", "No rule speaks of this series."),
        ("model-not-installed", "Model not installed", "The model or its weights are missing."),
        ("resource-gone", "Resource gone", "The ImagingStudy does not exist any more."),
        ("not-available", "Not available", "ImagingStudy.status is not available."),
        ("already-written", "Already written", "The same results stand in the server."),
        _OTHER,
    ),
)

# Ours: findings, outcomes and tasks

DETECTED_ISSUE: Final = LocalSystem(
    "detected-issue",
    "Issues found on images",
    "What a service found that a human should look at.",
    _codes(
        (
            "emphysema-on-ct",
            "Emphysema on CT",
            "Low attenuation areas of the lungs reach the threshold of CT emphysema, and no "
            "emphysema is on the problem list.",
        ),
    ),
)

RISK_OUTCOME: Final = LocalSystem(
    "risk-outcome",
    "Outcomes of risk assessments",
    "What a RiskAssessment of ours speaks of.",
    _codes(("emphysema", "Emphysema", "Emphysema of the lungs.")),
)

TASK_TYPE: Final = LocalSystem(
    "task-type",
    "Tasks for people",
    "What a Task of ours asks a human to do.",
    _codes(
        ("review-ai-result", "Review AI result", "Accept, modify or reject a preliminary result."),
        ("incomplete-study", "Incomplete study", "Find out why a study stays incomplete."),
        ("stuck-work", "Stuck work", "A step gave up; resume it once the cause is removed."),
    ),
)

TASK_REASON: Final = LocalSystem(
    "task-reason",
    "Reasons of tasks",
    "Why a Task of ours exists.",
    _codes(
        ("policy-always", "Review policy: always", "Every result of this model is reviewed."),
        ("policy-rule", "Review policy: by rule", "The result raised a risk or an issue."),
        ("incomplete-study", "Study incomplete", "The archive holds fewer instances than named."),
        ("not-in-archive", "Study not in the archive", "The archive has no such study."),
        ("unknown-patient", "Unknown patient", "The subject is no Patient of this server."),
        ("no-study-uid", "No Study Instance UID", "The ImagingStudy names no study in DICOM."),
        ("upstream-failed", "Server failed", "A server that is needed kept failing."),
        ("upstream-unavailable", "Server unavailable", "A server that is needed stayed away."),
        ("upstream-timeout", "Server too slow", "A server that is needed kept not answering."),
        ("fhir-server-error", "FHIR server failed", "The FHIR server kept answering errors."),
        ("fhir-refused", "FHIR server refused", "The FHIR server refuses a resource."),
        ("fhir-credentials", "FHIR credentials", "The FHIR server refuses our credentials."),
        ("resource-not-found", "Resource not found", "A resource that is needed is missing."),
        ("write-conflict", "Write conflict", "Others kept writing the same resources."),
        ("stow-failed", "Archive did not store", "The archive kept failing to store a result."),
        ("stow-refused", "Archive refused", "The archive refuses to store a result."),
        ("malformed-answer", "Nonsense answered", "A server keeps answering what is not DICOMweb."),
        ("short-series", "Series short", "The archive delivers fewer instances than it lists."),
        ("connection-dropped", "Connection dropped", "A server kept ending answers early."),
        ("archive-refused-us", "Archive credentials", "The archive refuses our credentials."),
        ("archive-not-orthanc", "Archive is no Orthanc", "The archive has no change feed."),
        ("malformed-multipart", "Multipart malformed", "An answer of the archive is no multipart."),
        (
            "malformed-metadata",
            "Metadata malformed",
            "The archive's description of a study or series cannot be read.",
        ),
        ("token-refused", "No token", "The token endpoint refuses our credentials."),
        ("worker-crashed", "Worker crashed", "The work ended its worker again and again."),
        ("model-not-installed", "Model not installed", "The model or its weights are missing."),
        ("parked", "Parked", "The work cannot go on by itself."),
        ("internal", "Internal error", "An error in this software; the log names the incident."),
        _OTHER,
    ),
)

ERROR: Final = LocalSystem(
    "error",
    "Errors",
    "OperationOutcome.issue.details of errors that this service reports.",
    _codes(
        ("bad-request", "Bad request", "The request is malformed."),
        ("forbidden", "Forbidden", "Secret, scope or role does not allow it."),
        ("not-found", "Not found", "No such resource, study or model."),
        ("conflict", "Conflict", "The state does not allow it."),
        ("too-large", "Too large", "Over a limit of this installation."),
        ("unprocessable", "Unprocessable", "Well formed, but cannot be acted on."),
        ("upstream-failed", "Server failed", "A server behind this one failed."),
        ("upstream-unavailable", "Server unavailable", "A server behind this one is down."),
        ("upstream-timeout", "Server too slow", "A server behind this one did not answer."),
        ("refused", "Refused", "The data may not be used."),
        ("parked", "Parked", "The work waits for a human."),
        ("settings", "Settings", "The installation is configured wrongly."),
        ("internal", "Internal error", "An error in this software."),
    ),
    complete=False,
)

LOCAL_SYSTEMS: Final = (
    MEASUREMENT,
    REFUSAL_REASON,
    NOT_APPLIED_REASON,
    DETECTED_ISSUE,
    RISK_OUTCOME,
    TASK_TYPE,
    TASK_REASON,
    ERROR,
)

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
    f"{_HL7}/v3-ObservationValue", "AIAST", "Artificial Intelligence asserted"
)
AI_DEVICE: Final = Coding(
    "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS",
    "Artificial-Intelligence",
    "Artificial Intelligence",
)
ACCESSION: Final = Coding(f"{_HL7}/v2-0203", "ACSN", "Accession ID")
CATEGORY_IMAGING: Final = Coding(f"{_HL7}/observation-category", "imaging", "Imaging")
NOT_PERFORMED: Final = Coding(f"{_HL7}/data-absent-reason", "not-performed", "Not Performed")
ABSENT_ERROR: Final = Coding(f"{_HL7}/data-absent-reason", "error", "Error")
AUTHOR: Final = Coding(f"{_HL7}/provenance-participant-type", "author", "Author")
ASSEMBLER: Final = Coding(f"{_HL7}/provenance-participant-type", "assembler", "Assembler")
AUDIT_REST: Final = Coding(f"{_HL7}/audit-event-type", "rest", "RESTful Operation")
AUDIT_CREATE: Final = Coding("http://hl7.org/fhir/restful-interaction", "create", "create")
AUDIT_APPLICATION: Final = Coding(f"{_HL7}/security-source-type", "4", "Application Server")
ENTITY_PERSON: Final = Coding(f"{_HL7}/audit-entity-type", "1", "Person")
ENTITY_SYSTEM: Final = Coding(f"{_HL7}/audit-entity-type", "2", "System Object")
ROLE_PATIENT: Final = Coding(f"{_HL7}/object-role", "1", "Patient")
ROLE_RESOURCE: Final = Coding(f"{_HL7}/object-role", "4", "Domain Resource")

RISK_PROBABILITY: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        code: Coding(f"{_HL7}/risk-probability", code, display)
        for code, display in {
            "negligible": "Negligible likelihood",
            "low": "Low likelihood",
            "moderate": "Moderate likelihood",
            "high": "High likelihood",
            "certain": "Certain",
        }.items()
    }
)


def resource_type(name: str) -> Coding:
    """A FHIR R4 resource type as a Coding."""
    return Coding("http://hl7.org/fhir/resource-types", name, name)


# What the names of `fhir_ext.results` mean

#: Standard codes that say what a measurement of ours says.
STANDARD_MEASUREMENT: Final[Mapping[str, Coding]] = MappingProxyType(
    {"lung-volume": VOLUME, "mean-lung-density": MEAN_ATTENUATION}
)

#: HU at and below which a voxel counts, by measurement.
THRESHOLD_HU: Final[Mapping[str, int]] = MappingProxyType({"laa-950": -950})

#: Panel of each service.
PANEL: Final[Mapping[str, str]] = MappingProxyType({"lung-density": "lung-density-panel"})

#: Refusals that follow from looking at the pixels, not from the acquisition.
FAILED_ANALYSIS: Final = frozenset({"lung-mask-implausible", "implausible-value"})

REGION_SITE: Final[Mapping[Region, Coding]] = MappingProxyType(dict.fromkeys(Region, LUNG))
REGION_LATERALITY: Final[Mapping[Region, Coding]] = MappingProxyType(
    {Region.LUNGS: BILATERAL, Region.LEFT_LUNG: LEFT, Region.RIGHT_LUNG: RIGHT}
)
REGION_TEXT: Final[Mapping[Region, str]] = MappingProxyType(
    {Region.LUNGS: "Both lungs", Region.LEFT_LUNG: "Left lung", Region.RIGHT_LUNG: "Right lung"}
)

#: Names of units for people; the codes are UCUM.
UNIT_TEXT: Final[Mapping[str, str]] = MappingProxyType({"[hnsf'U]": "HU", "mL": "mL", "%": "%"})

#: Standard codes of the outcomes in `RISK_OUTCOME`.
STANDARD_OUTCOME: Final[Mapping[str, Coding]] = MappingProxyType({"emphysema": EMPHYSEMA})

#: Standard codes of what the issues in `DETECTED_ISSUE` found.
ISSUE_EVIDENCE: Final[Mapping[str, Coding]] = MappingProxyType({"emphysema-on-ct": EMPHYSEMA})

#: What to look for on the problem list before an issue is raised.
CONDITIONS: Final[Mapping[str, tuple[Coding, ...]]] = MappingProxyType({"emphysema": (EMPHYSEMA,)})

#: BodyPartExamined (0018,0015) to SNOMED CT, the CT regions of PS3.16 Annex L and CID 4031.
BODY_PARTS: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        term: Coding(SCT, code, display)
        for term, code, display in (
            ("ABDOMEN", "818981001", "Abdomen"),
            ("BRAIN", "12738006", "Brain"),
            ("BREAST", "76752008", "Breast"),
            ("CHEST", "816094009", "Chest"),
            ("CHESTABDOMEN", "416550000", "Chest and Abdomen"),
            ("CHESTABDPELVIS", "416775004", "Chest, Abdomen and Pelvis"),
            ("CSPINE", "122494005", "Cervical spine"),
            ("HEAD", "69536005", "Head"),
            ("HEADNECK", "774007", "Head and Neck"),
            ("HEART", "80891009", "Heart"),
            ("LSPINE", "122496007", "Lumbar spine"),
            ("LUNG", "39607008", "Lung"),
            ("MEDIASTINUM", "72410000", "Mediastinum"),
            ("NECK", "45048000", "Neck"),
            ("NECKCHEST", "417437006", "Neck and Chest"),
            ("NECKCHESTABDOMEN", "416152001", "Neck, Chest and Abdomen"),
            ("NECKCHESTABDPELV", "416319003", "Neck, Chest, Abdomen and Pelvis"),
            ("PELVIS", "816092008", "Pelvis"),
            ("SKULL", "89546000", "Skull"),
            ("SPINE", "421060004", "Spine"),
            ("THORAX", "816094009", "Thorax"),
            ("TSPINE", "122495006", "Thoracic spine"),
            ("WHOLEBODY", "38266002", "Entire body"),
        )
    }
)


def profile(name: str) -> str:
    """Canonical URL of a profile of ours."""
    return f"{CANONICAL}/StructureDefinition/{name}"
