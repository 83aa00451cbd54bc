"""What only one worker does at a time, and how a dead worker's work is taken over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import FhirExtError
from fhir_ext.logs import event, get_logger, incident
from fhir_ext.resources.task import parked_chore_task
from fhir_ext.store.repository import Repository, now
from operations.analyze.service import AnalyzeService
from subscriptions.queue import (
    AUDIT,
    CHORE_WORKFLOW,
    GAVE_UP,
    STUDY_WORKFLOW,
    StudyMessage,
    WorkQueue,
    chore_of,
)

log = get_logger(__name__)

LEADER = "leader"
WORKER_PREFIX = "worker/"

#: Finished workflows deleted at once by the retention.
RETENTION_BATCH = 500

#: Written audit entries leave the queue after this: they hold queries, which are patient data.
AUDIT_RETENTION = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Loop:
    """Something done again and again by the leader."""

    name: str
    interval: timedelta
    action: Callable[[], object]


class Leader:
    """Runs loops in threads while this worker holds the lease.

    Args:
        repository: where leases live.
        holder: this worker's executor id.
        ttl: how long a lease lasts without renewal.
        loops: what the leader does.
    """

    def __init__(
        self, repository: Repository, holder: str, ttl: timedelta, loops: list[Loop]
    ) -> None:
        self._repository, self._holder, self._ttl = repository, holder, ttl
        self._leading, self._stopping = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._renew, name="lease", daemon=True)]
        self._threads += [
            threading.Thread(target=self._repeat, args=(loop,), name=loop.name, daemon=True)
            for loop in loops
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._repository.release_lease(LEADER, self._holder)
        self._repository.release_lease(WORKER_PREFIX + self._holder, self._holder)

    def _renew(self) -> None:
        pause = self._ttl.total_seconds() / 4
        while True:
            try:
                leads = self._hold_leases()
            except SQLAlchemyError as error:
                # A database that is away is tried again; until then nobody leads.
                incident(log, "lease-failed", error)
                leads = False
            if leads != self._leading.is_set():
                event(log, "leader-changed", leading=leads)
            if leads:
                self._leading.set()
            else:
                self._leading.clear()
            if self._stopping.wait(pause):
                return

    def _hold_leases(self) -> bool:
        """Renew this worker's own lease, and the leader's if it can be had."""
        own = WORKER_PREFIX + self._holder
        self._repository.acquire_lease(own, self._holder, self._ttl)
        return self._repository.acquire_lease(LEADER, self._holder, self._ttl)

    def _repeat(self, loop: Loop) -> None:
        while not self._stopping.is_set():
            if self._leading.wait(timeout=0.5):
                try:
                    loop.action()
                except FhirExtError as error:
                    event(log, "loop-failed", loop=loop.name, code=error.code)
                except Exception as error:  # noqa: BLE001  one bad round must not end the loop
                    incident(log, "loop-failed", error, loop=loop.name)
                if self._stopping.wait(loop.interval.total_seconds()):
                    return


def take_over_dead_workers(repository: Repository, holder: str, ttl: timedelta) -> int:
    """Give the unfinished work of silent workers back to the queue.

    Args:
        holder: this worker, which is alive even when its own renewal was late.
        ttl: how long the take-over itself may last.

    Returns:
        How many workers were taken over.
    """
    dead = [
        lease
        for lease in repository.expired_leases(WORKER_PREFIX)
        if lease.name != WORKER_PREFIX + holder
    ]
    for lease in dead:
        name = lease.name.removeprefix(WORKER_PREFIX)
        # Taking the lease first makes sure that a worker that came back is left alone.
        if not repository.acquire_lease(lease.name, "take-over", ttl):
            continue
        # DBOS offers this to its own recovery service; there is no public name for it.
        DBOS._recover_pending_workflows([name])
        repository.release_lease(lease.name, "take-over")
        event(log, "worker-taken-over")
    return len(dead)


def park_crashed(repository: Repository, analyze: AnalyzeService) -> int:
    """Make visible what DBOS gave up: work whose worker died again and again.

    Returns:
        How many studies became a Task.
    """
    parked = 0
    for status in DBOS.list_workflows(
        status=list(GAVE_UP),
        name=STUDY_WORKFLOW,
        load_output=False,
    ):
        row = repository.run(status.workflow_id)
        if status.input is None or (row is not None and row.state in ("parked", "resumed")):
            continue
        message = StudyMessage(**status.input["args"][0])
        text = "the worker died several times while it worked on this study"
        step = row.step if row else ""
        analyze.write_parked_task(message.imaging_study_id, step, "worker-crashed", text)
        repository.record_run(
            message.workflow_id,
            message.imaging_study_id,
            message.version,
            state="parked",
            step=step,
            reason="worker-crashed",
            detail=text,
            finished_at=now(),
        )
        parked += 1
    return parked


def park_crashed_chores(fhir: FhirClient, queue: WorkQueue) -> int:
    """Park the chores that DBOS gave up: their worker died over them again and again.

    Returns:
        How many chores became a Task.
    """
    found = DBOS.list_workflows(status=list(GAVE_UP), name=CHORE_WORKFLOW, load_output=False)
    for status in found:
        name, key, payload = chore_of(status)
        text = "the worker died several times while it worked on this"
        queue.park_chore(name, key, payload, "worker-crashed")
        fhir.put(parked_chore_task(name, key, "worker-crashed", text, now()))
        # Forgotten last: interrupted before, the same is done once more.
        DBOS.delete_workflow(status.workflow_id)
        event(log, "chore-parked", step=name, code="worker-crashed")
    return len(found)


def delete_finished(repository: Repository, retention: timedelta) -> int:
    """Forget finished work older than `retention`; the results themselves are in HAPI.

    Returns:
        How many workflows were deleted.
    """
    before = now() - retention
    # Those that gave up too: without their run's row they would be parked once more.
    deleted = _delete_workflows(before, status=["SUCCESS", *GAVE_UP])
    repository.delete_runs_before(before)
    return deleted


def delete_written_audit() -> int:
    """Forget audit entries that are in the FHIR server.

    Returns:
        How many workflows were deleted.
    """
    return _delete_workflows(
        now() - AUDIT_RETENTION,
        status=["SUCCESS"],
        name=CHORE_WORKFLOW,
        workflow_id_prefix=f"{AUDIT}/",
    )


def _delete_workflows(before: datetime, **which: Any) -> int:
    deleted = 0
    while True:
        found = DBOS.list_workflows(
            end_time=before.isoformat(),
            limit=RETENTION_BATCH,
            load_input=False,
            load_output=False,
            **which,
        )
        DBOS.delete_workflows([status.workflow_id for status in found])
        deleted += len(found)
        if len(found) < RETENTION_BATCH:
            return deleted
