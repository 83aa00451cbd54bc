"""Chores on a real queue: tried again, parked, given up, retried, kept until dealt with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import queueing
from dbos import DBOS
from queueing import Tasks, migrated, running, wait_for
from typer.testing import CliRunner

from fhir_ext.cli import app
from fhir_ext.cli.parts import Parts
from fhir_ext.errors import ParkedWork, UpstreamUnavailable
from fhir_ext.resources.ids import parked_chore_id
from fhir_ext.resources.task import parked_chore_task
from fhir_ext.settings import Settings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from subscriptions import leader
from subscriptions.chores import Handler
from subscriptions.health import chore_state
from subscriptions.leader import delete_finished, delete_written_audit, park_crashed_chores
from subscriptions.queue import WorkQueue

Json = dict[str, Any]


@pytest.fixture
def settings(tmp_path) -> Settings:
    return migrated(tmp_path)


@pytest.fixture
def queue(settings) -> Iterator[WorkQueue]:
    opened = WorkQueue(settings.database.url)
    yield opened
    opened.close()


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def park(tasks):
    return lambda *what: tasks.put(parked_chore_task(*what))


@pytest.fixture
def command(settings, tasks, monkeypatch):
    """Runs `fhir-ext retry-chore` on the test's queue and Tasks."""
    monkeypatch.setattr("fhir_ext.cli.work.load_settings", lambda: settings)
    monkeypatch.setattr(Parts, "fhir", tasks)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, ["retry-chore", *arguments])


def _refuse(_payload: Json) -> None:
    raise ParkedWork("cannot be done", code="fhir-refused")


def _bug(_payload: Json) -> None:
    raise KeyError("MRN-4711")


def _down(_payload: Json) -> None:
    raise UpstreamUnavailable("down")


class TestOneWorker:
    """Tests that share a running worker, since it takes seconds to start and stop."""

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, tmp_path_factory) -> Settings:
        return migrated(tmp_path_factory.mktemp("queue"))

    @pytest.fixture(scope="class")
    @classmethod
    def tasks(cls) -> Tasks:
        return Tasks()

    @pytest.fixture(scope="class")
    @classmethod
    def handlers(cls, settings, tasks) -> Iterator[dict[str, Handler]]:
        """What the worker can do; a test adds its own chore, under its own name."""
        known: dict[str, Handler] = {}
        with running(settings, known, lambda *what: tasks.put(parked_chore_task(*what))):
            yield known

    def test_a_chore_is_done_once(self, queue, handlers) -> None:
        seen: list[Json] = []
        handlers["add"] = seen.append
        queue.enqueue_chore("add", "one", {"value": 1})
        queue.enqueue_chore("add", "one", {"value": 1})
        queue.enqueue_chore("add", "two", {"value": 2})
        wait_for(lambda: len(seen) == 2 and not queue.waiting_chores())
        assert sorted(item["value"] for item in seen) == [1, 2]
        assert queue.parked_chores() == []

    def test_it_is_tried_again_while_a_server_is_down(self, queue, handlers, tasks) -> None:
        tries = []

        def fails_twice(payload: Json) -> None:
            tries.append(payload)
            if len(tries) < 3:
                raise UpstreamUnavailable("down")

        handlers["flaky"] = fails_twice
        queue.enqueue_chore("flaky", "k", {"a": [1]})
        wait_for(lambda: len(tries) == 3 and not queue.waiting_chores())
        assert tries == [{"a": [1]}] * 3
        assert parked_chore_id("flaky", "k") not in tasks.stored

    def test_those_that_wait_for_a_server_hold_up_nobody(self, queue, handlers) -> None:
        back, done = threading.Event(), []

        def away(payload: Json) -> None:
            if not back.is_set():
                raise UpstreamUnavailable("down")

        handlers["away"], handlers["here"] = away, done.append
        for number in range(5):
            queue.enqueue_chore("away", str(number), {})
        queue.enqueue_chore("here", "k", {"a": 1})
        wait_for(lambda: done)
        back.set()
        wait_for(lambda: not queue.waiting_chores())

    @pytest.mark.parametrize(
        ("handler", "code"),
        [(_refuse, "fhir-refused"), (_bug, "internal"), (_down, "upstream-unavailable")],
    )
    def test_what_cannot_be_done_becomes_a_task(
        self, queue, handlers, tasks, handler, code
    ) -> None:
        name = handler.__name__.strip("_")
        handlers[name] = handler
        begin = datetime.now(UTC) - timedelta(seconds=1)
        queue.enqueue_chore(name, "a/b", {"value": 7})
        task_id = parked_chore_id(name, "a/b")
        wait_for(lambda: task_id in tasks.stored)
        (parked,) = [item for item in queue.parked_chores() if item.name == name]
        assert (parked.key, parked.payload, parked.code) == ("a/b", {"value": 7}, code)
        assert begin <= parked.since <= datetime.now(UTC) + timedelta(seconds=1)
        task = tasks.stored[task_id]
        assert task["reasonCode"]["text"] == code
        assert task["input"][0]["valueString"] == f"fhir-ext retry-chore {name}/a/b"
        assert "4711" not in str(task)

    def test_a_retry_does_the_same_again_and_closes_the_task(
        self, queue, handlers, tasks, command
    ) -> None:
        seen: list[Json] = []
        broken = True

        def work(payload: Json) -> None:
            if broken:
                raise ParkedWork("cannot be done", code="parked")
            seen.append(payload)

        def parked() -> list[str]:
            return [item.key for item in queue.parked_chores() if item.name == "work"]

        def status(key: str) -> str:
            return str(tasks.stored.get(parked_chore_id("work", key), {}).get("status"))

        handlers["work"] = work
        queue.enqueue_chore("work", "k", {"value": 7})
        wait_for(lambda: status("k") == "requested")
        assert "work/k" in command("--list").stdout
        assert command("work/k").stdout.strip() == "queued as work/k~2"
        wait_for(lambda: status("k~2") == "requested")
        assert parked() == ["k~2"]
        assert status("k") == "completed"
        broken = False
        assert command("work").stdout.strip() == "queued as work/k~3"
        wait_for(lambda: seen)
        assert seen == [{"value": 7}]
        assert parked() == []
        assert status("k~2") == "completed"
        assert command("work/k").exit_code != 0


def test_depth_and_age_of_what_waits(settings, queue) -> None:
    assert chore_state(queue).depth == 0
    queue.enqueue_chore("work", "a", {})
    queue.enqueue_chore("work", "b", {})
    state = chore_state(queue)
    assert state.depth == 2
    assert state.oldest_seconds is not None
    assert 0 <= state.oldest_seconds < 20


def test_nothing_is_parked_at_first(command) -> None:
    assert "no chore is parked" in command("--list").stdout
    assert command("work/k").exit_code != 0
    assert command().exit_code != 0


CRASHING = """
import os, signal, sys
from pathlib import Path
from queueing import running, settings_of, wait_for

settings = settings_of(Path(sys.argv[1]))
with running(settings, {"work": lambda payload: os.kill(os.getpid(), signal.SIGKILL)}, print):
    wait_for(lambda: False, 20)
"""


def _crash(settings: Settings, folder) -> None:
    support = str(Path(queueing.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(folder)],
        env={**os.environ, "PYTHONPATH": support},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_chore_that_kills_its_workers_is_parked(
    settings, queue, park, tasks, tmp_path, command
) -> None:
    queue.enqueue_chore("work", "k", {"value": 7})
    for _ in range(4):
        _crash(settings, tmp_path)
    seen: list[Json] = []
    with running(settings, {"work": seen.append}, park):
        wait_for(lambda: park_crashed_chores(tasks, queue) == 1)
        (task,) = tasks.stored.values()
        assert task["reasonCode"]["coding"][0]["code"] == "worker-crashed"
        assert [item.code for item in queue.parked_chores()] == ["worker-crashed"]
        assert park_crashed_chores(tasks, queue) == 0
        assert not seen
        assert command("work/k").stdout.strip() == "queued as work/k~2"
        wait_for(lambda: seen == [{"value": 7}])
        assert park_crashed_chores(tasks, queue) == 0


def test_what_waits_for_a_human_is_never_forgotten(settings, queue, park, monkeypatch) -> None:
    engine = create_store_engine(settings.database.url)
    migrate(engine)
    handlers = {"audit": lambda _payload: None, "other": lambda _payload: None, "bad": _refuse}
    # Several rounds.
    monkeypatch.setattr(leader, "RETENTION_BATCH", 2)
    with running(settings, handlers, park):
        for number in range(5):
            queue.enqueue_chore("audit", str(number), {})
            queue.enqueue_chore("other", str(number), {})
            if number < 3:
                queue.enqueue_chore("bad", str(number), {})
        wait_for(lambda: len(queue.parked_chores()) == 3 and not queue.waiting_chores())
        assert delete_written_audit() == 0
        monkeypatch.setattr(leader, "AUDIT_RETENTION", -timedelta(seconds=1))
        assert delete_written_audit() == 5
        assert delete_finished(Repository(engine), -timedelta(seconds=1)) == 8
        left = DBOS.list_workflows(load_input=False, load_output=False)
        assert len(left) == 3
    assert {item.workflow_id for item in queue.parked_chores()} == {"bad/0", "bad/1", "bad/2"}
    engine.dispose()
