"""Model versions in a worker: what is at work, and the chores that change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import CallerError, FhirExtError, SettingsError
from fhir_ext.logs import event, get_logger
from fhir_ext.settings import Settings
from fhir_ext.store.models import ModelStore
from fhir_ext.store.repository import Repository
from models.lifecycle import AT_WORK, VersionState
from models.registry import Registry
from operations.model_registry.actor import MODEL_CHANGED, Actor, tell
from operations.model_registry.build import with_networks
from operations.model_registry.publish import publish_version, publish_versions
from operations.model_registry.service import TEST, ModelRegistryService
from operations.model_registry.states import recalled_in, seed, states
from subscriptions.chores import Handler
from subscriptions.queue import WorkQueue

if TYPE_CHECKING:
    from models.runtime.host import Host

log = get_logger(__name__)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerModels:
    """The model versions of one worker process.

    Attributes:
        host: runs their networks.
        registry: finds and loads them.
        service: changes them.
        repository: says where they stand.
    """

    host: Host
    registry: Registry
    service: ModelRegistryService
    repository: Repository

    @classmethod
    def build(
        cls,
        settings: Settings,
        repository: Repository,
        queue: WorkQueue,
        host: Host,
        fhir: FhirClient,
    ) -> Self:
        """Give the shipped versions their rows, and find those of the site."""
        store = ModelStore(repository.engine)

        def expected(service: str, version: str) -> str | None:
            row = store.version(service, version)
            return row.settings_hash if row is not None else None

        registry = Registry(site=settings.models.folder, host=host, expected=expected)
        seed(store, registry, queue, recalled_in(fhir))
        service = with_networks(settings, repository, queue, registry, host)
        return cls(host, registry, service, repository)

    def states(self) -> tuple[VersionState, ...]:
        """See `operations.model_registry.states.states`."""
        return states(self.repository)

    def handlers(self, fhir: FhirClient, audit: Handler) -> dict[str, Handler]:
        """Chores about model versions, by name.

        Args:
            audit: writes AuditEvents of noted accesses.
        """
        return {
            TEST: RunCases(self.service),
            MODEL_CHANGED: TellChange(fhir, self.service, self.registry, audit),
        }

    def publish(self, fhir: FhirClient) -> None:
        """Tell what a command left untold that died too early, and bring all Devices in line.

        Raises:
            UpstreamError: HAPI is down.
            ParkedWork: see `states`.
        """
        tell(self.service.store, self.service.queue)
        publish_versions(fhir, self.registry, self.states())

    def prepare(self) -> None:
        """Import what runs the versions at work, so that the first study does not wait for it.

        A version that cannot be loaded stops nobody: its studies are parked, with the reason.
        """
        try:
            standing = self.states()
        except FhirExtError as error:
            event(log, "model-states-refused", code=error.code)
            return
        for item in standing:
            if item.state in AT_WORK:
                self._prepare(item)

    def _prepare(self, item: VersionState) -> None:
        try:
            self.registry.load(item.service, item.version)
        except FhirExtError as error:
            event(log, "model-not-loaded", service=item.service, code=error.code)


@dataclass(frozen=True, slots=True)
class RunCases:
    """The chore `model-test`: runs the cases of a version for somebody who asked over HTTP."""

    service: ModelRegistryService

    def __call__(self, payload: Json) -> None:
        """Do the chore; see `ModelRegistryService.request_test` for the payload.

        Raises:
            CallerError: the version is gone.
        """
        actor = Actor(
            payload["who"],
            payload["how"],
            client_id=payload["client_id"],
            fhir_user=payload["fhir_user"],
            personas=tuple(payload["personas"]),
        )
        self.service.test(payload["service"], payload["version"], actor, payload["request"])


@dataclass(frozen=True, slots=True)
class TellChange:
    """The chore `model-changed`: Devices and cards as they are now, and the AuditEvent."""

    fhir: FhirClient
    service: ModelRegistryService
    registry: Registry
    audit: Callable[[Json], None]

    def __call__(self, payload: Json) -> None:
        """Do the chore.

        Args:
            payload: `versions`, pairs of service and version; `records`, as for `audit`.

        Raises:
            UpstreamError: HAPI is down; all of it is tried again.
            ParkedWork: HAPI refuses the AuditEvent.
        """
        for service, version in payload["versions"]:
            self._publish(service, version)
        self.audit({"records": payload["records"]})

    def _publish(self, service: str, version: str) -> None:
        try:
            row = self.service.version(service, version)
            installed = self.registry.find(service, version)
            publish_version(
                self.fhir,
                installed.manifest,
                row.state,
                folder=installed.folder,
                shipped=installed.shipped,
            )
        except (CallerError, SettingsError) as error:
            # Its files are gone or damaged; that something was done with it is told all the same.
            event(log, "model-not-published", service=service, code=error.code)
