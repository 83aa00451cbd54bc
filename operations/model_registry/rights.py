"""What may be done with model versions, and which roles may do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fhir_ext.auth.grant import Persona


class Action(StrEnum):
    """What people do with model versions; `ModelEvent.action` for those that change one."""

    LIST = "list"
    SHOW = "show"
    HISTORY = "history"
    INSTALL = "install"
    TEST = "test"
    SHADOW = "shadow"
    CANARY = "canary"
    ACTIVATE = "activate"
    RETIRE = "retire"
    ROLLBACK = "rollback"
    RECALL = "recall"


_LOOK: Final = frozenset({Action.LIST, Action.SHOW, Action.HISTORY})

#: Who may do what over HTTP; nobody else may do anything. What an ML engineer may do changes
#: no record of a patient.
RIGHTS: Final[Mapping[Persona, frozenset[Action]]] = MappingProxyType(
    {
        Persona.ML_ENGINEER: _LOOK | {Action.INSTALL, Action.TEST, Action.SHADOW},
        Persona.ADMINISTRATOR: frozenset(Action),
        Persona.AUDITOR: _LOOK,
    }
)


def rights_of(personas: Iterable[Persona]) -> frozenset[Action]:
    """What a caller's personas may do together."""
    return frozenset().union(*(RIGHTS.get(persona, frozenset()) for persona in personas))
