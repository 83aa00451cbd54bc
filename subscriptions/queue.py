"""The durable queue: names, ids, and the client that enqueues.

DBOS keeps the queue in SQLite or Postgres. The HTTP side and the commands only enqueue
(`WorkQueue`); the worker executes (`subscriptions.worker`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions, WorkflowStatus

from fhir_ext.store.engine import create_store_engine, queue_url

APPLICATION = "fhir-ext"
STUDY_QUEUE = "studies"
STUDY_WORKFLOW = "analyze-study"
CHORE_QUEUE = "chores"
CHORE_WORKFLOW = "chore"

#: Name of the chore that writes accesses. Every request makes some, so it has a queue of its
#: own: neither a flood of them nor a flood of other chores delays the other kind.
AUDIT: Final = "audit"
AUDIT_QUEUE = "audit"

#: Where parked chores lie until a human has dealt with them: a queue that no worker runs.
PARKED_QUEUE: Final = "parked-chores"
PARKED_WORKFLOW: Final = "parked-chore"

#: States in which DBOS leaves a workflow that it will not run again.
GAVE_UP: Final = ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "ERROR")

#: Most waiting chores that are counted; a metric need not know a larger number.
MOST_COUNTED: Final = 10_000

#: Raised whenever the order or meaning of the workflow's steps changes: work begun by
#: another version is then not resumed in the middle.
WORKFLOW_VERSION = "1"


@dataclass(frozen=True, slots=True)
class StudyMessage:
    """What travels through the queue; ids and times only.

    Attributes:
        imaging_study_id: id of the ImagingStudy in HAPI.
        version: meta.versionId the notice spoke of; the worker reads the newest.
        queued_at: ISO 8601 instant of the first enqueue.
        carrier: W3C trace context of the event.
        attempt: how often the study was put back because it was incomplete.
        run: distinguishes runs that a human asked for; empty for events.
    """

    imaging_study_id: str
    version: str
    queued_at: str
    carrier: Mapping[str, str]
    attempt: int = 0
    run: str = ""

    @property
    def workflow_id(self) -> str:
        """The id under which duplicates of one event fall together."""
        parts = ["ImagingStudy", self.imaging_study_id, self.version]
        if self.run:
            parts.append(f"run-{self.run}")
        if self.attempt:
            parts.append(f"attempt-{self.attempt}")
        return "/".join(parts)

    def as_json(self) -> dict[str, object]:
        return {
            "imaging_study_id": self.imaging_study_id,
            "version": self.version,
            "queued_at": self.queued_at,
            "carrier": dict(self.carrier),
            "attempt": self.attempt,
            "run": self.run,
        }


def new_message(
    imaging_study_id: str, version: str, carrier: Mapping[str, str] | None = None, run: str = ""
) -> StudyMessage:
    moment = datetime.now(UTC).isoformat()
    return StudyMessage(imaging_study_id, version, moment, carrier or {}, run=run)


def enqueue_options(message: StudyMessage, delay: timedelta | None = None) -> EnqueueOptions:
    """Options of one enqueue; the study is the partition, so one study is one at a time."""
    options = EnqueueOptions(
        queue_name=STUDY_QUEUE,
        workflow_name=STUDY_WORKFLOW,
        workflow_id=message.workflow_id,
        app_version=WORKFLOW_VERSION,
        queue_partition_key=message.imaging_study_id,
        application_name=APPLICATION,
    )
    if delay is not None:
        options["delay_seconds"] = delay.total_seconds()
    return options


def chore_options(
    name: str, key: str, attempt: int = 0, delay: timedelta | None = None
) -> EnqueueOptions:
    """Options of one enqueue of a chore.

    Args:
        attempt: how often it was put back.
    """
    options = EnqueueOptions(
        queue_name=AUDIT_QUEUE if name == AUDIT else CHORE_QUEUE,
        workflow_name=CHORE_WORKFLOW,
        workflow_id=f"{name}/{key}" + (f"/attempt-{attempt}" if attempt else ""),
        app_version=WORKFLOW_VERSION,
        application_name=APPLICATION,
    )
    if delay is not None:
        options["delay_seconds"] = delay.total_seconds()
    return options


#: Between the key of a chore and how often a human has had it tried.
RETRY_MARK: Final = "~"


@dataclass(frozen=True, slots=True)
class ParkedChore:
    """A chore that a human must look at.

    Attributes:
        name: which handler does it.
        key: what it is about.
        payload: what it was enqueued with.
        code: why it was parked, as its Task says.
        since: when.
    """

    name: str
    key: str
    payload: Mapping[str, object]
    code: str
    since: datetime

    @property
    def workflow_id(self) -> str:
        return f"{self.name}/{self.key}"


def chore_of(status: WorkflowStatus) -> tuple[str, str, dict[str, Any]]:
    """Name, key and payload of a chore's workflow, loaded with its input."""
    arguments: Any = status.input
    name, key, payload = arguments["args"][:3]
    return name, key, payload


def _parked_id(name: str, key: str) -> str:
    return f"parked/{name}/{key}"


class WorkQueue:
    """Enqueues studies and shows what waits.

    Args:
        database_url: `Settings.database.url`; the queue must have been migrated.
    """

    def __init__(self, database_url: str) -> None:
        self._engine = create_store_engine(queue_url(database_url))
        self._client = DBOSClient(
            system_database_engine=self._engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
        )

    def enqueue(self, message: StudyMessage, delay: timedelta | None = None) -> str:
        """Put a study into the queue; durable when this returns.

        A message whose workflow id is already known, finished or not, changes nothing.

        Returns:
            The workflow id.
        """
        self._client.enqueue(enqueue_options(message, delay), message.as_json())
        return message.workflow_id

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str:
        """Put a chore (`subscriptions.chores`) into the queue; durable when this returns.

        Args:
            name: which handler does it.
            key: what makes it one thing; known already, it changes nothing.
            payload: JSON; ids and codes, no clinical values.

        Returns:
            The workflow id.
        """
        self._client.enqueue(chore_options(name, key), name, key, dict(payload))
        return f"{name}/{key}"

    def waiting(self) -> Sequence[WorkflowStatus]:
        """Everything that is enqueued, delayed or being worked on; oldest first."""
        return self._client.list_workflows(
            status=["ENQUEUED", "DELAYED", "PENDING"],
            name=STUDY_WORKFLOW,
            load_input=False,
            load_output=False,
        )

    def waiting_chores(self) -> Sequence[WorkflowStatus]:
        """Chores that are enqueued or being worked on; oldest first, at most `MOST_COUNTED`."""
        return self._client.list_workflows(
            status=["ENQUEUED", "DELAYED", "PENDING"],
            name=CHORE_WORKFLOW,
            limit=MOST_COUNTED,
            load_input=False,
            load_output=False,
        )

    def park_chore(self, name: str, key: str, payload: Mapping[str, object], code: str) -> None:
        """Keep a chore that cannot be done until a human retries it; durable, idempotent."""
        options = EnqueueOptions(
            queue_name=PARKED_QUEUE,
            workflow_name=PARKED_WORKFLOW,
            workflow_id=_parked_id(name, key),
            app_version=WORKFLOW_VERSION,
            application_name=APPLICATION,
        )
        self._client.enqueue(options, name, key, dict(payload), code)

    def parked_chores(self) -> Sequence[ParkedChore]:
        """Chores that wait for a human; oldest first."""
        found = []
        for status in self._client.list_workflows(name=PARKED_WORKFLOW, load_output=False):
            arguments: Any = status.input
            since = datetime.fromtimestamp((status.created_at or 0) / 1000, UTC)
            found.append(ParkedChore(*chore_of(status), arguments["args"][3], since))
        return found

    def retry_chore(self, chore: ParkedChore) -> str:
        """Enqueue a parked chore anew, under a new key.

        The new key follows from the old one: interrupted in the middle, it can be repeated.

        Returns:
            The new workflow id.
        """
        base, mark, count = chore.key.rpartition(RETRY_MARK)
        again = bool(mark) and count.isdecimal()
        key = f"{base}{mark}{int(count) + 1}" if again else f"{chore.key}{RETRY_MARK}2"
        queued = self.enqueue_chore(chore.name, key, chore.payload)
        self._client.delete_workflow(_parked_id(chore.name, chore.key))
        return queued

    def close(self) -> None:
        self._client.destroy()
        self._engine.dispose()


def migrate_queue(database_url: str) -> None:
    """Create or bring up to date the queue's own tables."""
    url = queue_url(database_url)
    # Opening it once puts a new SQLite file into WAL mode before the queue touches it.
    engine = create_store_engine(url)
    engine.connect().close()
    engine.dispose()
    DBOS.migrate(url)
