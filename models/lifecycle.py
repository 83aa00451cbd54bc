"""States of model versions, who follows whom, and which version looks at a study."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a version stands. Only `canary` and `active` write into records."""

    DRAFT = "draft"
    SHADOW = "shadow"
    CANARY = "canary"
    ACTIVE = "active"
    RETIRED = "retired"
    RECALLED = "recalled"


#: From each state to the states that may follow. A recalled version never comes back.
FOLLOWS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.DRAFT: frozenset(
            {State.SHADOW, State.CANARY, State.ACTIVE, State.RETIRED, State.RECALLED}
        ),
        State.SHADOW: frozenset({State.CANARY, State.ACTIVE, State.RETIRED, State.RECALLED}),
        State.CANARY: frozenset({State.SHADOW, State.ACTIVE, State.RETIRED, State.RECALLED}),
        State.ACTIVE: frozenset({State.RETIRED, State.RECALLED}),
        State.RETIRED: frozenset({State.SHADOW, State.CANARY, State.ACTIVE, State.RECALLED}),
        State.RECALLED: frozenset(),
    }
)


#: States that at most one version of a service is in.
ONLY_ONE: frozenset[State] = frozenset({State.ACTIVE, State.CANARY})

#: States in which a version looks at studies.
AT_WORK: frozenset[State] = frozenset({State.SHADOW, State.CANARY, State.ACTIVE})


def may_follow(present: State, wanted: State) -> bool:
    """Whether a version may go from one state to another; a canary may change its share."""
    return wanted in FOLLOWS[present] or present is wanted is State.CANARY


@dataclass(frozen=True, slots=True)
class VersionState:
    """Where one installed version stands.

    Attributes:
        service, version: which.
        state: see `State`.
        share: part of the studies that a canary sees, 0 to 1; 0 in other states.
    """

    service: str
    version: str
    state: State
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which versions of one service look at one study.

    Attributes:
        writes: the version whose results go into the record; None when none is switched on.
        canary: whether `writes` is the canary instead of the active version.
        shadows: versions whose results are kept in our own database only, sorted.
    """

    writes: str | None = None
    canary: bool = False
    shadows: tuple[str, ...] = ()


def crowded(states: Iterable[VersionState]) -> tuple[str, ...]:
    """Services of which several versions are active, or several are canaries; sorted.

    The database refuses such rows; somebody changed it by hand.
    """
    counts = Counter((item.service, item.state) for item in states if item.state in ONLY_ONE)
    return tuple(sorted({service for (service, _), count in counts.items() if count > 1}))


def assign(states: Iterable[VersionState], study_instance_uid: str) -> Mapping[str, Assignment]:
    """Service name to the versions that look at a study.

    A canary sees the studies whose hash falls into its share, in place of the active
    version: always the same studies, and with a growing share those and more.
    """
    services: dict[str, list[VersionState]] = {}
    for item in states:
        services.setdefault(item.service, []).append(item)
    return {
        service: _assign(service, versions, study_instance_uid)
        for service, versions in services.items()
    }


def _assign(service: str, versions: list[VersionState], study_instance_uid: str) -> Assignment:
    active = next((v.version for v in versions if v.state is State.ACTIVE), None)
    canary = next((v for v in versions if v.state is State.CANARY), None)
    shadows = tuple(sorted(v.version for v in versions if v.state is State.SHADOW))
    if canary is not None and draw(service, study_instance_uid) < canary.share:
        return Assignment(canary.version, True, shadows)
    return Assignment(active, False, shadows)


def draw(service: str, study_instance_uid: str) -> float:
    """A number from 0 to 1, below 1, that a study keeps for one service."""
    digest = hashlib.sha256(f"{service}\n{study_instance_uid}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
