"""`fhir-ext doctor`: looks at every part and says what to do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import typer
from rich.table import Table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.cli.parts import Parts, load_settings
from fhir_ext.cli.printing import mark, show
from fhir_ext.errors import FhirExtError
from fhir_ext.settings import Settings

if TYPE_CHECKING:
    from models.registry import Registry
    from operations.model_registry.rows import VersionRow

#: Less free disk than this (bytes) is reported.
LOW_DISK = 2_000_000_000

#: A clock further off (s) breaks tokens and the sweep's watermark.
CLOCK_TOLERANCE = 30


#: A chore, or a part of the journal, that waits longer than this (s) is reported.
LATE_CHORE = 600
LATE_JOURNAL = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do when it is not `ok`."""

    part: str
    ok: bool
    seen: str
    advice: str = ""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(rich_help_panel="About")(doctor)


def doctor() -> None:
    """Check settings, servers, versions, clock, disk, models and the Subscription.

    Exits with 1 when something needs attention. Example: `fhir-ext doctor`
    """
    settings = load_settings()
    findings = [Finding("settings", True, "valid"), *inspect(settings)]
    table = Table("part", "", "seen", "what to do")
    for finding in findings:
        advice = "" if finding.ok else finding.advice
        table.add_row(finding.part, mark(finding.ok, "ok", "attention"), finding.seen, advice)
    show(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def inspect(settings: Settings) -> list[Finding]:
    """Every check but that of the settings themselves."""
    parts = Parts(settings)
    return [
        *_servers(parts),
        _version(parts),
        _clock(settings),
        _disk(settings),
        *_models(parts),
        *_parked(parts),
        *_drift(parts),
        *_chores(parts),
        _journal(settings),
    ]


_ADVICE = {
    "FHIR server": "start HAPI, or correct FHIR_EXT_FHIR__BASE_URL and its credentials",
    "DICOMweb archive": "start the archive, or correct FHIR_EXT_ARCHIVE__QIDO_URL and credentials",
    "database": "correct FHIR_EXT_DATABASE__URL, then run `fhir-ext migrate`",
    "worker": "start `fhir-ext worker`",
    "subscription": "a running worker repairs it within seconds; start `fhir-ext worker`",
    "finding subscription": "a running worker repairs it within seconds; start `fhir-ext worker`",
}


def _servers(parts: Parts) -> list[Finding]:
    from subscriptions.health import health_checks

    findings = []
    for name, check in health_checks(parts.settings, parts.repository, parts.fhir).items():
        try:
            state = check()
            findings.append(Finding(name, state.ok, state.detail, _ADVICE[name]))
        except SQLAlchemyError:
            findings.append(
                Finding(name, False, "the database has no such table", _ADVICE["database"])
            )
    return findings


def _version(parts: Parts) -> Finding:
    try:
        statement = parts.fhir.metadata()
    except FhirExtError as error:
        return Finding("FHIR version", False, error.message, _ADVICE["FHIR server"])
    version = statement.get("fhirVersion", "unknown")
    software = statement.get("software", {})
    seen = (
        f"FHIR {version}, {software.get('name', 'unknown')} {software.get('version', '')}".strip()
    )
    return Finding("FHIR version", version == "4.0.1", seen, "this release needs FHIR R4 (4.0.1)")


def _clock(settings: Settings) -> Finding:
    try:
        begin = time.time()
        answer = requests.head(f"{settings.fhir.base_url}/metadata", timeout=10)
        server = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (requests.RequestException, KeyError, ValueError):
        return Finding("clock", True, "the FHIR server tells no time")
    off = server - (begin + time.time()) / 2
    return Finding(
        "clock", abs(off) <= CLOCK_TOLERANCE, f"{off:+.0f} s", "synchronise the clocks (NTP)"
    )


def _disk(settings: Settings) -> Finding:
    url = make_url(settings.database.url)
    local = url.get_backend_name() == "sqlite" and url.database
    folder = Path(url.database).resolve().parent if local and url.database else Path.cwd()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding("disk", free >= LOW_DISK, f"{free / 1e9:.1f} GB free", "free some space")


def _models(parts: Parts) -> list[Finding]:
    """Versions at work: their files, their cases, and that no two are active."""
    from models.lifecycle import AT_WORK, State
    from models.registry import Registry
    from operations.model_registry.states import states

    registry = Registry(site=parts.settings.models.folder)
    try:
        states(parts.repository)
    except SQLAlchemyError:
        return [Finding("models", False, "the database has no such table", _ADVICE["database"])]
    except FhirExtError as error:
        return [Finding("models", False, error.message, "`fhir-ext model list` shows them")]
    rows = parts.models.versions()
    at_work = [row for row in rows if row.state in AT_WORK]
    findings = [_model(row, registry) for row in at_work]
    active = {row.service for row in rows if row.state is State.ACTIVE}
    for service in sorted({row.service for row in at_work} - active):
        seen = "no active version; nothing is written but by a canary"
        findings.append(Finding(f"model {service}", True, seen))
    if not findings:
        findings.append(Finding("models", True, "no version is at work"))
    return [*findings, *_taken_up(parts, rows), *_without_row(parts.settings, registry, rows)]


def _model(row: VersionRow, registry: Registry) -> Finding:
    """One version at work: whether its files are there and are those that were installed."""
    from operations.model_registry.readiness import require_unchanged

    name = f"model {row.service}"
    state = f"{row.state} {row.share:.0%}" if row.share else row.state.value
    try:
        installed = registry.find(row.service, row.version)
        require_unchanged(row, installed)
    except FhirExtError as error:
        seen = f"version {row.version}, {state}: {error.message}"
        advice = f"`fhir-ext model rollback {row.service}`, or install a new version"
        return Finding(name, False, seen, advice)
    stale = row.test_passed is not None and row.tested_digest != row.digest
    if row.test_passed is False or stale:
        said = "its files changed since its test" if stale else "its test failed"
        advice = f"`fhir-ext model test {row.service} {row.version}`"
        return Finding(name, False, f"version {row.version}, {state}: {said}", advice)
    return Finding(name, True, f"version {row.version}, {state}")


def _taken_up(parts: Parts, rows: Iterable[VersionRow]) -> Iterator[Finding]:
    """Versions of the site that are drafts since their folder was found without a row."""
    from models.lifecycle import State

    for row in rows:
        if row.shipped or row.state is not State.DRAFT:
            continue
        (last,) = parts.models.history(row.service, row.version, limit=1)
        if last.action == "seed":
            name = f"{row.service} {row.version}"
            seen = f"version {row.version}, draft: taken up from its folder"
            advice = f"`fhir-ext model test {name}`, then activate it; or `model retire` it"
            yield Finding(f"model {row.service}", False, seen, advice)


def _without_row(
    settings: Settings, registry: Registry, rows: Iterable[VersionRow]
) -> Iterator[Finding]:
    """Folders of the site that were not taken up."""
    known = {(row.service, row.version) for row in rows}
    for service, version in sorted(registry.site_versions() - known):
        folder = settings.models.folder / service / version
        seen = f"version {version}: its folder is damaged, or was not taken up yet"
        advice = f"`fhir-ext model validate {folder}`; `fhir-ext migrate` takes it up"
        yield Finding(f"model {service}", False, seen, advice)


def _parked(parts: Parts) -> list[Finding]:
    try:
        count = parts.repository.count_runs().get("parked", 0)
        unmatched = len(parts.repository.archive_studies("unmatched"))
    except SQLAlchemyError:
        return []
    return [
        Finding("parked work", count == 0, str(count), "see `fhir-ext tasks list`"),
        Finding(
            "unmatched studies", unmatched == 0, str(unmatched), "see `fhir-ext patients list`"
        ),
    ]


def _drift(parts: Parts) -> list[Finding]:
    """Model versions that are not what they were, as monitoring found in its last window."""
    from fhir_ext.store.repository import now
    from fhir_ext.store.samples import SampleStore

    samples = SampleStore(parts.repository.engine)
    try:
        alerts = samples.alerts(now() - parts.settings.monitoring.window)
    except SQLAlchemyError:
        return []
    seen = ", ".join(f"{alert.service} {alert.version}: {alert.kind}" for alert in alerts)
    advice = "see `fhir-ext model drift SERVICE VERSION`"
    return [Finding("model drift", not alerts, seen or "none found", advice)]


def _chores(parts: Parts) -> list[Finding]:
    from subscriptions.health import chore_state

    try:
        state, parked = chore_state(parts.queue), parts.queue.parked_chores()
    except SQLAlchemyError:
        return []
    oldest = state.oldest_seconds or 0.0
    return [
        Finding(
            "chores",
            oldest < LATE_CHORE,
            f"{state.depth} wait, the oldest for {oldest:.0f} s",
            "start a `fhir-ext worker`, or see why the FHIR server is slow or down",
        ),
        Finding("parked chores", not parked, str(len(parked)), "see `fhir-ext retry-chore --list`"),
    ]


def _journal(settings: Settings) -> Finding:
    """The access journal of this machine; other machines have their own."""
    from fhir_ext.audit.segments import backlog

    folder = settings.audit.journal
    try:
        found = backlog(folder)
    except OSError:
        return Finding("access journal", False, "cannot be read", f"look at {folder}")
    seen = f"{found.bytes / 1e6:.1f} MB not yet queued, the oldest for {found.oldest_seconds:.0f} s"
    if found.damaged:
        return Finding(
            "access journal", False, f"{found.damaged} damaged files", f"look at {folder}"
        )
    return Finding(
        "access journal",
        found.oldest_seconds < LATE_JOURNAL,
        seen,
        "`fhir-ext serve` hands it over; see that it runs and reaches its database",
    )
