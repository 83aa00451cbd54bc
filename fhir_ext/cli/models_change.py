"""Commands that change model versions; each is one line of the history and one AuditEvent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fhir_ext.cli.models_common import (
    AsJson,
    Folder,
    Service,
    Version,
    folder_of,
    operator,
    registry_service,
)
from fhir_ext.cli.printing import mark, show

if TYPE_CHECKING:
    from operations.model_registry.actor import Actor
    from operations.model_registry.rows import VersionRow

Reason = Annotated[str, typer.Option("--reason", help="Why, in one sentence without patient data.")]


def register(model: typer.Typer) -> None:
    """Add this module's commands to the group `model`."""
    model.command("install")(install)
    model.command("test")(test)
    model.command("shadow")(shadow)
    model.command("canary")(canary)
    model.command("activate")(activate)
    model.command("retire")(retire)
    model.command("rollback")(rollback)
    model.command("recall")(recall)


def install(
    folder: Folder,
    as_json: AsJson = False,
) -> None:
    """Copy a model's folder to the site's versions; it is a draft then and sees no study.

    Example: `fhir-ext model install my-model`
    """
    row = registry_service().install(folder_of(folder), _actor())
    _say(row, as_json)


def test(service: Service, version: Version, as_json: AsJson = False) -> None:
    """Run a version's own cases here, and keep what came out. Exits with 1 when one fails.

    Example: `fhir-ext model test lung-density 1.0.0`
    """
    row = registry_service().test(service, version, _actor())
    report = row.test_report or {}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_report(row)
    if not row.test_passed:
        raise typer.Exit(1)


def _print_report(row: VersionRow) -> None:
    report = row.test_report or {}
    table = Table("case", "", "output", "expected", "seen")
    for case in report["cases"]:
        if case["failure"]:
            table.add_row(
                case["name"], mark(False, "", "failed"), "", "", ": ".join(case["failure"])
            )
        for check in case["checks"]:
            words = (check[name] for name in ("output", "expected", "seen"))
            table.add_row(case["name"], mark(check["passed"], "holds", "fails"), *words)
    if engine := report["engine"]:
        verdict = mark(engine["holds"], "holds", "fails")
        table.add_row("two engines", verdict, "", "the same numbers", engine["detail"])
    show(table)
    said = "passed" if row.test_passed else "failed"
    typer.echo(f"{row.service} {row.version}: the test {said}")


def shadow(service: Service, version: Version, as_json: AsJson = False) -> None:
    """Show studies to a version without writing what it says into any record.

    Example: `fhir-ext model shadow lung-density 1.1.0`
    """
    _say(registry_service().shadow(service, version, _actor()), as_json)


def canary(
    service: Service,
    version: Version,
    share: Annotated[float, typer.Option(help="Part of the studies, above 0 and at most 1.")],
    as_json: AsJson = False,
) -> None:
    """Let a version write in place of the active one, for a share of the studies.

    Example: `fhir-ext model canary lung-density 1.1.0 --share 0.1`
    """
    _say(registry_service().canary(service, version, share, _actor()), as_json)


def activate(service: Service, version: Version, as_json: AsJson = False) -> None:
    """Make a version the one that writes; the one before it is retired.

    Example: `fhir-ext model activate lung-density 1.1.0`
    """
    _say(registry_service().activate(service, version, _actor()), as_json)


def retire(
    service: Service, version: Version, reason: Reason = "", as_json: AsJson = False
) -> None:
    """Show no more studies to a version; what it wrote stays.

    Example: `fhir-ext model retire lung-density 1.0.0`
    """
    found = registry_service()
    _say(found.retire(service, version, _actor(), reason or None), as_json)


def rollback(service: Service, reason: Reason = "", as_json: AsJson = False) -> None:
    """Go back to the version that was active before; the present one is retired.

    Example: `fhir-ext model rollback lung-density`
    """
    found = registry_service()
    _say(found.rollback(service, _actor(), reason or None), as_json)


def recall(service: Service, version: Version, reason: Reason, as_json: AsJson = False) -> None:
    """Withdraw a version for ever, and mark everything it wrote as entered in error.

    A worker does that; `fhir-ext model recall-report` says how far it is and whom it concerns.
    Example: `fhir-ext model recall lung-density 1.1.0 --reason "wrong side named"`
    """
    _say(registry_service().recall(service, version, reason, _actor()), as_json)


def _actor() -> Actor:
    from operations.model_registry.actor import Actor

    return Actor(operator(), "cli")


def _say(row: VersionRow, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row.as_json(), indent=2))
        return
    share = f" for {row.share:.0%} of the studies" if row.share else ""
    typer.echo(f"{row.service} {row.version} is {row.state}{share}")
