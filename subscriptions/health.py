"""What the status page, readiness and `doctor` ask about the parts of an installation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from dbos import WorkflowStatus

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import FhirExtError
from fhir_ext.settings import Settings
from fhir_ext.status.service import HealthState, QueueState
from fhir_ext.store.repository import Repository, now
from subscriptions.hooks import HOOKS
from subscriptions.intake.subscription import Hook, check_subscription
from subscriptions.leader import WORKER_PREFIX
from subscriptions.queue import WorkQueue


def queue_state(queue: WorkQueue) -> QueueState:
    """Depth and age of what waits to be worked on, and how much is put back for later."""
    return _state(queue.waiting(), ("ENQUEUED",))


def chore_state(queue: WorkQueue) -> QueueState:
    """The same for chores. One that is being worked on counts: it may be waiting for a server."""
    return _state(queue.waiting_chores(), ("ENQUEUED", "PENDING"))


def _state(waiting: Sequence[WorkflowStatus], counted: tuple[str, ...]) -> QueueState:
    found = [item for item in waiting if item.status in counted]
    oldest = min((item.created_at for item in found if item.created_at), default=None)
    age = datetime.now(UTC).timestamp() - oldest / 1000 if oldest is not None else None
    return QueueState(
        depth=len(found),
        oldest_seconds=age,
        delayed=sum(item.status == "DELAYED" for item in waiting),
    )


def health_checks(
    settings: Settings, repository: Repository, fhir: FhirClient
) -> Mapping[str, Callable[[], HealthState]]:
    """Name to check; a check answers, it does not raise for what it checks."""
    archive = DicomWebClient(settings.archive, settings.limits)

    def fhir_server() -> HealthState:
        fhir.search("ImagingStudy", {"_count": 1, "_elements": "id"}, limit=1)
        return HealthState(True, "answers searches")

    def archive_server() -> HealthState:
        archive.ping()
        return HealthState(True, "answers QIDO-RS")

    def subscription(hook: Hook) -> Callable[[], HealthState]:
        def check() -> HealthState:
            state = check_subscription(fhir, settings.intake, hook)
            return HealthState(state.state == "active", state.detail)

        return _answering(check)

    def worker() -> HealthState:
        alive = [lease for lease in repository.leases(WORKER_PREFIX) if lease.expires_at >= now()]
        return HealthState(bool(alive), f"{len(alive)} alive")

    def database() -> HealthState:
        repository.count_runs()
        return HealthState(True, "answers")

    return {
        "FHIR server": _answering(fhir_server),
        "DICOMweb archive": _answering(archive_server),
        "database": _answering(database),
        "worker": _answering(worker),
        **{name: subscription(hook) for name, hook in HOOKS.items()},
    }


def _answering(check: Callable[[], HealthState]) -> Callable[[], HealthState]:
    def answer() -> HealthState:
        try:
            return check()
        except FhirExtError as error:
            return HealthState(False, error.message)

    return answer
