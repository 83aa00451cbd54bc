"""Audit entries and other chores on a real queue: neither kind delays the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from dbos import DBOSClient, DBOSPortableJSONSerializer
from queueing import migrated, running, wait_for

from fhir_ext.settings import Settings
from fhir_ext.store.engine import create_store_engine, queue_url
from subscriptions.chores import Handler
from subscriptions.queue import APPLICATION, AUDIT, CHORE_QUEUE, WorkQueue, chore_options

Json = dict[str, Any]

#: Many times what a worker does at once.
FLOOD = 30


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    return migrated(tmp_path_factory.mktemp("queue"))


@pytest.fixture(scope="module")
def handlers(settings) -> Iterator[dict[str, Handler]]:
    """What the running worker can do."""
    known: dict[str, Handler] = {}
    with running(settings, known, print):
        yield known


@pytest.fixture
def queue(settings) -> Iterator[WorkQueue]:
    opened = WorkQueue(settings.database.url)
    yield opened
    opened.close()


@pytest.mark.parametrize(("flood", "other"), [(AUDIT, "rescore"), ("rescore", AUDIT)])
def test_a_flood_of_one_kind_does_not_delay_the_other(
    settings, handlers, queue, flood, other
) -> None:
    release, done = threading.Event(), threading.Event()
    lock, now, most = threading.Lock(), 0, 0

    def hold(_payload: Json) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        release.wait(20)
        with lock:
            now -= 1

    handlers[flood], handlers[other] = hold, lambda _payload: done.set()
    try:
        for number in range(FLOOD):
            queue.enqueue_chore(flood, f"flood-of-{flood}/{number}", {})
        wait_for(lambda: now == settings.worker.chores)
        queue.enqueue_chore(other, f"beside-{flood}", {})
        assert done.wait(10), "waits behind the flood"
        assert not release.is_set()
        assert len(queue.waiting_chores()) >= FLOOD - settings.worker.chores
    finally:
        release.set()
    wait_for(lambda: not queue.waiting_chores())
    assert most == settings.worker.chores


def test_audit_entries_in_the_queue_of_chores_are_worked_off(settings, handlers, queue) -> None:
    """An installation that was running had them there; new tries go to the new queue."""
    seen: list[Json] = []
    handlers[AUDIT] = seen.append
    engine = create_store_engine(queue_url(settings.database.url))
    client = DBOSClient(
        system_database_engine=engine,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
    )
    options = chore_options(AUDIT, "of-before")
    options["queue_name"] = CHORE_QUEUE
    client.enqueue(options, AUDIT, "of-before", {"records": []})
    wait_for(lambda: seen == [{"records": []}])
    # The journal gives the same part again when it died in between.
    queue.enqueue_chore(AUDIT, "of-before", {"records": []})
    wait_for(lambda: not queue.waiting_chores())
    assert seen == [{"records": []}]
    client.destroy()
    engine.dispose()
