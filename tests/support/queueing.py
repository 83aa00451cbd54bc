"""A real queue on SQLite with a worker's chores running in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from fhir_ext.errors import NotFoundError
from fhir_ext.settings import Settings
from fhir_ext.telemetry import Metrics
from subscriptions.chores import Chores, Handler
from subscriptions.queue import WorkQueue, migrate_queue
from subscriptions.worker import running_queue

Json = dict[str, Any]


class NoStudies:
    """Stands in for the study workflow where a test has chores only."""

    def register(self) -> None:
        """Nothing to make known."""


class Tasks:
    """The Tasks of a FHIR server, in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, Json] = {}
        self.asked = 0

    def put(self, resource: Json) -> Json:
        self.stored[resource["id"]] = resource
        return resource

    def find(self, _resource_type: str, resource_id: str) -> Json | None:
        self.asked += 1
        return self.stored.get(resource_id)

    def read(self, resource_type: str, resource_id: str) -> Json:
        found = self.find(resource_type, resource_id)
        if found is None:
            raise NotFoundError("no such resource")
        return found


def settings_of(folder: Path) -> Settings:
    return Settings(
        database={"url": f"sqlite:///{folder / 'test.sqlite'}"},
        intake={
            "hook_secret": "a-secret-of-sixteen-characters",
            "upstream_retry": timedelta(seconds=0.05),
            "upstream_give_up": timedelta(seconds=0.3),
        },
        worker={"executor_id": "local"},
    )


def migrated(folder: Path) -> Settings:
    settings = settings_of(folder)
    migrate_queue(settings.database.url)
    return settings


@contextmanager
def running(
    settings: Settings, handlers: Mapping[str, Handler], park: Callable[..., object]
) -> Iterator[None]:
    queue = WorkQueue(settings.database.url)
    chores = Chores(handlers, queue.park_chore, park, settings.intake, Metrics())
    studies: Any = NoStudies()
    try:
        with running_queue(settings, studies, chores):
            yield
    finally:
        queue.close()


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
