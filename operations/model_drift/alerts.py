"""Which changes of a comparison somebody is told of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from fhir_ext.resources.ids import model_alert_id
from fhir_ext.store.sample_tables import ModelAlert
from operations.model_drift.report import DriftReport, NumberRow, RateRow, ShareRow, Span

Row = ShareRow | NumberRow | RateRow

INPUT: Final = "input-drift"
OUTPUT: Final = "output-drift"
REFUSALS: Final = "refusal-drift"
AGREEMENT: Final = "agreement-drift"
KINDS: Final = (INPUT, OUTPUT, REFUSALS, AGREEMENT)


def alerts_of(report: DriftReport, title: str, at: datetime) -> list[ModelAlert]:
    """One alert for each kind of change that is there.

    The same change found again in the same period has the same id, so that it is told once:
    periods are as long as the window and begin on fixed days.

    Args:
        title: of the version.
        at: when it was found.
    """
    found = []
    for kind, rows in rows_by_kind(report).items():
        changed = [row for row in rows if row.verdict in ("moderate", "major")]
        if changed:
            found.append(_alert(report, title, at, kind, changed))
    return found


def rows_by_kind(report: DriftReport) -> dict[str, tuple[Row, ...]]:
    """What was compared, by the kind of change that it shows."""
    return {
        INPUT: report.mix,
        OUTPUT: (*report.numbers, *report.categories),
        REFUSALS: report.refusals,
        AGREEMENT: report.reviews,
    }


def sentence(row: Row) -> str:
    """What changed in a row, in words.

    Raises:
        ValueError: the row was not compared.
    """
    if row.change is None or row.p is None:
        raise ValueError("there was too little to compare")
    chance = f"p {row.p:.2g}" if row.p >= 1e-4 else "p < 0.0001"
    if not isinstance(row, RateRow):
        low, high = (f"{end:.2f}" for end in row.change.interval)
        return f"{row.name} PSI {row.change.psi:.2f} ({low} to {high}, {chance})"
    low, high = (f"{100 * end:+.1f}" for end in row.change.interval)
    return (
        f"{row.name} {row.now} of {row.of_now}, was {row.before} of {row.of_before} "
        f"({100 * row.change.difference:+.1f} points, {low} to {high}, {chance})"
    )


def spans_in_words(reference: Span, window: Span) -> str:
    """What was compared, by days."""
    named = " to ".join
    before, now = (
        named((f"{span.begin:%Y-%m-%d}", f"{span.end:%Y-%m-%d}")) for span in (reference, window)
    )
    return f"{now} against {before}"


def _alert(
    report: DriftReport, title: str, at: datetime, kind: str, changed: list[Row]
) -> ModelAlert:
    version, window = report.version, report.window
    return ModelAlert(
        id=model_alert_id(
            version.service, version.version, version.settings_hash, kind, _period(window)
        ),
        service=version.service,
        version=version.version,
        settings_hash=version.settings_hash,
        title=title,
        kind=kind,
        severity="high" if any(row.verdict == "major" for row in changed) else "moderate",
        findings=list(_findings(changed)),
        reference_from=report.reference.begin,
        reference_to=report.reference.end,
        window_from=window.begin,
        window_to=window.end,
        at=at,
    )


def _findings(changed: list[Row]) -> Iterator[dict[str, object]]:
    for row in changed:
        assert row.change is not None
        size = row.change.difference if isinstance(row, RateRow) else row.change.psi
        yield {
            "name": row.name,
            "text": sentence(row),
            "measure": "difference" if isinstance(row, RateRow) else "psi",
            "value": round(size, 4),
            "low": round(row.change.interval.low, 4),
            "high": round(row.change.interval.high, 4),
            "p": row.p,
            "verdict": row.verdict,
        }


def _period(window: Span) -> int:
    days = max(1, (window.end - window.begin) // timedelta(days=1))
    return window.end.date().toordinal() // days
