"""Which version was active before, by the history."""

from __future__ import annotations

from collections.abc import Iterable

from fhir_ext.store.tables import ModelEvent
from models.lifecycle import State
from operations.model_registry.rights import Action


def active_versions(events: Iterable[ModelEvent]) -> list[str]:
    """Versions of one service that were active, the present one last.

    A rollback takes back what came after the version it went to, so that a second one goes
    further back instead of forward again.

    Args:
        events: of the service, oldest first.
    """
    order: list[str] = []
    for event in events:
        if event.to_state != State.ACTIVE or event.from_state == State.ACTIVE:
            continue
        if event.action == Action.ROLLBACK and event.version in order:
            while order[-1] != event.version:
                order.pop()
        elif not order or order[-1] != event.version:
            order.append(event.version)
    return order
