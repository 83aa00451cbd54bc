"""Rows of model versions on a real Postgres: one active version, whoever is quicker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from registry_samples import NotedQueue
from sqlalchemy.exc import IntegrityError

from fhir_ext.embedded.postgres import PostgresServer
from fhir_ext.errors import ConflictError
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.models import CasesRun, Cause, ModelStore, Move
from fhir_ext.store.repository import now
from fhir_ext.store.tables import ModelVersion
from models.registry import Registry
from operations.model_registry.states import seed

CAUSE = Cause("activate", "ann", "cli")


@pytest.fixture(scope="module")
def store() -> Iterator[ModelStore]:
    with PostgresServer.temporary(print) as server:
        engine = create_store_engine(server.create_database("models"))
        migrate(engine)
        yield ModelStore(engine)
        engine.dispose()


def add(store: ModelStore, service: str, *versions: str) -> None:
    for version in versions:
        row = ModelVersion(
            service=service,
            version=version,
            settings_hash="0" * 64,
            title="A model",
            state="active" if version == "1.0.0" else "draft",
            folder="somewhere",
            digest="1" * 64,
            installed_at=now(),
            changed_at=now(),
        )
        store.add(row, Cause("install", "ann", "cli"))


def states(store: ModelStore, service: str) -> list[str]:
    return sorted(state for name, _, state, _ in store.states() if name == service)


def test_of_changes_that_saw_the_same_states_exactly_one_wins(store: ModelStore) -> None:
    versions = [f"1.{minor}.0" for minor in range(1, 7)]
    add(store, "raced", "1.0.0", *versions)
    start = threading.Barrier(len(versions))

    def change(version: str) -> bool:
        moves = [
            Move("raced", "1.0.0", "active", "retired"),
            Move("raced", version, "draft", "active"),
        ]
        start.wait()
        try:
            store.move(moves, CAUSE)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(len(versions)) as pool:
        assert sum(pool.map(change, versions)) == 1
    assert states(store, "raced") == ["active", *["draft"] * 5, "retired"]
    assert len([event for event in store.events("raced") if event.action == "activate"]) == 2


def test_the_indexes_hold_without_our_code(store: ModelStore) -> None:
    add(store, "edited", "1.0.0", "1.1.0")
    change = "UPDATE model_version SET state = '{}' WHERE service = 'edited' AND version = '1.1.0'"
    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        connection.exec_driver_sql(change.format("active"))
    with store.engine.begin() as connection:
        connection.exec_driver_sql(change.format("canary"))
    assert states(store, "edited") == ["active", "canary"]
    add(store, "edited", "1.2.0")
    with pytest.raises(ConflictError):
        store.move([Move("edited", "1.2.0", "draft", "canary", 0.1)], CAUSE)


def test_all_moves_or_none(store: ModelStore) -> None:
    add(store, "whole", "1.0.0", "1.1.0")
    moves = [
        Move("whole", "1.0.0", "active", "retired"),
        Move("whole", "1.1.0", "shadow", "active"),
    ]
    with pytest.raises(ConflictError):
        store.move(moves, CAUSE)
    assert states(store, "whole") == ["active", "draft"]
    assert not [event for event in store.events("whole") if event.action == "activate"]


def test_a_test_is_kept(store: ModelStore) -> None:
    add(store, "tested", "1.0.0")
    report = {"cases": [{"name": "one", "passed": True}]}
    store.record_test("tested", "1.0.0", CasesRun(True, "2" * 64, "0.1.0", report), CAUSE)
    row = store.version("tested", "1.0.0")
    assert row is not None
    assert (row.test_passed, row.tested_digest, row.test_report) == (True, "2" * 64, report)
    assert row.tested_at is not None
    assert row.tested_at.tzinfo is not None


def test_what_is_untold_is_told_once(store: ModelStore) -> None:
    add(store, "told", "1.0.0")
    cause = Cause("retire", "ann", "rest", caller={"client_id": "console", "personas": []})
    store.move([Move("told", "1.0.0", "active", "retired")], cause)
    left = [event for event in store.untold() if event.service == "told"]
    assert [(event.action, event.untold) for event in left] == [
        ("install", {}),
        ("retire", cause.caller),
    ]
    store.mark_told(left)
    assert [event for event in store.untold() if event.service == "told"] == []
    assert [event.untold for event in store.events("told")] == [None, None]


def test_what_is_shipped_is_seeded_by_several_workers_at_once(store: ModelStore) -> None:
    registry, queue = Registry(), NotedQueue()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: seed(store, registry, queue), range(3)))
    names = [installed.manifest.id for installed in registry.shipped()]
    seeded = [event.service for event in store.events() if event.action == "seed"]
    assert sorted(seeded) == sorted(names)
