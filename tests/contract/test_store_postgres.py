"""Our tables and the queue on a real Postgres: the same as on SQLite."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fhir_ext.embedded.postgres import PostgresServer
from fhir_ext.errors import SettingsError
from fhir_ext.settings import IntakeSettings, Settings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository, now
from subscriptions.queue import WorkQueue, migrate_queue, new_message
from subscriptions.worker import executor_id

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def url():
    with PostgresServer.temporary(print) as server:
        yield server.create_database("fhir_ext")


@pytest.fixture(scope="module")
def repository(url):
    engine = create_store_engine(url)
    migrate(engine)
    migrate(engine)
    yield Repository(engine)
    engine.dispose()


def test_leases_cursors_and_rows(repository) -> None:
    assert repository.acquire_lease("leader", "a", MINUTE)
    assert not repository.acquire_lease("leader", "b", MINUTE)
    repository.set_cursor("x", "1")
    repository.set_cursor("x", "2")
    assert repository.cursor("x") == "2"
    repository.mark_study_changed("1.2.3")
    (study,) = repository.archive_studies("settling")
    assert abs(now() - study.changed_at) < MINUTE
    assert repository.settle_archive_study("1.2.3", study.changed_at, state="bridged")
    repository.record_run("w", "s", "1", state="done", step_seconds={"prepare": 0.1})
    assert repository.run("w").step_seconds == {"prepare": 0.1}


def test_queue_keeps_one_entry_per_event(url) -> None:
    migrate_queue(url)
    migrate_queue(url)
    queue = WorkQueue(url)
    try:
        for _ in range(3):
            queue.enqueue(new_message("study", "1"))
        queue.enqueue(new_message("study", "2"), delay=MINUTE)
        assert sorted(item.status for item in queue.waiting()) == ["DELAYED", "ENQUEUED"]
    finally:
        queue.close()


def test_a_worker_on_postgres_needs_an_id_of_its_own(url) -> None:
    intake = IntakeSettings(hook_secret="x" * 20)
    settings = Settings(database={"url": url}, intake=intake)
    with pytest.raises(SettingsError, match="executor_id"):
        executor_id(settings)
