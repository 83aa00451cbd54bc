"""Charts as tests write them: small resources, and the Synthea records under ids of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

LN = "http://loinc.org"
SCT = "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
RADELEMENT = "https://radelement.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
MEASUREMENT = "https://w3id.org/fhir-ext/CodeSystem/measurement"

#: What of a Synthea record `$risk-score` may look at.
READ_TYPES = ("Patient", "Observation", "Condition", "MedicationRequest")


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def quantity(value: float, unit: str) -> Json:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def patient(patient_id: str = "p", **more: Any) -> Json:
    return {
        "resourceType": "Patient",
        "id": patient_id,
        "gender": "female",
        "birthDate": "1970-06-15",
        **more,
    }


def observation(
    code: Json, when: str | None, *, resource_id: str = "o", status: str = "final", **more: Any
) -> Json:
    found = {
        "resourceType": "Observation",
        "id": resource_id,
        "status": status,
        "code": code,
        "subject": {"reference": "Patient/p"},
        **more,
    }
    if when is not None:
        found["effectiveDateTime"] = when
    return found


def measured(code: str, value: float, unit: str, when: str, **more: Any) -> Json:
    return observation(concept(LN, code), when, valueQuantity=quantity(value, unit), **more)


def blood_pressure(systolic: float, when: str, *, panel: str = "85354-9", **more: Any) -> Json:
    component = [
        {"code": concept(LN, "8462-4"), "valueQuantity": quantity(80, "mm[Hg]")},
        {"code": concept(LN, "8480-6"), "valueQuantity": quantity(systolic, "mm[Hg]")},
    ]
    return observation(concept(LN, panel), when, component=component, **more)


def smoking(code: str, when: str, **more: Any) -> Json:
    return observation(
        concept(LN, "72166-2"), when, valueCodeableConcept=concept(SCT, code), **more
    )


def condition(code: Json, *, onset: str | None = None, verified: str | None = None,
              clinical: str | None = None, **more: Any) -> Json:  # fmt: skip
    found: Json = {
        "resourceType": "Condition",
        "id": "c",
        "code": code,
        "subject": {"reference": "Patient/p"},
        **more,
    }
    base = "http://terminology.hl7.org/CodeSystem"
    if onset:
        found["onsetDateTime"] = onset
    if verified:
        found["verificationStatus"] = concept(f"{base}/condition-ver-status", verified)
    if clinical:
        found["clinicalStatus"] = concept(f"{base}/condition-clinical", clinical)
    return found


def medication_request(code: Json, **more: Any) -> Json:
    return {
        "resourceType": "MedicationRequest",
        "id": "m",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": code,
        "subject": {"reference": "Patient/p"},
        "authoredOn": "2025-01-01",
        **more,
    }


def relative(code: Json, relationship: str = "FTH", **more: Any) -> Json:
    role = concept("http://terminology.hl7.org/CodeSystem/v3-RoleCode", relationship)
    return {
        "resourceType": "FamilyMemberHistory",
        "id": "f",
        "status": "completed",
        "patient": {"reference": "Patient/p"},
        "relationship": role,
        "condition": [{"code": code}],
        **more,
    }


def nodule(
    millimetres: float | None,
    when: str = "2026-01-10",
    *,
    study: str | None = "ImagingStudy/s",
    composition: str | None = "RDE1301.0",
    location: str | None = "RDE1304.6",
    margin: str | None = "RDE1305.3",
    **more: Any,
) -> Json:
    component = [
        {"code": concept(RADELEMENT, code.partition(".")[0]),
         "valueCodeableConcept": concept(RADELEMENT, code)}
        for code in (composition, location, margin)
        if code
    ]  # fmt: skip
    if millimetres is not None:
        long_axis = {"code": concept(SCT, "103339001")}
        component.append({**long_axis, "valueQuantity": quantity(millimetres, "mm")})
    if study:
        more["derivedFrom"] = [{"reference": study}]
    return observation(concept(RADELEMENT, "RDES195"), when, component=component, **more)


def low_attenuation(percent: float, when: str, *, side: str = "51440002", **more: Any) -> Json:
    """LAA-950 as the lung density service writes it; both lungs unless another side."""
    component = [{"code": concept(SCT, "272741003"), "valueCodeableConcept": concept(SCT, side)}]
    return observation(
        concept(MEASUREMENT, "laa-950"), when, component=component,
        valueQuantity=quantity(percent, "%"), **more,
    )  # fmt: skip


def synthea_bundle(file: Path, prefix: str) -> Json:
    """A Synthea record as a transaction of PUTs: what a score reads, ids with a prefix."""
    entries = json.loads(file.read_text("utf-8"))["entry"]
    kept = [
        entry["resource"] for entry in entries if entry["resource"]["resourceType"] in READ_TYPES
    ]
    ids = {
        f"urn:uuid:{resource['id']}": f"{resource['resourceType']}/{prefix}{resource['id']}"
        for resource in kept
    }
    for resource in kept:
        resource["id"] = f"{prefix}{resource['id']}"
        resource.pop("text", None)
        for name in ("encounter", "requester", "reasonReference", "context"):
            resource.pop(name, None)
        subject = resource.get("subject")
        if subject:
            subject["reference"] = ids[subject["reference"]]
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "resource": resource,
                "request": {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"},
            }
            for resource in kept
        ],
    }


def patient_of(bundle: Json) -> str:
    """Id of the Patient of a bundle of PUTs."""
    return next(
        entry["resource"]["id"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Patient"
    )
