"""What a DICOM document of ours takes over from the images it speaks of: patient, study, clock."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.valuerep import DA, DT, TM

#: Type 2 attributes that highdicom wants to find in the evidence.
_TYPE_2: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
#: References of the patient and study modules; an item needs both UIDs (PS3.3 Table 10-11).
_REFERENCES: Final = ("ReferencedPatientSequence", "ReferencedStudySequence")
_SEXES: Final = frozenset({"", "M", "F", "O"})


def usable_header(source: Dataset) -> Dataset:
    """A copy that highdicom accepts: type 2 attributes present, and valid where it checks.

    Incomplete references, which de-identification leaves behind, are dropped for good: an
    object that holds them is not valid.
    """
    found = copy.deepcopy(source)
    for keyword in _REFERENCES:
        if keyword in found:
            found[keyword].value = [item for item in found[keyword].value if _complete(item)]
            if not found[keyword].value:
                del found[keyword]
    for keyword in _TYPE_2:
        # highdicom warns about a name of one component, and quotes it.
        if keyword not in found or keyword == "PatientName":
            setattr(found, keyword, "")
    if str(found.PatientSex or "") not in _SEXES:
        found.PatientSex = ""
    for keyword, representation in (
        ("PatientBirthDate", DA),
        ("StudyDate", DA),
        ("StudyTime", TM),
    ):
        try:
            representation(found.get(keyword))
        except ValueError:
            setattr(found, keyword, "")
    return found


def _complete(reference: Dataset) -> bool:
    return bool(
        reference.get("ReferencedSOPClassUID") and reference.get("ReferencedSOPInstanceUID")
    )


def restore(document: Dataset, source: Dataset, usable: Dataset) -> None:
    """Patient and study attributes exactly as the source has them, valid or not."""
    for keyword in _TYPE_2:
        if keyword in source and source[keyword] != usable[keyword]:
            element: DataElement = source[keyword]
            document.add(element)


def local_time(moment: datetime, source: Dataset) -> datetime:
    """An instant in the zone of the source (Timezone Offset From UTC, 0008,0201)."""
    return moment.astimezone(_time_zone(source))


def _time_zone(source: Dataset) -> timezone:
    """The zone in which the source states its times; UTC where it states none."""
    offset = str(source.get("TimezoneOffsetFromUTC", "") or "").strip()
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return UTC


def finish(document: Dataset, source: Dataset, local: datetime) -> None:
    """Replace the instants that highdicom takes from the clock by the given one.

    Args:
        local: in the zone of the source.
    """
    document.InstanceCreationDate = local.strftime("%Y%m%d")
    document.InstanceCreationTime = local.strftime("%H%M%S")
    for item in document.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = DT(local.strftime("%Y%m%d%H%M%S%z"))
    if source.get("TimezoneOffsetFromUTC"):
        document.TimezoneOffsetFromUTC = local.strftime("%z")
