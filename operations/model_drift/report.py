"""What a comparison of two spans of a model version says; JSON by `as_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from fhir_ext.store.agreement import ChangedNumber
from fhir_ext.store.samples import SampledVersion
from models.monitoring.paired import PairedCategories, PairedNumbers, PairedRefusals
from models.monitoring.rates import RateChange
from models.monitoring.stability import NumberChange, ShareChange

Json = dict[str, Any]

#: `too-few`: not compared. A change is `moderate` or `major` when it is both large by the
#: thresholds and not chance by the adjusted p.
Verdict = Literal["too-few", "stable", "moderate", "major"]


@dataclass(frozen=True, slots=True)
class Span:
    """From `begin` to before `end`."""

    begin: datetime
    end: datetime

    @property
    def days(self) -> float:
        return (self.end - self.begin) / timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ShareRow:
    """A fact about the images, or a category that was given.

    Attributes:
        name: of the fact, or `name/region` of the output.
        before, now: how many values there are.
        seen: how often each value is there now, the most frequent first.
        change: None when there are too few.
        p: adjusted for all tests of the report.
    """

    name: str
    before: int
    now: int
    seen: Mapping[str, int]
    change: ShareChange | None = None
    p: float | None = None
    verdict: Verdict = "too-few"


@dataclass(frozen=True, slots=True)
class NumberRow:
    """A number that was given: `name/region`; attributes as those of `ShareRow`.

    Attributes:
        seen: now, at the quantiles of `models.monitoring.stability.QUANTILES`; None without any.
    """

    name: str
    before: int
    now: int
    seen: tuple[float, ...] | None
    change: NumberChange | None = None
    p: float | None = None
    verdict: Verdict = "too-few"


@dataclass(frozen=True, slots=True)
class RateRow:
    """Part of the results that a rule withheld, or that reviewers decided so.

    Attributes:
        name: of the rule or the outcome.
        before, of_before, now, of_now: how many of how many.
        change: None when there are too few.
        p: adjusted for all tests of the report.
    """

    name: str
    before: int
    of_before: int
    now: int
    of_now: int
    change: RateChange | None = None
    p: float | None = None
    verdict: Verdict = "too-few"


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds at the quantiles of `models.monitoring.stability.QUANTILES`; None: too few."""

    before: tuple[float, ...] | None
    now: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class DriftReport:
    """One model version, now against its reference.

    Attributes:
        before, now: sets of images in either span.
        mix: what was shown.
        refusals: by rule; `any` is what was refused as a whole.
        numbers, categories: what was said.
        reviews: by outcome.
        changed_before, changed: numbers that reviewers changed.
    """

    version: SampledVersion
    reference: Span
    window: Span
    before: int
    now: int
    mix: tuple[ShareRow, ...]
    refusals: tuple[RateRow, ...]
    numbers: tuple[NumberRow, ...]
    categories: tuple[ShareRow, ...]
    latency: Latency
    reviews: tuple[RateRow, ...]
    changed_before: tuple[ChangedNumber, ...] = ()
    changed: tuple[ChangedNumber, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """A shadow beside the version that wrote, on the same images.

    Attributes:
        first, second: the version that wrote, and the shadow.
        pairs: sets of images that both looked at.
        numbers, categories: by `name/region`, of the images where both gave one.
        refusals: by output; a number or category that is not there was withheld.
        latency: mean seconds of each; None where they are not known.
    """

    service: str
    first: str
    second: str
    pairs: int
    numbers: Mapping[str, PairedNumbers]
    categories: Mapping[str, PairedCategories]
    refusals: Mapping[str, PairedRefusals]
    latency: tuple[float | None, float | None]


def as_json(report: DriftReport | ShadowReport) -> Json:
    """The report as plain JSON values; instants in ISO 8601."""
    found: Json = _plain(asdict(report))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
