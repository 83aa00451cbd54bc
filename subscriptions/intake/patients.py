"""Linking a study's patient: identifier and issuer must match one Patient, else a human does it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.settings import BridgeSettings
from fhir_ext.store.repository import Repository
from fhir_ext.store.tables import ArchiveStudy

#: Why a study waits for a patient.
WAITING_REASONS = frozenset({"no-patient-id", "unknown-issuer", "no-match", "several-matches"})


@dataclass(frozen=True, slots=True)
class PatientLink:
    """The answer for one study: a Patient id, or one of `WAITING_REASONS`."""

    patient_id: str | None
    reason: str | None = None


def link_patient(fhir: FhirClient, header: Dataset, settings: BridgeSettings) -> PatientLink:
    """Find the Patient whose identifier equals PatientID under the issuer's system.

    Names and birth dates are not compared: a near match is never taken.

    Args:
        header: any instance of the study; PatientID (0010,0020), IssuerOfPatientID (0010,0021).
    """
    patient_id = str(header.get("PatientID", "") or "").strip()
    if not patient_id:
        return PatientLink(None, "no-patient-id")
    system = identifier_system(header, settings)
    if system is None:
        return PatientLink(None, "unknown-issuer")
    matches = fhir.search(
        "Patient", {"identifier": f"{system}|{_escaped(patient_id)}", "_elements": "id"}, limit=2
    )
    if len(matches) == 1:
        return PatientLink(matches[0]["id"])
    if matches:
        return PatientLink(None, "several-matches")
    if settings.create_patients:
        return PatientLink(_create(fhir, header, system, patient_id))
    return PatientLink(None, "no-match")


def identifier_system(header: Dataset, settings: BridgeSettings) -> str | None:
    """Patient.identifier.system for the header's issuer; None when it is not configured."""
    issuer = str(header.get("IssuerOfPatientID", "") or "").strip()
    return settings.issuers.get(issuer) if issuer else settings.default_issuer


def waiting_studies(repository: Repository) -> list[ArchiveStudy]:
    """The worklist: studies without a patient, also while they are looked at again."""
    return [
        study
        for study in repository.archive_studies("unmatched", "settling")
        if study.reason in WAITING_REASONS
    ]


def header_identity(archive: DicomWebClient, study_instance_uid: str) -> tuple[str, str, str, str]:
    """(issuer, patient ID, name, birth date) of a study's header, for an operator's eyes only."""
    for series in archive.list_series(study_instance_uid):
        for instance in archive.list_instances(study_instance_uid, series.series_instance_uid):
            header = archive.instance_metadata(
                study_instance_uid, series.series_instance_uid, instance.sop_instance_uid
            )
            keywords = ("IssuerOfPatientID", "PatientID", "PatientName", "PatientBirthDate")
            issuer, number, name, born = (str(header.get(key, "") or "") for key in keywords)
            return issuer, number, name, born
    return "", "", "", ""


def _escaped(value: str) -> str:
    """Escape what separates values in a token search (FHIR R4 search, 3.1.1.4.0.1)."""
    for character in "\\,$|":
        value = value.replace(character, f"\\{character}")
    return value


def _create(fhir: FhirClient, header: Dataset, system: str, patient_id: str) -> str:
    """Write a Patient from the header: for a demo server, where nobody registers patients."""
    digest = hashlib.sha256(f"{system}|{patient_id}".encode()).hexdigest()[:32]
    patient: dict[str, Any] = {
        "resourceType": "Patient",
        "id": digest,
        "identifier": [{"system": system, "value": patient_id}],
    }
    if name := str(header.get("PatientName", "") or "").strip():
        family, _, given = name.partition("^")
        patient["name"] = [
            {"family": family, **({"given": given.split("^")} if given.strip("^") else {})}
        ]
    sex = {"M": "male", "F": "female", "O": "other"}.get(str(header.get("PatientSex", "") or ""))
    if sex:
        patient["gender"] = sex
    born = str(header.get("PatientBirthDate", "") or "")
    if len(born) == 8 and born.isdigit():
        patient["birthDate"] = f"{born[:4]}-{born[4:6]}-{born[6:]}"
    fhir.put(patient)
    return digest
