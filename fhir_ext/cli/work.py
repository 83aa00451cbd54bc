"""Commands by which an operator moves work: analyze, reconcile, sweep, patients, tasks, chores."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Annotated

import typer
from rich.table import Table

from fhir_ext.cli.parts import Parts, load_settings
from fhir_ext.cli.printing import show, whole
from fhir_ext.errors import ConflictError, NotFoundError

PANEL = "Work"

patients = typer.Typer(no_args_is_help=True, help="Studies that wait for a patient.")
tasks = typer.Typer(no_args_is_help=True, help="Studies that need a human before they go on.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(rich_help_panel=PANEL)(analyze)
    app.command(rich_help_panel=PANEL)(reconcile)
    app.command(rich_help_panel=PANEL)(sweep)
    app.command("retry-chore", rich_help_panel=PANEL)(retry_chore)
    app.add_typer(patients, name="patients", rich_help_panel=PANEL)
    app.add_typer(tasks, name="tasks", rich_help_panel=PANEL)


def analyze(
    imaging_study: Annotated[str, typer.Argument(help="`ImagingStudy/ID` or the bare id.")],
) -> None:
    """Put a study into the queue by hand; results that already stand are not written again.

    Example: `fhir-ext analyze ImagingStudy/5f0c9d3e-…`
    """
    from subscriptions.queue import new_message

    parts = Parts(load_settings())
    resource = parts.fhir.read("ImagingStudy", imaging_study.rpartition("/")[2])
    message = new_message(
        resource["id"], str(resource["meta"]["versionId"]), run=uuid.uuid4().hex[:8]
    )
    typer.echo(f"queued as {parts.queue.enqueue(message)}; see the status page")


def reconcile(
    since: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="First study date, as YYYY-MM-DD.")
    ],
) -> None:
    """Bring in what already lies in the archive: every study since a study date.

    The leading worker announces them; nothing is written twice.
    Example: `fhir-ext reconcile --since 2026-01-01`
    """
    from fhir_ext.clients.dicomweb import DicomWebClient
    from subscriptions.intake.bridge import ArchiveBridge

    parts = Parts(load_settings())
    archive = DicomWebClient(parts.settings.archive, parts.settings.limits)
    bridge = ArchiveBridge.build(parts.settings, parts.fhir, archive, parts.repository)
    first: date = since.date()
    typer.echo(f"{bridge.reconcile(first)} studies marked; the worker announces them one by one")


def sweep(
    everything: Annotated[
        bool, typer.Option("--all", help="Start at the beginning, not at the watermark.")
    ] = False,
) -> None:
    """Enqueue every ImagingStudy that changed since the last sweep; duplicates are harmless.

    With `--all` every study is looked at again; results that stand are not written twice.
    Example: `fhir-ext sweep --all` after HAPI was restored from a backup
    """
    from subscriptions.intake.sweep import forget_watermark
    from subscriptions.intake.sweep import sweep as run_sweep

    parts = Parts(load_settings())
    if everything:
        forget_watermark(parts.repository)
    overlap = parts.settings.intake.sweep_overlap
    again = f"sweep-{uuid.uuid4().hex[:8]}" if everything else ""
    count = run_sweep(parts.fhir, parts.queue, parts.repository, overlap, again=again)
    typer.echo(f"{count} studies looked at")


def retry_chore(
    chore: Annotated[
        str, typer.Argument(help="`NAME/KEY`, as the Task says; `NAME` for all of that name.")
    ] = "",
    list_them: Annotated[
        bool, typer.Option("--list", help="Only show what is parked; retry nothing.")
    ] = False,
) -> None:
    """Take up chores that were parked: audit entries, new scores, corrected SRs.

    A chore is put into the queue under a new key, and its Task is closed.
    Example: `fhir-ext retry-chore audit` once the FHIR server takes writes again
    """
    from fhir_ext.resources.ids import parked_chore_id

    parts = Parts(load_settings())
    parked = [
        item
        for item in parts.queue.parked_chores()
        if not chore or chore in (item.name, item.workflow_id)
    ]
    if list_them:
        table = Table(whole("chore"), "reason", "since")
        for item in parked:
            table.add_row(item.workflow_id, item.code, item.since.isoformat(timespec="seconds"))
        show(table, empty="no chore is parked")
        return
    if not chore or not parked:
        raise NotFoundError("no such chore is parked; see `fhir-ext retry-chore --list`")
    for item in parked:
        # The Task first: interrupted here, the chore is still parked and can be named again.
        task = parts.fhir.find("Task", parked_chore_id(item.name, item.key))
        if task is not None:
            parts.fhir.put({**task, "status": "completed"})
        typer.echo(f"queued as {parts.queue.retry_chore(item)}")


@patients.command("list")
def patients_list() -> None:
    """List studies that wait for a patient, with what their DICOM header says.

    The header is shown to you and stored nowhere. Example: `fhir-ext patients list`
    """
    from fhir_ext.clients.dicomweb import DicomWebClient
    from subscriptions.intake.patients import header_identity, waiting_studies

    parts = Parts(load_settings())
    archive = DicomWebClient(parts.settings.archive, parts.settings.limits)
    table = Table(whole("Study Instance UID"), "reason", "issuer", "patient ID", "name", "born")
    waiting = waiting_studies(parts.repository)
    for study in waiting:
        identity = header_identity(archive, study.study_instance_uid)
        table.add_row(study.study_instance_uid, study.reason or "", *identity)
    show(table, empty="no study waits for a patient")


@patients.command("link")
def patients_link(
    study_instance_uid: Annotated[str, typer.Argument(help="As `patients list` shows it.")],
    patient: Annotated[str, typer.Argument(help="`Patient/ID` or the bare id.")],
) -> None:
    """Say which Patient a waiting study belongs to; the worker then goes on with it.

    Example: `fhir-ext patients link 1.2.840.… Patient/123`
    """
    from subscriptions.intake.patients import waiting_studies

    parts = Parts(load_settings())
    waiting = {study.study_instance_uid for study in waiting_studies(parts.repository)}
    if study_instance_uid not in waiting:
        raise NotFoundError("no such study waits for a patient; see `fhir-ext patients list`")
    resource = parts.fhir.read("Patient", patient.rpartition("/")[2])
    parts.repository.update_archive_study(
        study_instance_uid, state="settling", patient_id=resource["id"], reason=None
    )
    typer.echo("linked; the worker announces the study within seconds")


@tasks.command("list")
def tasks_list() -> None:
    """List parked work: the step that gave up, why, and the command that resumes it.

    Example: `fhir-ext tasks list`
    """
    parts = Parts(load_settings())
    parked = parts.repository.runs("parked")
    table = Table(whole("run"), "step", "reason", "detail", "since")
    for run in parked:
        since = run.finished_at.isoformat(timespec="seconds") if run.finished_at else ""
        table.add_row(run.workflow_id, run.step, run.reason or "", run.detail or "", since)
    show(table, empty="nothing is parked")


@tasks.command("resume")
def tasks_resume(
    run: Annotated[str, typer.Argument(help="The run, as `tasks list` shows it.")],
) -> None:
    """Take parked work up again from its beginning; finished parts are recognised.

    Example: `fhir-ext tasks resume ImagingStudy/5f0c9d3e-…/1`
    """
    from subscriptions.queue import new_message

    parts = Parts(load_settings())
    row = parts.repository.run(run)
    if row is None:
        raise NotFoundError("no such run; see `fhir-ext tasks list`")
    if row.state != "parked":
        raise ConflictError(f"this run is {row.state}, not parked")
    message = new_message(row.imaging_study_id, row.version, run=uuid.uuid4().hex[:8])
    queued = parts.queue.enqueue(message)
    parts.repository.record_run(
        row.workflow_id,
        row.imaging_study_id,
        row.version,
        **{
            **row.model_dump(exclude={"workflow_id", "imaging_study_id", "version"}),
            "state": "resumed",
            "detail": f"resumed as {queued}",
        },
    )
    typer.echo(f"resumed as {queued}")
