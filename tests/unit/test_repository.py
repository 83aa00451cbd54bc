"""Our tables on SQLite: leases, quiet timers, cursors. Postgres runs the same in contract."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fhir_ext.errors import SettingsError
from fhir_ext.store.engine import create_store_engine, migrate, queue_url
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.tables import ServiceOutcome

MINUTE = timedelta(minutes=1)


@pytest.fixture
def repository(tmp_path):
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    yield Repository(engine)
    engine.dispose()


def test_migrating_twice_changes_nothing(repository) -> None:
    repository.set_cursor("a", "1")
    migrate(repository.engine)
    assert repository.cursor("a") == "1"


def test_sqlite_is_in_wal_mode_and_syncs_fully(repository) -> None:
    with repository.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_lease_has_one_holder_until_it_expires(repository) -> None:
    assert repository.acquire_lease("leader", "a", MINUTE)
    assert not repository.acquire_lease("leader", "b", MINUTE)
    assert repository.acquire_lease("leader", "a", -MINUTE), "the holder may renew"
    assert [lease.name for lease in repository.expired_leases("lead")] == ["leader"]
    assert repository.acquire_lease("leader", "b", MINUTE)
    repository.release_lease("leader", "a")
    assert not repository.acquire_lease("leader", "a", MINUTE), "only the holder releases"


def test_a_study_that_grows_restarts_its_quiet_timer(repository) -> None:
    repository.mark_study_changed("1.2.3")
    (first,) = repository.archive_studies("settling")
    repository.mark_study_changed("1.2.3")
    # What was looked at before the growth must not settle the study.
    assert not repository.settle_archive_study("1.2.3", first.changed_at, state="bridged")
    (second,) = repository.archive_studies("settling")
    assert second.changed_at > first.changed_at
    assert repository.settle_archive_study("1.2.3", second.changed_at, state="bridged", instances=7)
    repository.mark_study_changed("1.2.3")
    assert repository.archive_study("1.2.3").instances == 7


def test_instants_come_back_in_utc(repository) -> None:
    repository.mark_study_changed("1.2.3")
    changed = repository.archive_study("1.2.3").changed_at
    assert changed.utcoffset() == timedelta(0)
    assert abs(now() - changed) < MINUTE


def test_a_run_keeps_its_first_queueing(repository) -> None:
    early = now() - MINUTE
    repository.record_run("w", "study", "1", queued_at=early)
    repository.record_run("w", "study", "1", state="done", step_seconds={"prepare": 0.1})
    run = repository.run("w")
    assert run.queued_at == early
    assert (run.state, run.step_seconds) == ("done", {"prepare": 0.1})
    assert repository.count_runs() == {"done": 1}


def test_outcomes_are_one_per_series_and_service(repository) -> None:
    def outcome(status: str) -> ServiceOutcome:
        return ServiceOutcome(
            imaging_study_id="i",
            series_instance_uid="1.2",
            service="s",
            study_instance_uid="1",
            workflow_id="w",
            status=status,
            reasons=[],
            updated_at=now(),
        )

    repository.record_outcome(outcome("refused"))
    repository.record_outcome(outcome("done"))
    assert [row.status for row in repository.outcomes("1")] == ["done"]
    assert repository.outcomes("2") == []


def test_urls() -> None:
    assert queue_url("sqlite:////data/x.sqlite") == "sqlite:////data/x-queue.sqlite"
    assert queue_url("postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"
    with pytest.raises(SettingsError):
        create_store_engine("mysql://h/d")
