"""Commands that look at model versions; those that change them are in `models_change`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.table import Column, Table

from fhir_ext.cli import drift_cmd, models_change, recall_cmd
from fhir_ext.cli.models_common import AsJson, Folder, Service, folder_of, registry_service
from fhir_ext.cli.printing import show, whole
from fhir_ext.errors import NotFoundError, SettingsError

if TYPE_CHECKING:
    from operations.model_registry.rows import VersionRow

model = typer.Typer(no_args_is_help=True, help="Model versions: what they are, where they stand.")


def register(app: typer.Typer) -> None:
    """Add this module's commands, and those that change versions, to the application."""
    models_change.register(model)
    recall_cmd.register(model)
    drift_cmd.register(model)
    app.add_typer(model, name="model", rich_help_panel="Models")


@model.command("list")
def model_list(as_json: AsJson = False) -> None:
    """List versions and where they stand; without an installation, what is shipped.

    Example: `fhir-ext model list`
    """
    rows = _standing()
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows or ()], indent=2))
        return
    if rows is None:
        _print_shipped()
        return
    table = Table(*_which(), "state", "from", "tested", "title")
    for row in rows:
        state = f"{row.state} {row.share:.0%}" if row.share else row.state.value
        origin = "shipped" if row.shipped else "site"
        table.add_row(row.service, row.version, state, origin, tested(row), row.title)
    show(table)


def _which() -> tuple[Column, Column]:
    return whole("service"), whole("version")


def tested(row: VersionRow) -> str:
    """The last test of a version in a few words."""
    if row.tested_at is None:
        return "never"
    if row.tested_digest != row.digest:
        return "before its files changed"
    return f"{'passed' if row.test_passed else 'failed'} {row.tested_at:%Y-%m-%d}"


def _standing() -> list[VersionRow] | None:
    """Rows of the installation; None where there is none."""
    try:
        return registry_service().versions()
    except (ValidationError, SettingsError):
        return None


def _print_shipped() -> None:
    from models.registry import Registry

    table = Table(*_which(), "review", "licence", "title")
    for item in Registry().shipped():
        shown = item.manifest
        table.add_row(shown.id, shown.version, shown.review, shown.licence, shown.title)
    show(table)
    typer.echo("no installation is configured here; these versions are shipped")


@model.command("show")
def model_show(
    service: Service,
    version: Annotated[
        str | None, typer.Argument(help="One of its versions; the active one without.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a manifest: intended use, gates, outputs; as JSON also state, card, test, history.

    Example: `fhir-ext model show lung-density`
    """
    import yaml

    from models.registry import Registry
    from operations.model_registry.describe import describe

    rows = [row for row in _standing() or () if row.service == service]
    version = version or next((row.version for row in rows if row.state == "active"), None)
    if rows and version is None:
        known = ", ".join(f"{row.version} ({row.state})" for row in rows)
        raise NotFoundError(f"no version is active; say which one: {known}")
    if not rows:
        manifest = Registry().manifest(service, version)
    else:
        found = registry_service()
        manifest = found.registry.manifest(service, version)
        if as_json:
            typer.echo(json.dumps(describe(found, service, manifest.version), indent=2))
            return
        row = found.version(service, manifest.version)
        typer.echo(f"# {row.state}; test: {tested(row)}")
    shown = manifest.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps({"manifest": shown}, indent=2))
    else:
        typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))


@model.command("validate")
def model_validate(
    folder: Folder,
    as_json: AsJson = False,
) -> None:
    """Check a manifest and every file it names; say what is wrong, line by line.

    Where a hash is missing or wrong it prints the one that the file has. Exits with 1 when
    something is wrong. Example: `fhir-ext model validate my-model`
    """
    from models.registry import MANIFEST
    from models.runtime.weights import MAX_BYTES
    from operations.model_registry.folder import inspect_folder

    base = folder_of(folder)
    found = inspect_folder(base, MAX_BYTES)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        for item in found.problems:
            typer.echo(f"{base / MANIFEST}:{item.line}: {item.field}: {item.reason}")
        if found.manifest is not None:
            cases = len(found.manifest.cases)
            typer.echo(f"{found.manifest.id} {found.manifest.version} is valid; {cases} cases")
            if not cases:
                typer.echo("without cases it can be a shadow, but never write into a record")
    if found.problems:
        raise typer.Exit(1)


@model.command("history")
def model_history(
    service: Annotated[str | None, typer.Argument(help="One service; all without.")] = None,
    version: Annotated[str | None, typer.Argument(help="One of its versions.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what was done with model versions, by whom and why; newest first.

    Example: `fhir-ext model history lung-density`
    """
    from operations.model_registry.rows import event_json

    events = [event_json(item) for item in registry_service().history(service, version)]
    if as_json:
        typer.echo(json.dumps(events, indent=2))
        return
    table = Table(whole("at (UTC)"), *_which(), whole("action"), "became", "who", "reason")
    for item in events:
        moved = f"{item.get('from', 'nothing')} → {item['to']}"
        became = item["to"] if item.get("from") == item["to"] else moved
        table.add_row(
            item["at"][:19],
            item["service"],
            item["version"],
            item["action"],
            f"{became} {item['share']:.0%}" if "share" in item else became,
            f"{item['who']} ({item['how']})",
            item.get("reason", ""),
        )
    show(table, empty="nothing has been done with such a version")


@model.command("agreement")
def model_agreement(
    service: Annotated[
        str | None, typer.Argument(help="A name that `model list` shows; all without.")
    ] = None,
) -> None:
    """Count what reviewers decided, per model version, and how far their numbers were off.

    The mean difference is machine minus human, over the numbers that were changed.
    Example: `fhir-ext model agreement lung-density`
    """
    from fhir_ext.cli.parts import Parts, load_settings
    from fhir_ext.store.agreement import agreement

    versions = agreement(Parts(load_settings()).repository.reviews(service))
    if not versions:
        typer.echo("nothing has been reviewed yet")
        return
    table = Table(
        whole("model"), whole("version"), "settings", "accepted", "modified", "rejected", "changed"
    )
    for item in versions:
        changed = [
            f"{c.name} {c.region}: {c.count}"
            + (f", mean difference {c.mean_difference:+.4g}" if c.compared else "")
            for c in item.changed
        ]
        table.add_row(
            item.model_id,
            item.model_version,
            item.settings_hash[:8],
            *(str(item.outcomes.get(o, 0)) for o in ("accept", "modify", "reject")),
            "\n".join(changed),
        )
    show(table)
