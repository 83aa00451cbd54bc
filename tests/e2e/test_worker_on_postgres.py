"""The same worker with its database on Postgres: one study, start to end."""

from __future__ import annotations

import sys

import pytest

from fhir_ext.embedded.postgres import PostgresServer
from fhir_ext.embedded.process import ChildProcess, free_port
from fhir_ext.resources.ids import imaging_study_id
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from subscriptions.queue import WorkQueue, migrate_queue, new_message


@pytest.fixture
def url():
    with PostgresServer.temporary(print) as server:
        url = server.create_database("fhir_ext")
        engine = create_store_engine(url)
        migrate(engine)
        engine.dispose()
        migrate_queue(url)
        yield url


def test_a_study_is_worked_on(installation, small_study, url) -> None:
    tree = installation.tree
    (series,) = small_study(installation.patient())
    repository = Repository(create_store_engine(url))
    queue = WorkQueue(url)
    tree.hold("worker")
    worker = ChildProcess(
        "worker",
        [sys.executable, "-m", "fhir_ext", "worker"],
        tree.directory / "logs" / "worker-postgres.log",
        environment={
            **tree.environment,
            "FHIR_EXT_DATABASE__URL": url,
            "FHIR_EXT_WORKER__EXECUTOR_ID": "on-postgres",
            "FHIR_EXT_TELEMETRY__WORKER_METRICS_PORT": str(free_port()),
        },
    )
    try:
        uid = installation.store(series)
        study_id = imaging_study_id(uid)
        installation.wait_for(
            lambda: installation.fhir.find("ImagingStudy", study_id), "the bridge on Postgres"
        )
        # The hook went into the SQLite queue of the tree; this one is for Postgres.
        workflow_id = queue.enqueue(new_message(study_id, "1"))
        installation.wait_for(
            lambda: (run := repository.run(workflow_id)) and run.state == "done", "the run"
        )
    finally:
        worker.stop()
        queue.close()
        repository.engine.dispose()
        tree.release("worker")
    results = installation.results(uid)
    assert len(results["Provenance"]) == 1
    # The tree's own worker finds its notice and sees that the work is done.
    run = installation.wait_for(
        lambda: next((r for r in installation.runs(uid) if r.finished_at), None), "the other run"
    )
    assert (run.state, run.reason) == ("nothing-to-do", "already-written")
