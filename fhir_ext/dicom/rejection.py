"""A note that withdraws a result: Key Object Selection "Rejected for Quality Reasons".

The archive keeps the rejected SR, and the SEG where there is one; whoever reads the study finds
beside them, in the way of IHE Imaging Object Change Management, that they must not be used
(PS3.16 TID 2010, CID 7010).

highdicom takes about a second to import: import this module only where a note is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom import Dataset

from fhir_ext.dicom.inherit import finish, local_time, restore, usable_header
from fhir_ext.dicom.sr import SERIES_NUMBER_BASE
from fhir_ext.resources.codes import MANUFACTURER, REJECTED_FOR_QUALITY

#: Key Object Description (113012); the reason itself is clinical text and stays in FHIR.
DESCRIPTION = "A reviewer rejected this result; the reason is in the FHIR server."


def build_rejection(
    rejected: Dataset | Sequence[Dataset],
    header: Dataset,
    series_uid: str,
    instance_uid: str,
    issued: datetime,
    *,
    description: str = DESCRIPTION,
) -> Dataset:
    """The note for objects of one result; the same arguments give the same bytes.

    Args:
        rejected: SOP class and the UIDs down to the instance are needed.
        header: an instance of the study; patient and study modules are copied from it.
        series_uid, instance_uid: of the note.
        issued: when it was rejected; aware.
        description: Key Object Description; no clinical text.

    Returns:
        With file meta information, Explicit VR Little Endian, UTF-8.
    """
    objects = (rejected,) if isinstance(rejected, Dataset) else rejected
    evidence = [_as_evidence(item, header) for item in objects]
    local = local_time(issued, header)
    content = KeyObjectSelection(
        document_title=CodedConcept(REJECTED_FOR_QUALITY.code, "DCM", REJECTED_FOR_QUALITY.display),
        referenced_objects=evidence,
        description=description,
    )
    note = KeyObjectSelectionDocument(
        evidence=evidence,
        content=content,
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER_BASE,
        sop_instance_uid=instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        specific_character_set="ISO_IR 192",
        series_description="Rejected result",
        content_date=local.date(),
        content_time=local.time().replace(microsecond=0),
    )
    restore(note, header, evidence[0])
    finish(note, header, local)
    return note


def _as_evidence(rejected: Dataset, header: Dataset) -> Dataset:
    """Patient and study of the header, identity of the object."""
    found = usable_header(header)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(found, keyword, rejected[keyword].value)
    for keyword in ("Rows", "Columns"):
        # By these highdicom tells images from documents.
        if keyword in found and keyword not in rejected:
            delattr(found, keyword)
    return found
