"""The worker process: runs the queue, and the loops that only one worker runs at a time.

Leases in our database decide who does what: each worker renews `worker/{executor_id}`; the
`leader` renews its own and runs the bridge, the sweep, the Subscription check, the
take-over of dead workers and the retention.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

from fhir_ext.errors import FhirExtError, SettingsError
from fhir_ext.logs import event, get_logger, incident
from fhir_ext.settings import Settings
from fhir_ext.store.engine import create_store_engine, queue_url
from fhir_ext.store.repository import Repository
from subscriptions.queue import APPLICATION, STUDY_QUEUE, WORKFLOW_VERSION
from subscriptions.workflow import StudyWorkflow

log = get_logger(__name__)

LEADER = "leader"
WORKER_PREFIX = "worker/"


@dataclass(frozen=True, slots=True)
class Loop:
    """Something done again and again by the leader."""

    name: str
    interval: timedelta
    action: Callable[[], object]


def executor_id(settings: Settings) -> str:
    """Stable id of this worker.

    Raises:
        SettingsError: on Postgres, where several workers share the queue, none was given.
    """
    if settings.worker.executor_id:
        return settings.worker.executor_id
    if settings.database.url.startswith("sqlite"):
        return "local"
    raise SettingsError("set worker.executor_id: on Postgres each worker needs its own, stable id")


@contextmanager
def running_queue(settings: Settings, workflow: StudyWorkflow) -> Iterator[None]:
    """Launch DBOS for this process and stop it at the end."""
    engine = create_store_engine(queue_url(settings.database.url))
    config = DBOSConfig(
        name=APPLICATION,
        system_database_engine=engine,
        executor_id=executor_id(settings),
        application_version=WORKFLOW_VERSION,
        serializer=DBOSPortableJSONSerializer(),
        run_migrations=False,
        log_level="WARNING",
        notification_listener_polling_interval_sec=1.0,
    )
    DBOS(config=config)
    workflow.register()
    DBOS.launch()
    DBOS.register_queue(
        STUDY_QUEUE,
        worker_concurrency=settings.worker.concurrency,
        # One study at a time: a newer version waits for the older one to finish.
        partition_concurrency=1,
        polling_interval_sec=settings.worker.queue_poll_interval.total_seconds(),
        on_conflict="always_update",
    )
    try:
        yield
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=5)
        engine.dispose()


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
            self._repository.acquire_lease(WORKER_PREFIX + self._holder, self._holder, self._ttl)
            leads = self._repository.acquire_lease(LEADER, self._holder, self._ttl)
            if leads != self._leading.is_set():
                event(log, "leader-changed", leading=leads)
            if leads:
                self._leading.set()
            else:
                self._leading.clear()
            if self._stopping.wait(pause):
                return

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


def take_over_dead_workers(repository: Repository, ttl: timedelta) -> int:
    """Give the unfinished work of silent workers back to the queue.

    Returns:
        How many workers were taken over.
    """
    dead = [lease for lease in repository.expired_leases(WORKER_PREFIX)]
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
