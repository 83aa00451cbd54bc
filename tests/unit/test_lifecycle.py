"""States of versions: who may follow whom, who looks at a study, what is out of order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.lifecycle import FOLLOWS, State, VersionState, assign, crowded, draw, may_follow


def test_a_recalled_version_never_comes_back() -> None:
    assert not any(may_follow(State.RECALLED, state) for state in State)


def test_every_other_state_can_be_recalled() -> None:
    for state in set(State) - {State.RECALLED}:
        assert may_follow(state, State.RECALLED)


def test_only_a_canary_follows_itself() -> None:
    assert [state for state in State if may_follow(state, state)] == [State.CANARY]


@pytest.mark.parametrize("state", [State.DRAFT, State.SHADOW, State.CANARY])
def test_what_was_active_is_retired_before_anything_else(state: State) -> None:
    assert not may_follow(State.ACTIVE, state)
    assert state is State.DRAFT or may_follow(State.RETIRED, state)


def test_the_table_names_every_state() -> None:
    assert set(FOLLOWS) == set(State)


def test_two_active_versions_or_two_canaries_are_out_of_order() -> None:
    one = VersionState("a", "1.0.0", State.ACTIVE)
    two = VersionState("a", "2.0.0", State.ACTIVE)
    elsewhere = VersionState("b", "1.0.0", State.ACTIVE)
    canaries = [VersionState("c", v, State.CANARY, 0.1) for v in ("1.0.0", "2.0.0")]
    shadows = [VersionState("d", v, State.SHADOW) for v in ("1.0.0", "2.0.0")]
    assert crowded([one, elsewhere, canaries[0], *shadows]) == ()
    assert crowded([one, two, elsewhere, *canaries]) == ("a", "c")


UIDS = st.integers(1, 10**20).map(lambda number: f"2.25.{number}")


@given(UIDS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_canary_keeps_its_studies_when_its_share_grows(
    uid: str, one: float, other: float
) -> None:
    def writes(share: float) -> str | None:
        states = [
            VersionState("a", "1.0.0", State.ACTIVE),
            VersionState("a", "1.1.0", State.CANARY, share),
            VersionState("a", "1.2.0", State.SHADOW),
        ]
        found = assign(states, uid)["a"]
        assert found.shadows == ("1.2.0",)
        return found.writes

    small, large = sorted((one, other))
    if writes(small) == "1.1.0":
        assert writes(large) == "1.1.0"
    assert writes(1.0) == "1.1.0"


def test_a_share_is_met_over_many_studies() -> None:
    drawn = [draw("lung-density", f"2.25.{number}") for number in range(4000)]
    assert all(0 <= number < 1 for number in drawn)
    assert sum(number < 0.1 for number in drawn) / len(drawn) == pytest.approx(0.1, abs=0.02)


def test_nothing_writes_where_no_version_is_active() -> None:
    found = assign([VersionState("a", "1.0.0", State.RETIRED)], "2.25.1")["a"]
    assert (found.writes, found.canary, found.shadows) == (None, False, ())
