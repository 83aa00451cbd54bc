"""What a worker does about model versions: it starts whatever is broken, and tells HAPI."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_samples import LUNG, OPERATOR, Desk, lung_folder

from fhir_ext.errors import ConflictError, ParkedWork
from fhir_ext.store.tables import ModelVersion
from models.lifecycle import State
from models.runtime.host import Host
from operations.model_registry.actor import MODEL_CHANGED
from operations.model_registry.service import TEST
from operations.model_registry.states import seed
from subscriptions.models import RunCases, TellChange, WorkerModels

Json = dict[str, Any]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    seed(made.store, made.registry, made.queue)
    yield made
    made.close()


def worker_of(desk: Desk) -> WorkerModels:
    return WorkerModels(Host(), desk.registry, desk.service, desk.repository)


def test_versions_at_work_are_prepared(desk: Desk) -> None:
    worker = worker_of(desk)
    worker.prepare()
    at_work = {s.service for s in worker.states() if s.state is State.ACTIVE}
    assert LUNG in at_work


def test_a_broken_version_of_the_site_stops_no_worker(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.service.shadow(LUNG, desk.tested("1.1.0"), OPERATOR)
    manifest = desk.settings.folder / LUNG / "1.1.0" / "manifest.yaml"
    manifest.write_text("nonsense", "utf-8")
    caplog.set_level(logging.INFO)
    worker_of(desk).prepare()
    manifest.unlink()
    worker_of(desk).prepare()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("model-not-loaded" in line for line in lines) == 2


def test_two_active_versions_stop_no_worker_but_every_plan(desk: Desk) -> None:
    desk.tested("1.1.0")
    with desk.store.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX model_version_one_active")
        connection.exec_driver_sql("UPDATE model_version SET state = 'active'")
    worker = worker_of(desk)
    worker.prepare()
    with pytest.raises(ParkedWork) as caught:
        worker.states()
    assert caught.value.code == "two-versions-active"


def test_a_requested_test_is_run_once_and_says_whose_it_is(desk: Desk) -> None:
    desk.service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    asked = desk.service.request_test(LUNG, "1.1.0", OPERATOR)
    (payload,) = desk.queue.named(TEST)
    RunCases(desk.service)(dict(payload))
    row = desk.service.version(LUNG, "1.1.0")
    assert row.test_report is not None
    assert row.test_report["request"] == asked
    assert desk.service.history(LUNG, "1.1.0")[0].who == "ann"


class Hapi:
    """Keeps transactions, and finds nothing."""

    def __init__(self) -> None:
        self.sent: list[Json] = []

    def find(self, kind: str, resource_id: str) -> None:
        return None

    def transaction_once(self, bundle: Json, **_: Any) -> None:
        self.sent.append(bundle)


@pytest.mark.parametrize("gone", [False, True])
def test_a_change_is_told_even_if_the_files_are_gone(desk: Desk, gone: bool) -> None:
    desk.service.shadow(LUNG, desk.tested("1.1.0"), OPERATOR)
    if gone:
        (desk.settings.folder / LUNG / "1.1.0" / "manifest.yaml").unlink()
    payload = dict(desk.queue.named(MODEL_CHANGED)[-1])
    audited: list[Json] = []
    hapi: Any = Hapi()
    TellChange(hapi, desk.service, desk.registry, audited.append)(payload)
    assert audited == [{"records": payload["records"]}]
    assert len(hapi.sent) == (0 if gone else 1)
    if not gone:
        kinds = {entry["resource"]["resourceType"] for entry in hapi.sent[0]["entry"]}
        assert kinds == {"Device", "DocumentReference"}


def test_a_conflict_of_the_rows_is_no_lost_file(desk: Desk) -> None:
    """Installed by two at once: both are told of the same version."""
    folder = lung_folder(desk.tmp_path, "1.1.0")
    first = desk.service.install(folder, OPERATOR)
    row = desk.store.version(LUNG, "1.1.0")
    assert row is not None
    with pytest.raises(ConflictError):
        desk.store.add(ModelVersion(**row.model_dump()), _cause())
    assert desk.service.install(folder, OPERATOR) == first


def _cause() -> Any:
    from fhir_ext.store.models import Cause

    return Cause("install", "ann", "cli")
