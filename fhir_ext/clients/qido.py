"""Rows of QIDO-RS answers (DICOM JSON, PS3.18 annex F) and how to get all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from fhir_ext.errors import UpstreamUnavailable

Row = dict[str, Any]

STUDY_UID, SERIES_UID, SOP_UID = "0020000D", "0020000E", "00080018"

#: Rows asked for at once; the smallest server default seen is 100.
PAGE = 100
#: A listing this short is whole: no server cuts its answers below.
_SURELY_WHOLE = 50


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """One study as QIDO-RS describes it; texts are None where it is silent."""

    study_instance_uid: str
    study_date: str | None
    modalities: tuple[str, ...]
    instance_count: int
    series_count: int
    description: str | None
    accession_number: str | None


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """One series as QIDO-RS describes it."""

    series_instance_uid: str
    modality: str
    instance_count: int
    description: str | None
    number: int | None
    body_part: str | None


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """One instance as QIDO-RS describes it; `number_of_frames` is 1 where it is silent."""

    sop_instance_uid: str
    sop_class_uid: str
    number_of_frames: int
    rows: int | None
    columns: int | None
    instance_number: int | None


def checked_rows(answer: Any) -> list[Row]:
    """The answer of a search, if it is one.

    Raises:
        UpstreamUnavailable: `malformed-answer`: not an array of objects.
    """
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise UpstreamUnavailable(
            "the archive's search answer cannot be read", code="malformed-answer"
        )
    return answer


def all_pages(page: Callable[[int], list[Row]], first: list[Row], key: str) -> Iterator[Row]:
    """Rows of this and all further pages, each once.

    Goes on until a page brings nothing new: an archive may cut its answers where it likes,
    and may ignore the offset.
    """
    seen: set[str] = set()
    rows, offset = first, 0
    while True:
        fresh = [row for row in rows if (uid := text(row, key)) and uid not in seen]
        seen.update(text(row, key) for row in fresh)
        yield from fresh
        offset += len(rows)
        if len(rows) < _SURELY_WHOLE or not fresh:
            return
        rows = page(offset)


def within(row: Row, date_from: date, date_to: date) -> bool:
    """Whether the row's StudyDate lies in the range or is not told."""
    found = text(row, "00080020")
    return not found or f"{date_from:%Y%m%d}" <= found <= f"{date_to:%Y%m%d}"


def study_info(row: Row) -> StudyInfo:
    """One row of a study search."""
    return StudyInfo(
        study_instance_uid=text(row, STUDY_UID),
        study_date=text(row, "00080020") or None,
        modalities=tuple(str(value) for value in _values(row, "00080061")),
        instance_count=integer(row, "00201208") or 0,
        series_count=integer(row, "00201206") or 0,
        description=text(row, "00081030") or None,
        accession_number=text(row, "00080050") or None,
    )


def instance_info(row: Row) -> InstanceInfo:
    """One row of an instance search."""
    return InstanceInfo(
        sop_instance_uid=text(row, SOP_UID),
        sop_class_uid=text(row, "00080016"),
        number_of_frames=integer(row, "00280008") or 1,
        rows=integer(row, "00280010"),
        columns=integer(row, "00280011"),
        instance_number=integer(row, "00200013"),
    )


def _values(row: Row, tag: str) -> list[Any]:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def text(row: Row, tag: str) -> str:
    """First value of an element; empty when absent."""
    values = _values(row, tag)
    return str(values[0]).strip() if values and values[0] is not None else ""


def integer(row: Row, tag: str) -> int | None:
    """First value of an element as a whole number; None when it is none."""
    try:
        return int(float(text(row, tag)))
    except (ValueError, OverflowError):
        return None
