"""`fhir-ext demo`: from nothing to results, watched by somebody who knows nothing yet."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fhir_ext.cli import printing
from fhir_ext.cli.demo_names import DEMO_ISSUERS, DEMO_SYSTEM, SUMMARY
from fhir_ext.errors import SettingsError

PANEL = "Run"

#: A study that is not finished after so long (s) makes the demo fail.
PATIENCE = 600


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(rich_help_panel=PANEL)(demo)


def demo(
    studies: Annotated[
        Path | None,
        typer.Option(help="A folder of DICOM files to use instead of the phantoms.", exists=True),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where data, logs and demo.json are kept.")
    ] = Path(".run"),
    once: Annotated[
        bool,
        typer.Option(envvar="DEMO_ONCE", help="Verify, stop everything, and exit with 0 or 1."),
    ] = False,
) -> None:
    """Start everything, store chest CTs in the archive, and watch results appear.

    Example: `fhir-ext demo`, or `fhir-ext demo --studies ./my-ct`
    """
    from fhir_ext.cli.tree import Tree, interruptible

    console = printing.console(markup=True)
    watched = sys.stdin.isatty() and sys.stdout.isatty()
    _require_own(directory)
    begin = time.monotonic()
    environment = {
        "FHIR_EXT_BRIDGE__QUIET_PERIOD": "PT1S",
        "FHIR_EXT_BRIDGE__ISSUERS": DEMO_ISSUERS,
        **(_real_study_settings() if studies else {}),
    }
    console.rule("fhir-ext demo")
    console.print(_INTRODUCTION)
    tree = Tree(
        directory,
        lambda line: console.print(
            f"[dim]{time.monotonic() - begin:6.1f} s[/]  {line}", highlight=False
        ),
        fresh=True,
        environment=environment,
    )
    (tree.directory / SUMMARY).write_text('{"ok": false}\n')
    ok = False
    with interruptible() as stop:
        try:
            tree.start()
            summary = _run(tree, console, studies, begin)
            ok = bool(summary["ok"])
            if not watched and not once:
                console.print("\nThere is no terminal to press Ctrl-C in.")
            elif not once:
                console.print("\nEverything stays up for you to look at. [bold]Ctrl-C stops it.[/]")
                while not stop.wait(0.5):
                    tree.watch_once()
        finally:
            console.print("stopping everything …")
            tree.stop()
    console.print("[bold green]demo: ok[/]" if ok else "[bold red]demo: failed[/]")
    if not ok:
        raise typer.Exit(1)


def _require_own(directory: Path) -> None:
    """The demo begins by deleting data.

    Raises:
        SettingsError: they are those of `fhir-ext up`.
    """
    if (directory / "db").exists() and not (directory / SUMMARY).exists():
        raise SettingsError(
            f"{directory} holds data of `fhir-ext up`, which the demo would delete: name another "
            "folder with --dir, or delete it"
        )


_INTRODUCTION = (
    "A FHIR server (HAPI) and a DICOMweb archive (Orthanc) start on this machine. Chest CTs go "
    "into the archive by STOW-RS; after that nobody touches anything: the service notices them, "
    "measures lung density, and writes the results into the FHIR server and, as DICOM SR, into "
    "the archive. Then an app asks for a risk score, a radiologist corrects a number, and a new "
    "version of the model comes as a shadow, goes to work, and is rolled back and recalled. "
    "[bold]Not a medical device.[/]\n"
)


def _real_study_settings() -> dict[str, str]:
    """Nobody registers patients on a demo server: take them from the headers."""
    return {
        "FHIR_EXT_BRIDGE__CREATE_PATIENTS": "true",
        "FHIR_EXT_BRIDGE__DEFAULT_ISSUER": DEMO_SYSTEM,
    }


def _run(tree: Any, console: Console, folder: Path | None, begin: float) -> dict[str, Any]:
    from fhir_ext.cli import demo_calls, demo_models, demo_report, demo_studies
    from fhir_ext.cli.parts import Parts
    from fhir_ext.clients.dicomweb import DicomWebClient

    settings = tree.settings
    parts = Parts(settings)
    archive = DicomWebClient(settings.archive, settings.limits)

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - begin:6.1f} s[/]  {line}", highlight=False)

    if folder:
        cases = demo_studies.from_folder(folder, archive, say)
    else:
        cases = demo_studies.phantoms(parts.fhir, archive, DEMO_SYSTEM, say)
    say("stored; from here on the demo only watches")
    with Live(console=console, refresh_per_second=4) as live:
        deadline = time.monotonic() + PATIENCE
        while True:
            tree.watch_once()
            states = demo_report.progress(parts.repository, cases)
            live.update(_progress_table(states))
            if all(state.finished for state in states) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
    report = demo_report.build_report(parts, archive, cases)
    for table in demo_report.tables(report):
        console.print(table)
    calls = demo_calls.show_calls(tree.urls, parts, archive, cases, say)
    for table in calls.tables():
        console.print(table)
    models = demo_models.show_models(parts, archive, DEMO_SYSTEM, say)
    for table in models.tables():
        console.print(table)
    problems = [*report.problems, *calls.problems, *models.problems]
    summary = {
        "ok": not problems,
        "seconds": round(time.monotonic() - begin, 1),
        "urls": tree.urls,
        "studies": [series.as_json() for series in report.series],
        **calls.as_json(),
        **models.as_json(),
        "problems": problems,
    }
    path = tree.directory / SUMMARY
    path.write_text(json.dumps(summary, indent=2) + "\n")
    console.print("\n[bold]Where to look[/]")
    for name, url in {**tree.urls, **report.links}.items():
        console.print(f"  {name:16} {url}", highlight=False, soft_wrap=True)
    name, password = settings.archive.auth.username, settings.archive.auth.password
    if password is not None and os.environ.get("CI") != "true":
        console.print(
            f"  {'archive login':16} {name} / {password.get_secret_value()}", highlight=False
        )
    console.print(f"  {'summary':16} {path}", highlight=False)
    for problem in problems:
        console.print(f"[red]problem:[/] {problem}", highlight=False)
    return summary


def _progress_table(states: list[Any]) -> Table:
    table = Table(
        "study", "state", "step", "since it was stored", title="What happens to each study"
    )
    for state in states:
        table.add_row(state.label, state.state, state.step, f"{state.seconds:.1f} s")
    return table
