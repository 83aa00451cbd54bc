"""Tables of `fhir-ext model drift` and `model compare`, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fhir_ext.cli.printing import show

if TYPE_CHECKING:
    from fhir_ext.store.agreement import ChangedNumber
    from models.monitoring.rates import Interval
    from models.monitoring.stability import ShareChange
    from operations.model_drift.report import (
        DriftReport,
        NumberRow,
        RateRow,
        ShadowReport,
        ShareRow,
    )

#: Most values of a fact that are shown.
SHOWN_VALUES: Final = 6

_VERDICTS: Final = {
    "too-few": "[dim]too few[/]",
    "stable": "[green]stable[/]",
    "moderate": "[yellow]moderate[/]",
    "major": "[red]major[/]",
}


def show_drift(console: Console, report: DriftReport) -> None:
    """Print every table of a comparison."""
    from operations.model_drift.alerts import spans_in_words

    version = report.version
    console.print(
        f"[bold]{version.service} {version.version}[/] (settings {version.settings_hash[:8]}), "
        f"{spans_in_words(report.reference, report.window)}: "
        f"{report.now} results, were {report.before}",
        highlight=False,
    )
    if report.reference.begin == report.reference.end:
        console.print(
            "nothing to compare with yet: all its days are in the window; wait, or give a shorter "
            "--window",
            highlight=False,
        )
        for table in _said_tables(report):
            show(table, console)
        return
    show(_share_table("input mix", report.mix), console)
    show(_rate_table("refusals", report.refusals), console)
    if report.numbers:
        show(_number_table(report.numbers), console)
    if report.categories:
        show(_share_table("categories", report.categories), console)
    show(_latency_table(report), console)
    show(_rate_table("reviews", report.reviews), console)
    if report.changed or report.changed_before:
        show(_changed_table(report.changed_before, report.changed), console)


def _said_tables(report: DriftReport) -> Iterator[Table]:
    """What a version says, where there is nothing to hold it against."""
    numbers = Table("number", "results", "median", "5 to 95 %")
    for number in report.numbers:
        if number.seen:
            low, *_, high = number.seen
            median = number.seen[len(number.seen) // 2]
            spread = f"{low:.4g} to {high:.4g}"
            numbers.add_row(number.name, str(number.now), f"{median:.4g}", spread)
    facts = Table("category or fact", "results", "how many")
    for row in (*report.categories, *report.mix):
        counts = [f"{name}: {count}" for name, count in row.seen.items()]
        facts.add_row(row.name, str(row.now), _listed(counts))
    refused = Table("refused by", "results")
    for rate in report.refusals:
        refused.add_row(rate.name, f"{rate.now} of {rate.of_now}")
    return (table for table in (numbers, facts, refused) if table.row_count)


def show_shadow(console: Console, report: ShadowReport) -> None:
    """Print how a shadow differs from what wrote."""
    first, second = report.first, report.second
    console.print(
        f"[bold]{report.service}[/]: shadow {second} minus {first}, on {report.pairs} "
        f"sets of images; seconds {_mean(report.latency[0])}, shadow {_mean(report.latency[1])}",
        highlight=False,
    )
    numbers = Table("number", "pairs", "equal", "bias", "95 % interval", "range", "limits (95 %)")
    for name, pair in report.numbers.items():
        numbers.add_row(
            name,
            str(pair.count),
            str(pair.equal),
            f"{pair.bias:+.4g}",
            _signed(pair.interval),
            f"{pair.smallest:+.4g} to {pair.largest:+.4g}",
            _signed(pair.limits),
        )
    if report.numbers:
        show(numbers, console)
    categories = Table("category", "pairs", "agree", "95 % interval", "kappa", "changes")
    for name, found in report.categories.items():
        categories.add_row(
            name,
            str(found.count),
            str(found.agree),
            f"{found.interval.low:.0%} to {found.interval.high:.0%}",
            "" if found.kappa is None else f"{found.kappa:.2f}",
            ", ".join(f"{one} to {other}: {n}" for one, other, n in found.changes[:SHOWN_VALUES]),
        )
    if report.categories:
        show(categories, console)
    refusals = Table("withheld", "pairs", "by both", f"only by {first}", "only by the shadow", "p")
    for name, who in report.refusals.items():
        counts = (who.count, who.both, who.first_only, who.second_only)
        refusals.add_row(name, *map(str, counts), _p(who.p))
    show(refusals, console)


def _share_table(title: str, rows: tuple[ShareRow, ...]) -> Table:
    table = Table("", "now", "was", "share, was", "PSI (95 %)", "p", "", title=title)
    for row in rows:
        change = row.change
        table.add_row(
            row.name,
            str(row.now),
            str(row.before),
            _listed(_shares(change)) if change else "",
            _psi(change.psi, change.interval) if change else "",
            _p(row.p),
            _VERDICTS[row.verdict],
        )
    return table


def _shares(change: ShareChange) -> list[str]:
    return [f"{name} {now:.0%}, {before:.0%}" for name, (before, now) in change.shares.items()]


def _listed(lines: Sequence[str]) -> str:
    """Some lines of a cell, and how many more there are."""
    shown = list(lines[:SHOWN_VALUES])
    if len(lines) > SHOWN_VALUES:
        shown.append(f"and {len(lines) - SHOWN_VALUES} more")
    return escape("\n".join(shown))


def _number_table(rows: tuple[NumberRow, ...]) -> Table:
    table = Table(
        "", "now", "was", "median, was", "5 to 95 %, was", "PSI (95 %)", "KS", "p", "",
        title="numbers",
    )  # fmt: skip
    for row in rows:
        cells = [row.name, str(row.now), str(row.before)]
        if row.change is None:
            cells += [""] * 4
        else:
            now, before = row.change.now, row.change.before
            cells += [
                f"{now[2]:.4g}, {before[2]:.4g}",
                f"{now[0]:.4g} to {now[-1]:.4g}, {before[0]:.4g} to {before[-1]:.4g}",
                _psi(row.change.psi, row.change.interval),
                f"{row.change.ks:.2f}",
            ]
        table.add_row(*cells, _p(row.p), _VERDICTS[row.verdict])
    return table


def _rate_table(title: str, rows: tuple[RateRow, ...]) -> Table:
    table = Table("", "now", "was", "points (95 %)", "p", "", title=title)
    for row in rows:
        points = ""
        if row.change is not None:
            low, high = (100 * end for end in row.change.interval)
            points = f"{100 * row.change.difference:+.1f} ({low:+.1f} to {high:+.1f})"
        table.add_row(
            row.name,
            f"{row.now} of {row.of_now}",
            f"{row.before} of {row.of_before}",
            points,
            _p(row.p),
            _VERDICTS[row.verdict],
        )
    return table


def _latency_table(report: DriftReport) -> Table:
    from models.monitoring.stability import QUANTILES

    headings = [f"{quantile:.0%}" for quantile in QUANTILES]
    table = Table("", *headings, title="seconds")
    for name, found in (("now", report.latency.now), ("was", report.latency.before)):
        cells = [f"{value:.3g}" for value in found] if found else ["[dim]too few[/]"]
        table.add_row(name, *cells)
    return table


def _changed_table(before: tuple[ChangedNumber, ...], now: tuple[ChangedNumber, ...]) -> Table:
    table = Table("", "now", "was", title="changed by reviewers: count, mean machine minus human")
    sides: tuple[Mapping[str, ChangedNumber], ...] = tuple(
        {f"{item.name}/{item.region}": item for item in items} for items in (now, before)
    )
    for name in sorted({*sides[0], *sides[1]}):
        table.add_row(name, *(_changed(side.get(name)) for side in sides))
    return table


def _changed(item: ChangedNumber | None) -> str:
    if item is None:
        return "0"
    return f"{item.count}" + (f", {item.mean_difference:+.4g}" if item.compared else "")


def _psi(value: float, interval: Interval) -> str:
    return f"{value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _signed(interval: Interval | None) -> str:
    return "too few" if interval is None else f"{interval.low:+.4g} to {interval.high:+.4g}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _mean(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.3g}"
