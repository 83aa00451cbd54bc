"""What the status page shows, as data: read from our tables, from HAPI, and by checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import FhirExtError
from fhir_ext.resources.codes import (
    MEASUREMENT,
    NOT_APPLIED_REASON,
    REFUSAL_REASON,
    TASK_REASON,
    LocalSystem,
)
from fhir_ext.resources.reading import PanelReading, read_panel
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ServiceOutcome, StudyRun

Json = dict[str, Any]

#: A check that takes longer (s) counts as failed; a hanging server must not hang the page.
CHECK_LIMIT = 5.0

#: Panels read from HAPI for one page; older results are reached by their links.
MOST_PANELS = 40

#: States of a run in the words of the page.
STATE_WORDS = {
    "queued": "in the queue",
    "running": "being worked on",
    "waiting": "waiting, will be tried again",
    "done": "done",
    "parked": "needs a human",
    "resumed": "resumed by a human",
    "nothing-to-do": "nothing to do",
}


@dataclass(frozen=True, slots=True)
class HealthState:
    """How one part stands; `detail` is for people and holds no patient data."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits to be worked on.

    Attributes:
        depth: studies that could be worked on now.
        oldest_seconds: how long the oldest of them waits; None when there is none.
        delayed: studies put back for later.
    """

    depth: int
    oldest_seconds: float | None
    delayed: int


@dataclass(frozen=True)
class StatusDeps:
    """What the status routes need.

    Attributes:
        repository: our tables.
        fhir: HAPI, for the numbers.
        queue_waiting: state of the queue.
        checks: name of a part to its check.
        links: name to URL of what a person may want to open.
        fhir_url: base of the links to resources.
    """

    repository: Repository
    fhir: FhirClient
    queue_waiting: Callable[[], QueueState]
    checks: Mapping[str, Callable[[], HealthState]]
    links: Mapping[str, str]
    fhir_url: str


def health(checks: Mapping[str, Callable[[], HealthState]]) -> dict[str, HealthState]:
    """Run all checks side by side, each for at most `CHECK_LIMIT` seconds."""
    pool = ThreadPoolExecutor(max_workers=max(1, len(checks)), thread_name_prefix="health")
    try:
        running = {name: pool.submit(check) for name, check in checks.items()}
        states = {}
        for name, future in running.items():
            try:
                states[name] = future.result(timeout=CHECK_LIMIT)
            except FutureTimeout:
                states[name] = HealthState(False, "did not answer in time")
            except FhirExtError as error:
                states[name] = HealthState(False, error.message)
        return states
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def overview(deps: StatusDeps, limit: int = 50) -> Json:
    """Everything on the page; keys as documented in docs/operations.md.

    Args:
        limit: newest runs to show.
    """
    runs = deps.repository.runs(limit=limit)
    studies = [
        _study(deps, run, deps.repository.outcomes(run.study_instance_uid))
        if run.study_instance_uid
        else _study(deps, run, [])
        for run in runs
    ]
    _add_numbers(deps, studies)
    queue = deps.queue_waiting()
    return {
        "time": now().isoformat(timespec="seconds"),
        "health": {
            name: {"ok": state.ok, "detail": state.detail}
            for name, state in health(deps.checks).items()
        },
        "queue": {
            "depth": queue.depth,
            "oldest_seconds": queue.oldest_seconds,
            "delayed": queue.delayed,
        },
        "studies": studies,
        "unmatched": [
            {
                "study_instance_uid": study.study_instance_uid,
                "reason": study.reason or "",
                "since": _iso(study.changed_at),
                "command": f"fhir-ext patients link {study.study_instance_uid} Patient/ID",
            }
            for study in deps.repository.archive_studies("unmatched", limit=limit)
        ],
        "links": dict(deps.links),
    }


def _study(deps: StatusDeps, run: StudyRun, outcomes: Sequence[ServiceOutcome]) -> Json:
    end = run.finished_at or now()
    return {
        "run": run.workflow_id,
        "study_instance_uid": run.study_instance_uid or "",
        "imaging_study": f"{deps.fhir_url}/ImagingStudy/{run.imaging_study_id}",
        "state": run.state,
        "state_words": STATE_WORDS.get(run.state, run.state),
        "step": run.step,
        "reason": run.reason or "",
        "reason_words": _words((NOT_APPLIED_REASON, TASK_REASON), run.reason),
        "detail": run.detail or "",
        "queued_at": _iso(run.queued_at),
        "finished_at": _iso(run.finished_at),
        "seconds": round((end - run.queued_at).total_seconds(), 2),
        "step_seconds": run.step_seconds,
        "command": f"fhir-ext tasks resume {run.workflow_id}" if run.state == "parked" else "",
        "services": [
            _service(deps, outcome) for outcome in outcomes if _belongs(outcome, run.workflow_id)
        ],
    }


def _belongs(outcome: ServiceOutcome, workflow_id: str) -> bool:
    return outcome.workflow_id == workflow_id


def _service(deps: StatusDeps, outcome: ServiceOutcome) -> Json:
    system = NOT_APPLIED_REASON if outcome.status == "not-applied" else REFUSAL_REASON
    return {
        "service": outcome.service,
        "series_instance_uid": outcome.series_instance_uid,
        "status": outcome.status,
        "reasons": [
            {**reason, "words": _words((system,), reason["rule"])} for reason in outcome.reasons
        ],
        "panel_id": outcome.panel_id or "",
        "panel": f"{deps.fhir_url}/Observation/{outcome.panel_id}" if outcome.panel_id else "",
        "measurements": [],
        "review": "",
    }


def _add_numbers(deps: StatusDeps, studies: Sequence[Json]) -> None:
    """Read the newest panels from HAPI; without HAPI the page shows no numbers."""
    wanted = [s for study in studies for s in study["services"] if s["panel_id"]][:MOST_PANELS]
    try:
        for service in wanted:
            panel = read_panel(deps.fhir, service["panel_id"])
            if panel is not None:
                service["review"] = panel.status
                service["measurements"] = _measurements(deps, panel)
    except FhirExtError:
        # Health says that HAPI is away; the rest of the page stands without it.
        return


def _measurements(deps: StatusDeps, panel: PanelReading) -> list[Json]:
    """One entry per measurement, with a number or a reason for each region."""
    rows: dict[str, Json] = {}
    for member in panel.members:
        row = rows.setdefault(
            member.name,
            {"name": member.name, "words": _words((MEASUREMENT,), member.name), "regions": {}},
        )
        row["regions"][str(member.region)] = {
            "value": member.value,
            "unit": member.unit,
            "reason": member.reason,
            "reason_words": _words((REFUSAL_REASON,), member.reason),
            "observation": f"{deps.fhir_url}/Observation/{member.observation_id}",
        }
    return list(rows.values())


def _words(systems: Sequence[LocalSystem], code: str | None) -> str:
    """The display of a code in the first system that has it; the code itself without one."""
    if not code:
        return ""
    for system in systems:
        if code in system:
            return system.coding(code).display
    return code


def _iso(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""
