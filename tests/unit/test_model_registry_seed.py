"""What the software ships has rows from the start, and follows the software."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry_samples import LUNG, OPERATOR, Desk, lung_manifest, shipped_copy

from fhir_ext.results import ModelIdentity
from models.lifecycle import State
from operations.model_registry import states as module
from operations.model_registry.states import seed, states


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, root=tmp_path / "shipped")
    ship(made, "1.0.0")
    yield made
    made.close()


def ship(desk: Desk, version: str, **changes: object) -> None:
    """This software, as far as models go, in another release."""
    assert desk.root is not None
    shipped_copy(desk.root, lung_density=lung_manifest(version, **changes))


def start(desk: Desk) -> dict[str, State]:
    seed(desk.store, desk.registry, desk.queue)
    return {item.version: item.state for item in states(desk.repository)}


def test_what_is_shipped_begins_active(desk: Desk) -> None:
    assert start(desk) == {"1.0.0": State.ACTIVE}
    (event,) = desk.service.history()
    assert (event.action, event.to_state, event.how) == ("seed", "active", "software")


def test_what_was_recalled_stays_recalled_when_our_database_is_lost(desk: Desk) -> None:
    """The FHIR server knows it; an active row would let it work again."""
    asked = []

    def recalled(model: ModelIdentity) -> bool:
        asked.append(model.version)
        return True

    seed(desk.store, desk.registry, desk.queue, recalled)
    seed(desk.store, desk.registry, desk.queue, recalled)
    assert [item.state for item in states(desk.repository)] == [State.RECALLED]
    assert asked == ["1.0.0"], "a version that has its row is asked for no more"


def test_a_second_start_changes_nothing(desk: Desk) -> None:
    start(desk)
    queued = dict(desk.queue.chores)
    assert start(desk) == {"1.0.0": State.ACTIVE}
    assert len(desk.service.history()) == 1
    assert desk.queue.chores == queued


def test_what_is_switched_on_by_hand_begins_as_a_draft(desk: Desk) -> None:
    ship(desk, "1.0.0", switched_on=False)
    assert start(desk) == {"1.0.0": State.DRAFT}
    ship(desk, "1.1.0", switched_on=False)
    assert start(desk) == {"1.0.0": State.RETIRED, "1.1.0": State.DRAFT}


def test_a_newer_release_takes_the_place_of_the_older(desk: Desk) -> None:
    start(desk)
    ship(desk, "1.1.0")
    assert start(desk) == {"1.0.0": State.RETIRED, "1.1.0": State.ACTIVE}
    assert {event.action for event in desk.service.history(LUNG, "1.1.0")} == {"upgrade"}
    ship(desk, "1.0.0")
    assert start(desk) == {"1.0.0": State.ACTIVE, "1.1.0": State.RETIRED}


def test_a_decision_of_the_site_outlives_a_release(desk: Desk) -> None:
    start(desk)
    desk.service.activate(LUNG, desk.tested("1.0.5"), OPERATOR)
    ship(desk, "1.1.0")
    found = start(desk)
    assert found == {"1.0.0": State.RETIRED, "1.0.5": State.ACTIVE, "1.1.0": State.DRAFT}


def test_what_was_switched_off_stays_off(desk: Desk) -> None:
    start(desk)
    desk.service.retire(LUNG, "1.0.0", OPERATOR)
    ship(desk, "1.1.0")
    assert start(desk) == {"1.0.0": State.RETIRED, "1.1.0": State.DRAFT}


def test_a_recalled_version_is_not_brought_back_by_an_older_release(desk: Desk) -> None:
    start(desk)
    ship(desk, "1.1.0")
    start(desk)
    desk.service.recall(LUNG, "1.0.0", "wrong side", OPERATOR)
    ship(desk, "1.0.0")
    assert start(desk) == {"1.0.0": State.RECALLED, "1.1.0": State.RETIRED}


def test_corrected_code_under_the_same_version_is_followed(desk: Desk) -> None:
    start(desk)
    before = desk.service.version(LUNG, "1.0.0")
    desk.service.test(LUNG, "1.0.0", OPERATOR)
    ship(desk, "1.0.0", title="Lung density, said better")
    start(desk)
    after = desk.service.version(LUNG, "1.0.0")
    assert (after.title, after.state) == ("Lung density, said better", State.ACTIVE)
    assert after.digest != before.digest
    assert after.tested_digest == before.digest


def test_two_workers_that_start_at_once(desk: Desk) -> None:
    registry = desk.registry

    def begin(_: int) -> None:
        module.seed(desk.store, registry, desk.queue)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, range(4)))
    assert len(desk.service.history()) == 1


def test_a_broken_version_of_the_site_does_not_stop_the_start(desk: Desk) -> None:
    broken = desk.settings.folder / "broken" / "1.0.0"
    broken.mkdir(parents=True)
    (broken / "manifest.yaml").write_text("nonsense")
    assert start(desk) == {"1.0.0": State.ACTIVE}
