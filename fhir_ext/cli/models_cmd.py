"""Commands about the installed models."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fhir_ext.cli import recall_cmd

model = typer.Typer(no_args_is_help=True, help="The models that are installed.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    recall_cmd.register(model)
    app.add_typer(model, name="model", rich_help_panel="Models")


@model.command("list")
def model_list() -> None:
    """List services with the version that runs. Example: `fhir-ext model list`"""
    from models.registry import Registry

    registry = Registry()
    table = Table("service", "version", "title", "review", "licence")
    for name in registry.services():
        manifest = registry.manifest(name)
        table.add_row(name, manifest.version, manifest.title, manifest.review, manifest.licence)
    Console().print(table)


@model.command("show")
def model_show(
    service: Annotated[str, typer.Argument(help="A name that `model list` shows.")],
) -> None:
    """Print a manifest: intended use, gates, outputs.

    Example: `fhir-ext model show lung-density`
    """
    import yaml

    from models.registry import Registry

    manifest = Registry().manifest(service)
    typer.echo(
        yaml.safe_dump(manifest.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )


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
    table = Table("model", "version", "settings", "accepted", "modified", "rejected", "changed")
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
    Console().print(table)
