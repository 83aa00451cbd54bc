"""Codes, instants and numbers as the status page says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes import (
    CLASSIFICATION,
    DETECTION,
    ERROR,
    MEASUREMENT,
    MODEL_ALERT,
    NOT_APPLIED_REASON,
    REFUSAL_REASON,
    REGION_TEXT,
    TASK_REASON,
    UNIT_TEXT,
    LocalSystem,
)
from fhir_ext.resources.codes.naming import words
from fhir_ext.results import Region

STATE_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "queued": "in the queue",
        "running": "being worked on",
        "waiting": "waiting, will be tried again",
        "done": "done",
        "parked": "needs a human",
        "resumed": "resumed by a human",
        "nothing-to-do": "nothing to do",
    }
)

#: Why a study of the archive has no ImagingStudy (`subscriptions.intake.patients`).
UNMATCHED_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no-patient-id": "The header has no PatientID",
        "unknown-issuer": "The issuer of the PatientID is not in the settings",
        "no-match": "No Patient has this identifier",
        "several-matches": "Several Patients have this identifier",
    }
)

#: FHIR R4 Observation.status, as far as a result of ours takes it.
REVIEW_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "preliminary": "preliminary: no human has looked yet",
        "final": "final: accepted by a human",
        "amended": "amended by a human",
        "cancelled": "cancelled: replaced by a newer result",
        "entered-in-error": "entered in error: rejected or recalled",
    }
)

#: Steps that are parts of another step, and of which.
PART_OF: Final[Mapping[str, str]] = MappingProxyType(
    {"fetch": "analyze", "infer": "analyze", "store-dicom": "publish", "write-fhir": "publish"}
)


def reason_words(code: str | None) -> str:
    """Why a study waits, is parked, or has nothing to do."""
    return _display((TASK_REASON, NOT_APPLIED_REASON, REFUSAL_REASON, ERROR), code)


def refusal_words(code: str) -> str:
    return _display((REFUSAL_REASON,), code)


def not_applied_words(code: str) -> str:
    return _display((NOT_APPLIED_REASON,), code)


def unmatched_words(code: str) -> str:
    return UNMATCHED_WORDS.get(code) or reason_words(code)


def output_words(code: str) -> str:
    """What a measurement, classification or detection is called; a site's name as words."""
    said = _display((MEASUREMENT, CLASSIFICATION, DETECTION), code)
    return words(code) if said == code else said


def region_words(code: str) -> str:
    return REGION_TEXT[Region(code)] if code in set(Region) else code


def unit_words(code: str) -> str:
    return UNIT_TEXT.get(code, code)


def alert_words(kind: str) -> str:
    """What an alert about a model version says."""
    return _display((MODEL_ALERT,), kind)


def _display(systems: Sequence[LocalSystem], code: str | None) -> str:
    """The display of a code in the first system that has it; the code itself without one."""
    if not code:
        return ""
    for system in systems:
        if code in system:
            return system.coding(code).display
    return code


def clock(instant: str, today: str) -> str:
    """An ISO instant as time of day, with its date unless that is the date of `today`."""
    if not instant:
        return ""
    moment, reference = datetime.fromisoformat(instant), datetime.fromisoformat(today)
    return moment.strftime("%H:%M:%S" if moment.date() == reference.date() else "%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} days"


def steps(step_seconds: Mapping[str, float]) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """(step, seconds, its parts) in the order in which the steps ran."""
    return [
        (
            name,
            seconds,
            [(part, step_seconds[part]) for part in step_seconds if PART_OF.get(part) == name],
        )
        for name, seconds in step_seconds.items()
        if PART_OF.get(name) not in step_seconds
    ]


def uid_parts(uid: str, tail: int = 10) -> tuple[str, str]:
    """A UID in two pieces: the first may be cut by the page's style, the second tells it apart."""
    return (uid, "") if len(uid) <= tail + 12 else (uid[:-tail], uid[-tail:])
