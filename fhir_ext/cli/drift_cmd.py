"""`fhir-ext model drift` and `model compare`: what the monitoring of a version says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fhir_ext.cli.models_common import AsJson, Service
from fhir_ext.cli.printing import console
from fhir_ext.errors import BadRequestError

if TYPE_CHECKING:
    from fhir_ext.settings import MonitoringSettings
    from operations.model_drift.report import Span
    from operations.model_drift.service import DriftService

_SPAN: Final = re.compile(r"(\d{4}-\d\d-\d\d)\.\.(\d{4}-\d\d-\d\d)")
_DAYS: Final = re.compile(r"(\d{1,4})d?")
_DAY: Final = timedelta(days=1)


def register(model: typer.Typer) -> None:
    """Add this module's commands to `fhir-ext model`."""
    model.command("drift")(drift)
    model.command("compare")(compare)


def drift(
    service: Service,
    version: Annotated[
        str | None, typer.Argument(help="One version, in any role; all that write without.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FROM..TO", help="Days (UTC), both included; the first days without."),
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="DAYS", help="Length of the window, as `7d`.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last day (UTC) of the window; now without."),
    ] = None,
    as_json: AsJson = False,
    least: Annotated[int | None, typer.Option(min=5, help="Fewest results compared.")] = None,
    alpha: Annotated[
        float | None, typer.Option(min=1e-6, max=0.5, help="Chance of any false finding.")
    ] = None,
    psi_moderate: Annotated[float | None, typer.Option(min=0, help="Index of a change.")] = None,
    psi_major: Annotated[float | None, typer.Option(min=0, help="Of a major change.")] = None,
    rate_moderate: Annotated[float | None, typer.Option(min=0, help="Rate that changed.")] = None,
    rate_major: Annotated[float | None, typer.Option(min=0, help="By so much: major.")] = None,
) -> None:
    """Compare what a version sees and says now with a reference.

    Input mix, refusals, outputs, latency and reviews, each with its uncertainty. Thresholds are
    those of the settings (`monitoring`) unless given here; see `docs/monitoring.md`.
    Example: `fhir-ext model drift lung-density --window 14d`
    """
    from operations.model_drift.report import as_json as to_json

    given = {
        "least": least,
        "alpha": alpha,
        "psi_moderate": psi_moderate,
        "psi_major": psi_major,
        "rate_moderate": rate_moderate,
        "rate_major": rate_major,
        "window": timedelta(days=_days(window)) if window else None,
    }
    drifts = _service({name: value for name, value in given.items() if value is not None})
    span = _window(drifts.settings, until)
    against = _reference(reference) if reference else None
    reports = [
        drifts.report(found, span, against) for found in drifts.named(service, version, span)
    ]
    if as_json:
        typer.echo(json.dumps([to_json(report) for report in reports], indent=2))
        return
    from fhir_ext.cli.drift_tables import show_drift

    for report in reports:
        show_drift(console(markup=True), report)


def compare(
    service: Service,
    shadow: Annotated[str, typer.Option(help="The shadow version.")],
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a shadow with the version that wrote, on the same images.

    Differences of numbers are shadow minus writer, with limits of agreement (Bland and Altman).
    Example: `fhir-ext model compare lung-density --shadow 1.1.0`
    """
    from operations.model_drift.report import as_json as to_json

    begin = since.replace(tzinfo=UTC) if since else None
    report = _service({}).compare_shadow(service, shadow, begin)
    if as_json:
        typer.echo(json.dumps(to_json(report), indent=2))
        return
    from fhir_ext.cli.drift_tables import show_shadow

    show_shadow(console(markup=True), report)


def _service(changes: dict[str, Any]) -> DriftService:
    from fhir_ext.cli.parts import Parts, load_settings
    from fhir_ext.settings import MonitoringSettings
    from fhir_ext.store.samples import SampleStore
    from operations.model_drift.service import DriftService

    parts = Parts(load_settings())
    settings = MonitoringSettings(**{**dict(parts.settings.monitoring), **changes})
    return DriftService(SampleStore(parts.repository.engine), parts.repository, settings)


def _window(settings: MonitoringSettings, until: datetime | None) -> Span:
    from operations.model_drift.report import Span

    end = until.replace(tzinfo=UTC) + _DAY if until else datetime.now(UTC)
    return Span(end - settings.window, end)


def _reference(text: str) -> Span:
    from operations.model_drift.report import Span

    try:
        days = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in _both_days(text)]
    except ValueError as error:
        raise BadRequestError("a reference is two days, as 2026-01-01..2026-01-31") from error
    return Span(days[0], days[1] + _DAY)


def _both_days(text: str) -> tuple[str, str]:
    found = _SPAN.fullmatch(text)
    if found is None or found[2] < found[1]:
        raise ValueError("no two days in order")
    return found[1], found[2]


def _days(text: str) -> int:
    found = _DAYS.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise BadRequestError("a window is a number of days, as 7d")
    return int(found[1])
