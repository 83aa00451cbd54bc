"""What may be done with model versions, and which roles may do it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fhir_ext.auth.grant import Grant, Persona


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


#: What a version is in FHIR, and what a token must be allowed to do with it in the context of
#: a user: whoever opens an app lends it no more than the app asked for.
_TYPE: Final = "Device"
_READ, _UPDATE = frozenset("r"), frozenset("u")


def rights_of(grant: Grant) -> frozenset[Action]:
    """What a token may do: what its personas may do together, as far as its scopes reach.

    Looking needs `user/Device.r`, everything else `user/Device.u`; a scope that is restricted by
    a search does not count.
    """
    given: frozenset[Action] = frozenset()
    for persona in grant.personas:
        given |= RIGHTS.get(persona, frozenset())
    scopes = [s for s in grant.scopes if s.context == "user" and not s.restriction]
    if not any(scope.covers(_TYPE, _READ) for scope in scopes):
        given -= _LOOK
    if not any(scope.covers(_TYPE, _UPDATE) for scope in scopes):
        given &= _LOOK
    return given
