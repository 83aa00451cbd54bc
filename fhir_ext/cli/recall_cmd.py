"""The command that says who is concerned by a recall."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fhir_ext.cli.models_common import Service
from fhir_ext.cli.printing import console, show

if TYPE_CHECKING:
    from operations.model_registry.recall_report import RecallReport


def register(model: typer.Typer) -> None:
    """Add this module's command to the group `model`."""
    model.command("recall-report")(recall_report)


def recall_report(
    service: Service,
    version: Annotated[str, typer.Argument(help="The version, recalled or not.")],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write everything to this file; it names patients."),
    ] = None,
) -> None:
    """Say what a version wrote, what became of it, and who received it.

    Before a recall it says what one would concern. Nothing on the screen names a patient; the
    file does, and only its owner can read it.
    Example: `fhir-ext model recall-report lung-density 1.0.0 --json recall.json`
    """
    from fhir_ext.cli.parts import Parts, load_settings
    from operations.model_registry.recall_report import recall_report as compute

    report = compute(Parts(load_settings()).fhir, service, version)
    if json_file is not None:
        _write(json_file, json.dumps(report.as_json(), indent=2) + "\n")
    _show(report)


def _write(path: Path, text: str) -> None:
    """Put a new file in place of one, whoever made or holds that one open."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        # mkstemp lets nobody else read.
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def _show(report: RecallReport) -> None:
    # Reasons and names are of anybody.
    out = console()
    said = "not recalled"
    if report.recall is not None:
        said = f"recall {report.recall['status']}, asked {report.recall['asked']}"
        said += f" by {report.recall['who']}: {report.recall['reason']}"
    out.print(f"{report.service} {report.version}: {said}")
    counts = Table("concerned", "count")
    for name, count in report.counts.items():
        counts.add_row(name, str(count))
    show(counts, out)
    if report.receivers:
        receivers = Table("client", "user", "certain", "possible", "patients", "first", "last")
        for item in report.receivers:
            numbers = (item.certain, item.possible, len(item.patients))
            # An app of a patient acts as the patient.
            user = "a patient" if item.user.startswith("Patient/") else item.user
            receivers.add_row(item.client, user, *map(str, numbers), item.first, item.last)
        show(receivers, out)
    if report.subscribers:
        subscriptions = Table("subscription", "criteria", "endpoint", "at most")
        for one in report.subscribers:
            subscriptions.add_row(one.id, one.criteria, one.endpoint, str(one.at_most))
        show(subscriptions, out)
