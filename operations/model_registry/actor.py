"""Who changes model versions, and what becomes known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

from fhir_ext.audit.record import AccessRecord
from fhir_ext.errors import ForbiddenError
from fhir_ext.resources.context import instant
from fhir_ext.resources.ids import device_id, model_event_id
from fhir_ext.store.models import ModelStore
from fhir_ext.store.tables import ModelEvent
from operations.model_registry.recall import ChoreQueue, start_recall
from operations.model_registry.rights import Action
from operations.model_registry.rows import VersionRow

#: Chore that tells the FHIR server: Device and card as they are now, and an AuditEvent.
MODEL_CHANGED: Final = "model-changed"

#: How the programs of ours are called in the audit.
_CLIENTS: Final = {"cli": "fhir-ext-cli", "software": "fhir-ext"}


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

    @property
    def caller(self) -> dict[str, Any]:
        """What the audit says of who acts, beside `who` and `how`; JSON."""
        return {
            "client_id": self.client_id,
            "fhir_user": self.fhir_user,
            "personas": list(self.personas),
            "address": self.address,
        }

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


def tell(store: ModelStore, queue: ChoreQueue) -> int:
    """Have one AuditEvent written about each command that is not told yet, the Devices brought
    up to date, and what a recalled version wrote withdrawn.

    The rows say what is left, so that it is lost with no process: whoever comes next tells it.
    Told twice it is the same chore.

    Returns:
        How many commands there were.
    """
    commands: dict[tuple[str, datetime], list[ModelEvent]] = {}
    for event in store.untold():
        commands.setdefault((event.service, event.at), []).append(event)
    for events in commands.values():
        _enqueue(store, queue, events)
        store.mark_told(events)
    return len(commands)


def _enqueue(store: ModelStore, queue: ChoreQueue, events: Sequence[ModelEvent]) -> None:
    """Put what one command changed into the queue; the last row is what it was about."""
    event = events[-1]
    caller = event.untold or {}
    rows = (store.version(item.service, item.version) for item in events)
    identities = [VersionRow.of(row).identity for row in rows if row is not None]
    key = model_event_id(event.service, event.version, event.at.isoformat(), event.action)
    record = AccessRecord(
        request_id=key,
        recorded=instant(event.at),
        interaction="operation",
        action="E",
        outcome="0",
        # 0: nothing that was asked over HTTP through the gateway.
        http_status=200 if event.how == "rest" else 0,
        client_id=caller.get("client_id") or _CLIENTS.get(event.how),
        subject=None if event.how == "software" else event.who,
        fhir_user=caller.get("fhir_user"),
        personas=tuple(caller.get("personas", ())),
        network_address=caller.get("address"),
        operation=f"model-{event.action}",
        resources=tuple(f"Device/{device_id(identity)}" for identity in identities),
    )
    changed = [[identity.id, identity.version] for identity in identities]
    queue.enqueue_chore(MODEL_CHANGED, key, {"versions": changed, "records": [asdict(record)]})
    if event.action == Action.RECALL:
        one = identities[-1]
        start_recall(queue, one.id, one.version, one.settings_hash, event.reason or "", event.who)
