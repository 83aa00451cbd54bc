"""What a death or a lost database leaves behind is taken up: folders, audits, recalls."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from registry_samples import LUNG, OPERATOR, Desk, NotedQueue, lung_folder, shipped_copy
from registry_samples import lung_manifest as manifest_of

from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.results import ModelIdentity
from models.lifecycle import State
from operations.model_registry.actor import MODEL_CHANGED, Actor, tell
from operations.model_registry.install import place
from operations.model_registry.recall import RECALL
from operations.model_registry.rights import Action
from operations.model_registry.states import seed, states

APP = Actor(
    "sub-1",
    "rest",
    frozenset(Action),
    client_id="console",
    fhir_user="Practitioner/ann",
    personas=("administrator",),
    address="192.0.2.7",
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, root=tmp_path / "shipped")
    shipped_copy(tmp_path / "shipped", lung_density=manifest_of("1.0.0"))
    yield made
    made.close()


def folder(desk: Desk, version: str) -> Path:
    """A version in the site's folder as an installation leaves it; there is no row."""
    source = lung_folder(desk.tmp_path, version)
    return place(source, desk.settings.folder, 10**9, lambda *_: False).folder


def start(desk: Desk, *recalled: str) -> dict[str, State]:
    """What stands after a start; HAPI knows some versions as recalled."""

    def known(model: ModelIdentity) -> bool:
        return model.version in recalled

    seed(desk.store, desk.registry, desk.queue, known)
    return {item.version: item.state for item in states(desk.repository)}


def test_versions_of_the_site_come_back_as_drafts_and_recalled_ones_as_recalled(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder(desk, "1.1.0")
    folder(desk, "1.2.0")
    expected = {"1.0.0": State.ACTIVE, "1.1.0": State.DRAFT, "1.2.0": State.RECALLED}
    assert start(desk, "1.2.0") == expected
    lines = [record.getMessage() for record in caplog.records]
    assert sum("model-taken-up" in line for line in lines) == 2
    assert start(desk) == expected
    assert len(desk.service.history()) == 3
    assert desk.queue.named(RECALL) == []


def test_what_was_taken_up_works_again_once_it_is_tested(desk: Desk) -> None:
    folder(desk, "1.1.0")
    start(desk)
    desk.service.test(LUNG, "1.1.0", OPERATOR)
    desk.service.activate(LUNG, "1.1.0", OPERATOR)
    assert start(desk) == {"1.0.0": State.RETIRED, "1.1.0": State.ACTIVE}


def test_installing_what_was_taken_up_changes_nothing(desk: Desk) -> None:
    folder(desk, "1.1.0")
    start(desk)
    row = desk.service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    assert (row.state, len(desk.service.history(LUNG, "1.1.0"))) == (State.DRAFT, 1)


@pytest.mark.parametrize("damage", ["nonsense", "another version", "a file is gone", "a link"])
def test_a_damaged_folder_is_said_and_stops_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    caplog.set_level(logging.INFO)
    broken = folder(desk, "1.1.0") / "manifest.yaml"
    whole = broken.read_text("utf-8")
    if damage == "nonsense":
        broken.write_text("nonsense", "utf-8")
    elif damage == "another version":
        broken.write_text(whole.replace("version: 1.1.0", "version: 1.9.0"), "utf-8")
    elif damage == "a file is gone":
        broken.write_text(f"{whole}\ncard:\n  file: card.md\n", "utf-8")
    else:
        broken.rename(desk.tmp_path / "elsewhere.yaml")
        broken.symlink_to(desk.tmp_path / "elsewhere.yaml")
    assert start(desk) == {"1.0.0": State.ACTIVE}
    said = [r for r in caplog.records if "model-folder-damaged" in r.getMessage()]
    assert len(said) == 1
    broken.unlink()
    broken.write_text(whole, "utf-8")
    assert start(desk) == {"1.0.0": State.ACTIVE, "1.1.0": State.DRAFT}


def test_nobody_can_say_what_follows_from_numbers_of_a_damaged_version(desk: Desk) -> None:
    manifest = folder(desk, "1.1.0") / "manifest.yaml"
    start(desk)
    model = desk.service.version(LUNG, "1.1.0").identity
    assert desk.registry.derive(model, ()) is not None
    manifest.write_text("nonsense", "utf-8")
    assert desk.registry.derive(model, ()) is None


@dataclass
class DyingQueue:
    """Is away when it is needed."""

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str:
        raise UpstreamUnavailable("away")


def dying(desk: Desk) -> Any:
    """The service of a process that dies after the commit."""
    service = desk.service
    return type(service)(
        service.store, service.registry, DyingQueue(), service.settings, service.try_cases
    )


def test_a_change_whose_process_died_is_told_by_the_next_one_and_once(desk: Desk) -> None:
    start(desk)
    desk.tested("1.1.0")
    with pytest.raises(UpstreamUnavailable):
        dying(desk).activate(LUNG, "1.1.0", APP)
    assert desk.service.version(LUNG, "1.1.0").state is State.ACTIVE
    before = len(desk.queue.named(MODEL_CHANGED))
    assert tell(desk.store, desk.queue) == 1
    (payload,) = desk.queue.named(MODEL_CHANGED)[before:]
    assert payload["versions"] == [[LUNG, "1.0.0"], [LUNG, "1.1.0"]]
    (record,) = payload["records"]
    assert (record["client_id"], record["fhir_user"]) == ("console", "Practitioner/ann")
    assert (record["subject"], record["network_address"]) == ("sub-1", "192.0.2.7")
    assert (record["personas"], record["http_status"]) == (("administrator",), 200)
    assert tell(desk.store, desk.queue) == 0
    assert [event.untold for event in desk.service.history()] == [None] * 5


def test_told_twice_it_is_one_chore(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    start(desk)
    with monkeypatch.context() as patch:
        patch.setattr(type(desk.store), "mark_told", lambda *_: None)
        desk.service.retire(LUNG, "1.0.0", OPERATOR)
    count = len(desk.queue.chores)
    assert tell(desk.store, desk.queue) == 1
    assert len(desk.queue.chores) == count


def test_a_recall_whose_process_died_goes_on(desk: Desk) -> None:
    start(desk)
    with pytest.raises(UpstreamUnavailable):
        dying(desk).recall(LUNG, "1.0.0", "wrong side", APP)
    assert desk.service.version(LUNG, "1.0.0").state is State.RECALLED
    assert start(desk) == {"1.0.0": State.RECALLED}
    (asked,) = desk.queue.named(RECALL)
    assert (asked["reason"], asked["who"]) == ("wrong side", "sub-1")


def test_each_command_tells_what_an_earlier_one_left(desk: Desk) -> None:
    start(desk)
    with pytest.raises(UpstreamUnavailable):
        dying(desk).retire(LUNG, "1.0.0", APP)
    queue: NotedQueue = desk.queue
    before = len(queue.named(MODEL_CHANGED))
    desk.tested("1.1.0")
    told = [payload["records"][0]["operation"] for payload in queue.named(MODEL_CHANGED)[before:]]
    assert told == ["model-retire", "model-install", "model-test"]
