"""Which of a study's series a model is shown, by `inputs` of its manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from models.gates.expressions import matched_part
from models.manifest.inputs import Inputs

#: Codes of the CodeSystem `not-applied-reason`.
BODY_PART: Final = "body-part"
DESCRIPTION: Final = "description"
NOT_PREFERRED: Final = "not-preferred"


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What is known of one series before its pixels are read; None or empty: not known.

    Attributes:
        series_instance_uid: which.
        slices: number of its instances.
        description: SeriesDescription (0008,103E).
        body_part: BodyPartExamined (0018,0015).
        thickness_mm: SliceThickness (0018,0050).
        kernel: ConvolutionKernel (0018,1210), values joined by `\\`.
        number: SeriesNumber (0020,0011).
    """

    series_instance_uid: str
    slices: int
    description: str = ""
    body_part: str | None = None
    thickness_mm: float | None = None
    kernel: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A series that is not shown.

    Attributes:
        series: which.
        reason: code in the CodeSystem `not-applied-reason`.
        seen: what was found; a rule of the manifest or a count, no text of the series.
    """

    series: SeriesFacts
    reason: str
    seen: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Series that are shown, the most wanted first, and those that are not."""

    kept: tuple[SeriesFacts, ...]
    dropped: tuple[Dropped, ...]


def select(inputs: Inputs, candidates: Iterable[SeriesFacts]) -> Selection:
    """Choose between series that a model could be shown.

    A series whose body part is not known is kept. Of the remaining ones, those with fewer than
    `min_slices` come last; they are left to the gate. What `prefer` does not decide, the series
    number and the UID do, so that the order of the candidates does not matter.
    """
    kept: list[SeriesFacts] = []
    dropped: list[Dropped] = []
    for series in candidates:
        reason = _why_not(inputs, series)
        if reason is None:
            kept.append(series)
        else:
            dropped.append(Dropped(series, *reason))
    kept.sort(key=lambda series: _rank(inputs, series))
    most = None if inputs.series is None else inputs.series.at_most
    if most is not None:
        dropped += [Dropped(series, NOT_PREFERRED, f"{most} shown") for series in kept[most:]]
        kept = kept[:most]
    dropped.sort(key=lambda item: item.series.series_instance_uid)
    return Selection(tuple(kept), tuple(dropped))


def softness(kernel: str | None) -> float | None:
    """How smooth a kernel is, from 0 (smooth) to 100 (sharp); None when it is not known.

    An order for kernels of one manufacturer, by their names: the number that Siemens (`B30f`,
    `Br40d`, `I31f`) gives in the name; the decade of Canon (`FC08` body, `FC52` lung); the
    letter of Philips (`A` to `F`, `L`); the words of GE. Nothing is measured.
    """
    name = (kernel or "").split("\\", 1)[0].strip().upper()
    if name in _WORDS:
        return _WORDS[name]
    if found := re.fullmatch(r"FC(\d\d)", name):
        return _CANON[int(found[1]) // 10]
    if found := re.fullmatch(r"[A-Z]{1,2}(\d\d)[A-Z0-9]*", name):
        return float(found[1])
    return None


#: GE and Philips.
_WORDS: Final = {
    "SOFT": 20.0,
    "STANDARD": 35.0,
    "CHST": 45.0,
    "DETAIL": 50.0,
    "LUNG": 70.0,
    "BONE": 75.0,
    "BONEPLUS": 80.0,
    "EDGE": 90.0,
    "A": 20.0,
    "B": 30.0,
    "C": 40.0,
    "D": 55.0,
    "E": 65.0,
    "L": 70.0,
    "F": 80.0,
}
#: Toshiba and Canon, by the first digit of FCnn.
_CANON: Final = (30.0, 35.0, 30.0, 60.0, 40.0, 65.0, 40.0, 70.0, 75.0, 80.0)


def _why_not(inputs: Inputs, series: SeriesFacts) -> tuple[str, str] | None:
    """(reason, what was seen) of the first condition that does not hold."""
    part = (series.body_part or "").strip().upper()
    if inputs.body_part and part and part not in {known.upper() for known in inputs.body_part}:
        return BODY_PART, "another body part"
    chosen = inputs.series
    if chosen is None:
        return None
    for pattern in chosen.exclude_description:
        if _found(pattern, series):
            return DESCRIPTION, f"matches {pattern}"
    if chosen.description and not any(_found(each, series) for each in chosen.description):
        return DESCRIPTION, f"matches none of {', '.join(chosen.description)}"
    return None


def _found(pattern: str, series: SeriesFacts) -> bool:
    return re.search(pattern, matched_part(series.description), re.IGNORECASE) is not None


def _rank(inputs: Inputs, series: SeriesFacts) -> tuple[object, ...]:
    """Smallest first. What is not known comes after all that is."""
    wanted = inputs.series.prefer if inputs.series else ()
    return (
        series.slices < inputs.min_slices,
        *(_KEYS[name](series) for name in wanted),
        _or_last(series.number),
        series.series_instance_uid,
    )


def _or_last(value: float | None, sign: int = 1) -> float:
    return inf if value is None else sign * value


_KEYS: Final[dict[str, Callable[[SeriesFacts], float]]] = {
    "most-slices": lambda series: -series.slices,
    "thinnest": lambda series: _or_last(series.thickness_mm),
    "thickest": lambda series: _or_last(series.thickness_mm, -1),
    "softest-kernel": lambda series: _or_last(softness(series.kernel)),
    "first": lambda series: _or_last(series.number),
    "latest": lambda series: _or_last(series.number, -1),
}
