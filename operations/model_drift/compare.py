"""Compares the samples of two spans; pure functions of what was sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from fhir_ext.settings import MonitoringSettings
from fhir_ext.store.agreement import ChangedNumber, agreement
from fhir_ext.store.sample_tables import ModelSample
from fhir_ext.store.samples import SampledVersion
from fhir_ext.store.tables import ReviewOutcome
from models.monitoring.rates import holm, rate_change
from models.monitoring.stability import number_change, quantiles, share_change
from operations.model_drift.report import (
    DriftReport,
    Latency,
    NumberRow,
    RateRow,
    ShareRow,
    Span,
    Verdict,
)

#: What was refused as a whole, beside the single rules.
ANY: Final = "any"

OUTCOMES: Final = ("accept", "modify", "reject")

Row = TypeVar("Row", ShareRow, NumberRow, RateRow)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one span.

    Attributes:
        samples: one for each set of images.
        reviews: decided in the span.
    """

    samples: Sequence[ModelSample]
    reviews: Sequence[ReviewOutcome] = ()


def compare(
    version: SampledVersion,
    spans: tuple[Span, Span],
    before: Seen,
    now: Seen,
    settings: MonitoringSettings,
) -> DriftReport:
    """What changed from a reference to a window.

    Args:
        spans: reference and window.
        before, now: what is known of them.
        settings: thresholds.
    """
    first, second = before.samples, now.samples
    report = DriftReport(
        version,
        *spans,
        len(first),
        len(second),
        mix=_shares(first, second, lambda sample: sample.mix, settings),
        refusals=_refusals(first, second, settings),
        numbers=_numbers(first, second, settings),
        categories=_shares(first, second, lambda sample: sample.categories, settings),
        latency=Latency(_latency(first, settings), _latency(second, settings)),
        reviews=_reviews(before.reviews, now.reviews, settings),
        changed_before=_changed(before.reviews),
        changed=_changed(now.reviews),
    )
    return _judged(report, settings)


def _shares(
    before: Sequence[ModelSample],
    now: Sequence[ModelSample],
    values: Callable[[ModelSample], Mapping[str, str]],
    settings: MonitoringSettings,
) -> tuple[ShareRow, ...]:
    first, second = _counted(map(values, before)), _counted(map(values, now))
    rows = []
    for name in sorted(first.keys() | second.keys()):
        counts = first.get(name, Counter()), second.get(name, Counter())
        seen = dict(counts[1].most_common())
        row = ShareRow(name, counts[0].total(), counts[1].total(), seen)
        if min(row.before, row.now) >= settings.least:
            row = replace(row, change=share_change(*counts))
        rows.append(row)
    return tuple(rows)


def _counted(samples: Iterable[Mapping[str, str]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for sample in samples:
        for name, value in sample.items():
            found.setdefault(name, Counter())[value] += 1
    return found


def _numbers(
    before: Sequence[ModelSample], now: Sequence[ModelSample], settings: MonitoringSettings
) -> tuple[NumberRow, ...]:
    names = sorted({name for sample in (*before, *now) for name in sample.numbers})
    rows = []
    for name in names:
        first, second = (
            [sample.numbers[name] for sample in samples if name in sample.numbers]
            for samples in (before, now)
        )
        row = NumberRow(name, len(first), len(second), quantiles(second) if second else None)
        if min(row.before, row.now) >= settings.least:
            row = replace(row, change=number_change(first, second))
        rows.append(row)
    return tuple(rows)


def _refusals(
    before: Sequence[ModelSample], now: Sequence[ModelSample], settings: MonitoringSettings
) -> tuple[RateRow, ...]:
    rules = sorted({rule for sample in (*before, *now) for rule in sample.rules})
    counts = [
        (
            ANY,
            sum(sample.status == "refused" for sample in before),
            sum(sample.status == "refused" for sample in now),
        ),
        *(
            (rule, sum(rule in s.rules for s in before), sum(rule in s.rules for s in now))
            for rule in rules
        ),
    ]
    return tuple(
        _rate(name, first, len(before), second, len(now), settings)
        for name, first, second in counts
    )


def _reviews(
    before: Sequence[ReviewOutcome], now: Sequence[ReviewOutcome], settings: MonitoringSettings
) -> tuple[RateRow, ...]:
    first, second = (Counter(row.outcome for row in rows) for rows in (before, now))
    return tuple(
        _rate(name, first[name], len(before), second[name], len(now), settings) for name in OUTCOMES
    )


def _rate(
    name: str, before: int, of_before: int, now: int, of_now: int, settings: MonitoringSettings
) -> RateRow:
    row = RateRow(name, before, of_before, now, of_now)
    if min(of_before, of_now) < settings.least:
        return row
    return replace(row, change=rate_change(before, of_before, now, of_now))


def _latency(
    samples: Sequence[ModelSample], settings: MonitoringSettings
) -> tuple[float, ...] | None:
    seconds = [s.latency_seconds for s in samples if s.latency_seconds is not None]
    return quantiles(seconds) if len(seconds) >= settings.least else None


def _changed(reviews: Sequence[ReviewOutcome]) -> tuple[ChangedNumber, ...]:
    return tuple(number for item in agreement(reviews) for number in item.changed)


def _judged(report: DriftReport, settings: MonitoringSettings) -> DriftReport:
    """Verdicts, after the p-values of all tests of the report are adjusted together."""
    parts: dict[str, Sequence[ShareRow | NumberRow | RateRow]] = {
        "mix": report.mix,
        "refusals": report.refusals,
        "numbers": report.numbers,
        "categories": report.categories,
        "reviews": report.reviews,
    }
    adjusted = holm(
        {
            f"{part}/{row.name}": row.change.p
            for part, rows in parts.items()
            for row in rows
            if row.change is not None
        }
    )

    def judged(part: str, row: Row) -> Row:
        p = adjusted.get(f"{part}/{row.name}")
        return replace(row, p=p, verdict=_verdict(row, p, settings))

    return replace(
        report,
        mix=tuple(judged("mix", row) for row in report.mix),
        refusals=tuple(judged("refusals", row) for row in report.refusals),
        numbers=tuple(judged("numbers", row) for row in report.numbers),
        categories=tuple(judged("categories", row) for row in report.categories),
        reviews=tuple(judged("reviews", row) for row in report.reviews),
    )


def _verdict(
    row: ShareRow | NumberRow | RateRow, p: float | None, settings: MonitoringSettings
) -> Verdict:
    if row.change is None or p is None:
        return "too-few"
    if p >= settings.alpha:
        return "stable"
    if isinstance(row, RateRow):
        assert row.change is not None
        return _size(abs(row.change.difference), settings.rate_moderate, settings.rate_major)
    assert row.change is not None
    return _size(row.change.psi, settings.psi_moderate, settings.psi_major)


def _size(value: float, moderate: float, major: float) -> Verdict:
    if value >= major:
        return "major"
    return "moderate" if value >= moderate else "stable"
