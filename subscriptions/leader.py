"""What only one worker does at a time, and how a dead worker's work is taken over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.errors import FhirExtError
from fhir_ext.logs import event, get_logger, incident
from fhir_ext.store.repository import Repository, now
from operations.analyze.service import AnalyzeService
from subscriptions.queue import STUDY_WORKFLOW, StudyMessage

log = get_logger(__name__)

LEADER = "leader"
WORKER_PREFIX = "worker/"

#: States in which DBOS leaves a workflow that it will not run again.
GAVE_UP = ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "ERROR")

#: Finished workflows deleted by one round of the retention.
RETENTION_BATCH = 500


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


def delete_finished(repository: Repository, retention: timedelta) -> int:
    """Forget finished work older than `retention`; the results themselves are in HAPI.

    Returns:
        How many workflows were deleted.
    """
    before = now() - retention
    finished = DBOS.list_workflows(
        # Those that gave up too: without their run's row they would be parked once more.
        status=["SUCCESS", *GAVE_UP],
        end_time=before.isoformat(),
        limit=RETENTION_BATCH,
        load_input=False,
        load_output=False,
    )
    DBOS.delete_workflows([status.workflow_id for status in finished])
    repository.delete_runs_before(before)
    return len(finished)
