"""Who changes model versions, and what becomes known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, Protocol

from fhir_ext.audit.record import AccessRecord
from fhir_ext.errors import ForbiddenError
from fhir_ext.resources.context import instant
from fhir_ext.resources.ids import device_id, model_event_id
from fhir_ext.results import ModelIdentity
from fhir_ext.store.tables import ModelEvent
from operations.model_registry.rights import Action

#: Chore that tells the FHIR server: Device and card as they are now, and an AuditEvent.
MODEL_CHANGED: Final = "model-changed"

#: How the programs of ours are called in the audit.
_CLIENTS: Final = {"cli": "fhir-ext-cli", "software": "fhir-ext"}


class ChoreQueue(Protocol):
    """The part of the queue that is needed."""

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str: ...


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts.

    Attributes:
        who: account of this machine (`cli`), `sub` of the token (`rest`), or ours.
        how: by which way.
        rights: what may be done.
        client_id, fhir_user, personas, address: of the token and its caller, for the audit.
    """

    who: str
    how: Literal["cli", "rest", "software"]
    rights: frozenset[Action] = frozenset(Action)
    client_id: str | None = None
    fhir_user: str | None = None
    personas: tuple[str, ...] = ()
    address: str | None = None

    def require(self, action: Action) -> None:
        """Raise unless something may be done.

        Raises:
            ForbiddenError: `persona`.
        """
        if action not in self.rights:
            raise ForbiddenError(
                "the role or the scopes of the caller do not allow it", code="persona"
            )


#: What happens without anybody's command.
SOFTWARE: Final = Actor("fhir-ext", "software")


def tell(
    queue: ChoreQueue,
    events: Sequence[ModelEvent],
    identities: Sequence[ModelIdentity],
    actor: Actor,
) -> None:
    """Have one AuditEvent written about one command, and the Devices brought up to date.

    Args:
        events: what it changed, at least one; the last one is what it was about.
        identities: of the versions of the events.
    """
    event = events[-1]
    key = model_event_id(event.service, event.version, event.at.isoformat(), event.action)
    record = AccessRecord(
        request_id=key,
        recorded=instant(event.at),
        interaction="operation",
        action="E",
        outcome="0",
        # 0: nothing that was asked over HTTP through the gateway.
        http_status=200 if actor.how == "rest" else 0,
        client_id=actor.client_id or _CLIENTS.get(actor.how),
        subject=None if actor.how == "software" else actor.who,
        fhir_user=actor.fhir_user,
        personas=actor.personas,
        network_address=actor.address,
        operation=f"model-{event.action}",
        resources=tuple(f"Device/{device_id(identity)}" for identity in identities),
    )
    changed = [[identity.id, identity.version] for identity in identities]
    queue.enqueue_chore(MODEL_CHANGED, key, {"versions": changed, "records": [asdict(record)]})
