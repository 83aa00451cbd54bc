"""ImagingStudy: what the archive holds of one study."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom import Dataset

from fhir_ext.resources.codes import ACCESSION, BODY_PARTS, DCM, DICOM_UID, OTHER_MODALITY, concept
from fhir_ext.resources.ids import imaging_study_id

Json = dict[str, Any]

#: Statuses that a human or another system set for a reason; the archive does not undo them.
_KEPT_STATUS: Final = frozenset({"cancelled", "entered-in-error"})

_OID_PREFIX: Final = "urn:oid:"
_MODALITY: Final = re.compile(r"[A-Z0-9_]{1,16}")


@dataclass(frozen=True, slots=True)
class ArchiveSeries:
    """One series as QIDO-RS describes it.

    Attributes:
        modality: Modality (0008,0060).
        number: SeriesNumber (0020,0011).
        description: SeriesDescription (0008,103E).
        instance_count: NumberOfSeriesRelatedInstances (0020,1209).
        body_part: BodyPartExamined (0018,0015).
    """

    series_instance_uid: str
    modality: str
    number: int | None = None
    description: str | None = None
    instance_count: int = 0
    body_part: str | None = None


@dataclass(frozen=True, slots=True)
class ArchiveStudy:
    """One study of the archive.

    Attributes:
        started: FHIR R4 dateTime; only a date where the time zone is not known.
        description: StudyDescription (0008,1030).
        accession: AccessionNumber (0008,0050).
    """

    study_instance_uid: str
    series: tuple[ArchiveSeries, ...]
    started: str | None = None
    description: str | None = None
    accession: str | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Distinct modalities of the series, sorted."""
        return tuple(sorted({item.modality for item in self.series if _coded(item.modality)}))


def study_from_header(
    study_instance_uid: str, header: Dataset, series: Sequence[ArchiveSeries]
) -> ArchiveStudy:
    """A study described by the header of any of its instances.

    Args:
        header: an instance of the study, without pixel data.
        series: its series.
    """
    return ArchiveStudy(
        study_instance_uid=study_instance_uid,
        series=tuple(series),
        started=_started(header),
        description=_text(header, "StudyDescription"),
        accession=_text(header, "AccessionNumber"),
    )


def build_imaging_study(
    study: ArchiveStudy,
    *,
    patient_reference: str | None,
    endpoint_reference: str | None = None,
    existing: Json | None = None,
) -> Json:
    """The ImagingStudy of an archive study, for a PUT under its own id.

    What the archive does not know (basedOn, notes, extensions, the subject's display) is
    taken over from `existing`, so that an unchanged study gives an equal resource.

    Args:
        patient_reference: `Patient/<id>`; None keeps the subject of `existing`.
        endpoint_reference: `Endpoint/<id>` of the archive.
        existing: the resource as it was read.

    Raises:
        ValueError: there is neither a patient nor an existing subject.
    """
    found = copy.deepcopy(existing) if existing else {}
    found["resourceType"] = "ImagingStudy"
    found["id"] = imaging_study_id(study.study_instance_uid)
    if found.get("status") not in _KEPT_STATUS:
        found["status"] = "available"
    found["subject"] = _subject(found.get("subject"), patient_reference)
    _identify(found, study.study_instance_uid)
    _set(found, "started", study.started)
    _set(found, "description", study.description)
    _identify_order(found, study.accession)
    _set(found, "modality", [_modality(code) for code in study.modalities])
    if endpoint_reference and not _has_reference(found.get("endpoint"), endpoint_reference):
        found["endpoint"] = [*found.get("endpoint", []), {"reference": endpoint_reference}]
    found["numberOfSeries"] = len(study.series)
    found["numberOfInstances"] = sum(item.instance_count for item in study.series)
    before = {item.get("uid"): item for item in found.get("series", [])}
    _set(
        found,
        "series",
        [_series(item, before.get(item.series_instance_uid)) for item in _in_order(study.series)],
    )
    return found


def study_instance_uid_of(imaging_study: Json) -> str | None:
    """The DICOM Study Instance UID of an ImagingStudy; None when it names none."""
    for identifier in imaging_study.get("identifier", []):
        if identifier.get("system") == DICOM_UID and identifier.get("value"):
            return str(identifier["value"]).removeprefix(_OID_PREFIX)
    return None


def _in_order(series: Sequence[ArchiveSeries]) -> list[ArchiveSeries]:
    return sorted(
        series, key=lambda s: (s.number is None, s.number or 0, s.modality, s.series_instance_uid)
    )


def _series(series: ArchiveSeries, existing: Json | None) -> Json:
    found = dict(existing or {})
    found["uid"] = series.series_instance_uid
    if series.number is not None and series.number >= 0:
        found["number"] = series.number
    found["modality"] = _modality(
        series.modality if _coded(series.modality) else OTHER_MODALITY.code
    )
    _set(found, "description", series.description)
    found["numberOfInstances"] = series.instance_count
    site = BODY_PARTS.get((series.body_part or "").strip().upper())
    if site is not None:
        found["bodySite"] = site.as_json()
    return found


def _subject(existing: Json | None, reference: str | None) -> Json:
    if existing and (reference is None or existing.get("reference") == reference):
        return existing
    if reference is None:
        raise ValueError("an ImagingStudy needs a subject")
    return {"reference": reference}


def _identify(resource: Json, study_instance_uid: str) -> None:
    if study_instance_uid_of(resource) != study_instance_uid:
        identifier = {"system": DICOM_UID, "value": f"{_OID_PREFIX}{study_instance_uid}"}
        resource["identifier"] = [identifier, *resource.get("identifier", [])]


def _identify_order(resource: Json, accession: str | None) -> None:
    """Accession number as identifier of type ACSN (FHIR R4 ImagingStudy, 11.11.3)."""
    kept = [item for item in resource.get("identifier", []) if not _is_accession(item)]
    before = [item for item in resource.get("identifier", []) if _is_accession(item)]
    if accession is None:
        accessions = before
    elif any(item.get("value") == accession for item in before):
        accessions = [item for item in before if item.get("value") == accession]
    else:
        accessions = [{"type": concept(ACCESSION), "value": accession}]
    resource["identifier"] = [*kept, *accessions]


def _is_accession(identifier: Json) -> bool:
    codings = identifier.get("type", {}).get("coding", [])
    return any(coding.get("code") == ACCESSION.code for coding in codings)


def _coded(modality: str) -> bool:
    return bool(_MODALITY.fullmatch(modality))


def _modality(code: str) -> Json:
    return {"system": DCM, "code": code}


def _has_reference(references: Sequence[Json] | None, wanted: str) -> bool:
    return any(item.get("reference") == wanted for item in references or ())


def _set(resource: Json, name: str, value: Any) -> None:
    """Set an element; an empty value leaves what is there, as FHIR knows no empty elements."""
    if value:
        resource[name] = value


def _text(header: Dataset, keyword: str) -> str | None:
    """A header text as FHIR `string`: control characters become blanks, no blank ends."""
    raw = str(header.get(keyword, "") or "")
    return "".join(char if char.isprintable() else " " for char in raw).strip() or None


def _started(header: Dataset) -> str | None:
    """StudyDate and StudyTime as FHIR dateTime.

    A FHIR time needs a time zone. Without TimezoneOffsetFromUTC (0008,0201) none is
    invented: the date stands alone.
    """
    date = re.sub(r"[^0-9]", "", str(header.get("StudyDate", "") or ""))
    time = re.sub(r"[^0-9.]", "", str(header.get("StudyTime", "") or "")).partition(".")[0]
    offset = str(header.get("TimezoneOffsetFromUTC", "") or "").strip()
    try:
        day = datetime.strptime(date, "%Y%m%d").date()  # noqa: DTZ007  a date has no zone
    except ValueError:
        return None
    if len(time) != 6 or not re.fullmatch(r"[+-]\d{4}", offset):
        return day.isoformat()
    try:
        moment = datetime.strptime(f"{date}{time}{offset}", "%Y%m%d%H%M%S%z")
    except ValueError:
        return day.isoformat()
    return moment.isoformat()
