"""Versions go from state to state: one active, one canary, tested first, every step noted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry_samples import LUNG, OPERATOR, Desk, lung_folder

from fhir_ext.errors import ConflictError, ForbiddenError, ParkedWork, UnprocessableError
from fhir_ext.resources.ids import device_id
from fhir_ext.store.models import Cause, Move
from models.lifecycle import State
from models.registry import NotInstalledError
from operations.model_registry.actor import MODEL_CHANGED, Actor
from operations.model_registry.recall import RECALL
from operations.model_registry.rights import Action
from operations.model_registry.states import seed, states


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    seed(made.store, made.registry, made.queue)
    yield made
    made.close()


def state_of(desk: Desk, version: str) -> State:
    return desk.service.version(LUNG, version).state


def refused(call, *args, **kwargs) -> str:
    with pytest.raises(ConflictError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def test_a_version_goes_all_the_way(desk: Desk) -> None:
    service = desk.service
    service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    assert state_of(desk, "1.1.0") is State.DRAFT
    assert service.test(LUNG, "1.1.0", OPERATOR).test_passed
    assert service.shadow(LUNG, "1.1.0", OPERATOR).state is State.SHADOW
    assert service.canary(LUNG, "1.1.0", 0.1, OPERATOR).share == 0.1
    assert service.canary(LUNG, "1.1.0", 0.5, OPERATOR).share == 0.5
    row = service.activate(LUNG, "1.1.0", OPERATOR)
    assert (row.state, row.share) == (State.ACTIVE, 0.0)
    assert state_of(desk, "1.0.0") is State.RETIRED
    assert service.rollback(LUNG, OPERATOR).version == "1.0.0"
    assert state_of(desk, "1.1.0") is State.RETIRED
    assert service.recall(LUNG, "1.1.0", "wrong side", OPERATOR).state is State.RECALLED


def test_the_planner_sees_the_states(desk: Desk) -> None:
    desk.service.canary(LUNG, desk.tested("1.1.0"), 0.25, OPERATOR)
    found = {(s.version, s.state, s.share) for s in states(desk.repository) if s.service == LUNG}
    assert found == {("1.0.0", State.ACTIVE, 0.0), ("1.1.0", State.CANARY, 0.25)}


def test_activation_needs_cases_that_were_run_and_hold(desk: Desk) -> None:
    service = desk.service
    service.install(lung_folder(desk.tmp_path, "1.1.0", cases=[]), OPERATOR)
    assert refused(service.activate, LUNG, "1.1.0", OPERATOR) == "model-without-cases"
    assert refused(service.canary, LUNG, "1.1.0", 0.1, OPERATOR) == "model-without-cases"
    assert refused(service.test, LUNG, "1.1.0", OPERATOR) == "model-without-cases"
    assert service.shadow(LUNG, "1.1.0", OPERATOR).state is State.SHADOW

    service.install(lung_folder(desk.tmp_path, "1.2.0"), OPERATOR)
    for call in (service.shadow, service.activate):
        assert refused(call, LUNG, "1.2.0", OPERATOR) == "model-not-tested"
    desk.passed = False
    assert desk.service.test(LUNG, "1.2.0", OPERATOR).test_passed is False
    for call in (desk.service.shadow, desk.service.activate):
        assert refused(call, LUNG, "1.2.0", OPERATOR) == "model-test-failed"
    assert state_of(desk, "1.0.0") is State.ACTIVE


def test_files_that_changed_since_are_refused(desk: Desk) -> None:
    version = desk.tested("1.1.0")
    manifest = desk.settings.folder / LUNG / version / "manifest.yaml"
    manifest.write_text(manifest.read_text("utf-8") + "# touched\n", "utf-8")
    assert refused(desk.service.activate, LUNG, version, OPERATOR) == "model-files-changed"
    # A test of the exchanged files does not make them those that were installed.
    desk.service.test(LUNG, version, OPERATOR)
    assert refused(desk.service.activate, LUNG, version, OPERATOR) == "model-files-changed"


def test_states_that_cannot_follow_are_refused(desk: Desk) -> None:
    assert refused(desk.service.shadow, LUNG, "1.0.0", OPERATOR) == "model-state"
    desk.service.recall(LUNG, desk.tested("1.1.0"), "wrong side", OPERATOR)
    for call in (desk.service.shadow, desk.service.activate, desk.service.retire):
        assert refused(call, LUNG, "1.1.0", OPERATOR) == "model-state"


def test_one_canary_at_a_time(desk: Desk) -> None:
    desk.service.canary(LUNG, desk.tested("1.1.0"), 0.1, OPERATOR)
    assert refused(desk.service.canary, LUNG, desk.tested("1.2.0"), 0.1, OPERATOR) == "model-state"


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_is_a_part(desk: Desk, share: float) -> None:
    with pytest.raises(UnprocessableError):
        desk.service.canary(LUNG, "1.0.0", share, OPERATOR)


def test_of_two_activations_at_once_one_wins(desk: Desk) -> None:
    versions = [desk.tested(f"1.{minor}.0") for minor in range(1, 6)]
    start = threading.Barrier(len(versions))

    def activate(version: str) -> str:
        service = desk.service
        start.wait()
        try:
            return service.activate(LUNG, version, OPERATOR).version
        except ConflictError as error:
            assert error.code == "model-changed"
            return ""

    with ThreadPoolExecutor(len(versions)) as pool:
        won = [version for version in pool.map(activate, versions) if version]
    rows = desk.service.versions(LUNG)
    active = [row.version for row in rows if row.state is State.ACTIVE]
    assert len(active) == 1
    # Who came late enough to see the winner replaced it; nobody replaced what had changed.
    assert active[0] in won
    moved = [e for e in desk.service.history(LUNG) if e.action == "activate"]
    assert [e.to_state for e in moved].count("active") == len(won)
    assert [e.to_state for e in moved].count("retired") == len(won)


def test_of_changes_that_saw_the_same_states_exactly_one_wins(desk: Desk) -> None:
    start = threading.Barrier(4)

    def change(version: str) -> bool:
        moves = [
            Move(LUNG, "1.0.0", State.ACTIVE, State.RETIRED),
            Move(LUNG, version, State.DRAFT, State.ACTIVE),
        ]
        start.wait()
        try:
            desk.store.move(moves, Cause("activate", "ann", "cli"))
        except ConflictError:
            return False
        return True

    versions = [desk.tested(f"1.{minor}.0") for minor in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(change, versions)) == 1
    rows = desk.service.versions(LUNG)
    assert sorted(row.state for row in rows) == ["active", "draft", "draft", "draft", "retired"]


def test_the_database_itself_refuses_two_active_versions(desk: Desk) -> None:
    version = desk.tested("1.1.0")
    with pytest.raises(Exception, match="UNIQUE"), desk.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE model_version SET state = 'active' WHERE version = ?", (version,)
        )


def test_two_active_versions_of_a_database_changed_by_hand_are_refused(desk: Desk) -> None:
    version = desk.tested("1.1.0")
    with desk.store.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX model_version_one_active")
        connection.exec_driver_sql(
            "UPDATE model_version SET state = 'active' WHERE version = ?", (version,)
        )
    with pytest.raises(ParkedWork) as caught:
        states(desk.repository)
    assert caught.value.code == "two-versions-active"
    assert LUNG in caught.value.message
    desk.service.retire(LUNG, version, OPERATOR)
    assert len(states(desk.repository)) == len(desk.service.versions())


def test_rollbacks_go_further_back(desk: Desk) -> None:
    for version in ("1.1.0", "1.2.0"):
        desk.service.activate(LUNG, desk.tested(version), OPERATOR)
    assert desk.service.rollback(LUNG, OPERATOR).version == "1.1.0"
    assert desk.service.rollback(LUNG, OPERATOR).version == "1.0.0"
    assert refused(desk.service.rollback, LUNG, OPERATOR) == "model-no-earlier"


def test_no_rollback_to_a_recalled_version(desk: Desk) -> None:
    desk.service.activate(LUNG, desk.tested("1.1.0"), OPERATOR)
    desk.service.recall(LUNG, "1.0.0", "wrong side", OPERATOR)
    assert refused(desk.service.rollback, LUNG, OPERATOR) == "model-no-earlier"
    assert state_of(desk, "1.1.0") is State.ACTIVE


def test_after_a_recall_the_version_before_comes_back(desk: Desk) -> None:
    desk.service.activate(LUNG, desk.tested("1.1.0"), OPERATOR)
    desk.service.recall(LUNG, "1.1.0", "wrong side", OPERATOR)
    assert desk.service.rollback(LUNG, OPERATOR).version == "1.0.0"


def test_what_was_retired_by_hand_is_not_brought_back(desk: Desk) -> None:
    desk.service.activate(LUNG, desk.tested("1.1.0"), OPERATOR)
    desk.service.retire(LUNG, "1.1.0", OPERATOR, "too many findings")
    assert desk.service.rollback(LUNG, OPERATOR).version == "1.0.0"
    assert state_of(desk, "1.1.0") is State.RETIRED


def test_a_rollback_checks_the_files(desk: Desk) -> None:
    for version in ("1.1.0", "1.2.0"):
        desk.service.activate(LUNG, desk.tested(version), OPERATOR)
    (desk.settings.folder / LUNG / "1.1.0" / "more.txt").write_text("x")
    assert refused(desk.service.rollback, LUNG, OPERATOR) == "model-files-changed"
    assert state_of(desk, "1.2.0") is State.ACTIVE


def test_a_recall_is_started_and_can_be_repeated(desk: Desk) -> None:
    for _ in range(2):
        row = desk.service.recall(LUNG, "1.0.0", " wrong side ", OPERATOR)
    first, again = desk.queue.named(RECALL)
    for payload in (first, again):
        assert "wrong side" in str(payload)
        assert row.settings_hash in str(payload)
    # Under a key of its own: the queue takes no known one a second time.
    assert (first["run"], bool(again["run"])) == ("", True)
    assert [e.action for e in desk.service.history(LUNG)].count("recall") == 1


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_recall_needs_a_reason(desk: Desk, reason: str) -> None:
    with pytest.raises(UnprocessableError) as caught:
        desk.service.recall(LUNG, "1.0.0", reason, OPERATOR)
    assert caught.value.code == "model-reason"
    assert state_of(desk, "1.0.0") is State.ACTIVE


def test_every_command_is_one_audit_with_its_devices(desk: Desk) -> None:
    desk.tested("1.1.0")
    before = len(desk.queue.named(MODEL_CHANGED))
    desk.service.activate(LUNG, "1.1.0", OPERATOR)
    (payload,) = desk.queue.named(MODEL_CHANGED)[before:]
    assert payload["versions"] == [[LUNG, "1.0.0"], [LUNG, "1.1.0"]]
    (record,) = payload["records"]
    devices = [device_id(desk.service.version(LUNG, v).identity) for v in ("1.0.0", "1.1.0")]
    assert list(record["resources"]) == [f"Device/{found}" for found in devices]
    assert (record["operation"], record["subject"]) == ("model-activate", "ann")
    (retired, active) = reversed(desk.service.history(LUNG)[:2])
    assert (retired.to_state, retired.reason) == ("retired", "1.1.0 takes its place")
    assert (active.from_state, active.to_state, active.who) == ("draft", "active", "ann")


def test_rights_are_asked_by_the_service(desk: Desk) -> None:
    version = desk.tested("1.1.0")
    engineer = Actor("eve", "rest", frozenset({Action.SHADOW, Action.TEST}))
    desk.service.shadow(LUNG, version, engineer)
    for call in (desk.service.activate, desk.service.retire):
        with pytest.raises(ForbiddenError):
            call(LUNG, version, engineer)
    # It would stop writing into records, which is not for those who may only try.
    desk.service.canary(LUNG, version, 0.1, OPERATOR)
    with pytest.raises(ForbiddenError):
        desk.service.shadow(LUNG, version, engineer)


def test_unknown_versions_are_not_found(desk: Desk) -> None:
    for call in (desk.service.activate, desk.service.shadow, desk.service.test):
        with pytest.raises(NotInstalledError):
            call(LUNG, "9.9.9", OPERATOR)
    with pytest.raises(NotInstalledError):
        desk.service.rollback("no-such-service", OPERATOR)
