"""Hooks, sweep and Subscription upkeep, without servers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fhir_ext.outcome import BodyLimit, install_error_handlers
from fhir_ext.settings import IntakeSettings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from subscriptions.intake.routes import SECRET_HEADER, hook_router
from subscriptions.intake.subscription import (
    SUBSCRIPTION_ID,
    check_subscription,
    ensure_subscription,
    wanted_subscription,
)
from subscriptions.intake.sweep import CURSOR, sweep
from subscriptions.queue import StudyMessage

SECRET = "a-secret-of-sixteen-or-more"


class FakeQueue:
    """Remembers what was enqueued; the same id twice is one entry, as in the real queue."""

    def __init__(self) -> None:
        self.messages: dict[str, StudyMessage] = {}

    def enqueue(self, message: StudyMessage, delay: timedelta | None = None) -> str:
        self.messages.setdefault(message.workflow_id, message)
        return message.workflow_id


class FakeFhir:
    """Resources by type and id, and canned search pages."""

    def __init__(self, pages: list[dict] | None = None) -> None:
        self.stored: dict[tuple[str, str], dict] = {}
        self.result_pages = pages or []
        self.asked: list[dict] = []

    def find(self, kind: str, resource_id: str) -> dict | None:
        return self.stored.get((kind, resource_id))

    def put(self, resource: dict) -> dict:
        self.stored[(resource["resourceType"], resource["id"])] = resource
        return resource

    def pages(self, kind: str, params: dict):
        self.asked.append(params)
        yield from self.result_pages


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def client(queue: FakeQueue) -> TestClient:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=2_000_000)
    app.include_router(hook_router(queue, SECRET))
    return TestClient(app)


def _notify(client: TestClient, **kwargs):
    headers = {SECRET_HEADER: SECRET, "If-Match": 'W/"3"', **kwargs.pop("headers", {})}
    path = kwargs.pop("path", "/hooks/ImagingStudy/abc")
    return client.put(path, headers=headers, **{"content": b"{}", **kwargs})


def test_a_notice_is_enqueued_before_204(client: TestClient, queue: FakeQueue) -> None:
    response = _notify(client)
    assert (response.status_code, response.content) == (204, b"")
    assert list(queue.messages) == ["ImagingStudy/abc/3"]


def test_duplicates_fall_together(client: TestClient, queue: FakeQueue) -> None:
    for _ in range(3):
        assert _notify(client).status_code == 204
    assert len(queue.messages) == 1


def test_version_may_stand_in_the_payload_only(client: TestClient, queue: FakeQueue) -> None:
    body = b'{"resourceType":"ImagingStudy","meta":{"versionId":"7"}}'
    assert _notify(client, headers={"If-Match": ""}, content=body).status_code == 204
    assert list(queue.messages) == ["ImagingStudy/abc/7"]


@pytest.mark.parametrize(
    ("kwargs", "status", "code"),
    [
        ({"headers": {SECRET_HEADER: "wrong"}}, 403, "hook-secret"),
        ({"headers": {SECRET_HEADER: ""}}, 403, "hook-secret"),
        ({"headers": {"If-Match": ""}, "content": b"not json"}, 400, "no-version"),
        ({"headers": {"If-Match": ""}, "content": b'{"meta":{"versionId":"../x"}}'}, 400, None),
        ({"headers": {"If-Match": ""}, "content": b"[]"}, 400, "no-version"),
        ({"path": "/hooks/ImagingStudy/a%20b"}, 400, None),
        ({"path": "/hooks/ImagingStudy/" + "x" * 65}, 400, None),
        ({"path": "/hooks/Patient/abc"}, 404, None),
        ({"content": b"x" * 50_000_000}, 413, None),
    ],
)
def test_bad_notices_get_an_outcome_and_enqueue_nothing(
    client: TestClient, queue: FakeQueue, kwargs: dict, status: int, code: str | None
) -> None:
    response = _notify(client, **kwargs)
    assert response.status_code == status
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    if code:
        assert code in str(outcome)
    assert not queue.messages


def test_secret_is_never_in_the_answer(client: TestClient) -> None:
    assert SECRET not in _notify(client, headers={SECRET_HEADER: "wrong"}).text


@pytest.fixture
def repository(tmp_path):
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    yield Repository(engine)
    engine.dispose()


def _page(*resources: tuple[str, str, str]) -> dict:
    return {
        "entry": [
            {"resource": {"id": i, "meta": {"versionId": v, "lastUpdated": at}}}
            for i, v, at in resources
        ]
    }


def test_sweep_enqueues_every_version_and_moves_its_watermark(repository, queue) -> None:
    fhir = FakeFhir(
        [
            _page(("a", "1", "2026-03-01T10:00:00.123+01:00"), ("b", "4", "2026-03-01T09:30:00Z")),
            _page(("c", "1", "2026-03-01T08:59:59.999Z")),
        ]
    )
    assert sweep(fhir, queue, repository, timedelta(minutes=5)) == 3
    assert set(queue.messages) == {"ImagingStudy/a/1", "ImagingStudy/b/4", "ImagingStudy/c/1"}
    assert "_lastUpdated" not in fhir.asked[0], "a lost database starts at the beginning"
    assert repository.cursor(CURSOR) == "2026-03-01T09:30:00.000000+00:00"

    sweep(fhir, queue, repository, timedelta(minutes=5))
    assert fhir.asked[1]["_lastUpdated"] == "ge2026-03-01T09:25:00+00:00"
    assert len(queue.messages) == 3


def test_a_sweep_may_look_at_finished_versions_again(repository, queue) -> None:
    fhir = FakeFhir([_page(("a", "1", "2026-03-01T09:00:00Z"))])
    sweep(fhir, queue, repository, timedelta(minutes=5))
    sweep(fhir, queue, repository, timedelta(minutes=5), again="sweep-1")
    assert set(queue.messages) == {"ImagingStudy/a/1", "ImagingStudy/a/1/run-sweep-1"}


@pytest.fixture
def intake() -> IntakeSettings:
    return IntakeSettings(hook_secret=SECRET, hook_url="http://127.0.0.1:9/hooks")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"status": "active"}, "active"),
        ({"status": "requested"}, "pending"),
        ({"status": "off"}, "error"),
        ({"status": "error"}, "error"),
        ({"status": "active", "criteria": "ImagingStudy?modality=MR"}, "changed"),
    ],
)
def test_subscription_states(intake: IntakeSettings, change: dict, state: str) -> None:
    fhir = FakeFhir()
    fhir.put({**wanted_subscription(intake), **change})
    assert check_subscription(fhir, intake).state == state


def test_subscription_is_created_and_repaired(intake: IntakeSettings) -> None:
    fhir = FakeFhir()
    assert ensure_subscription(fhir, intake).state == "missing"
    key = ("Subscription", SUBSCRIPTION_ID)
    fhir.stored[key] = {**fhir.stored[key], "status": "active"}
    untouched = fhir.stored[key]
    assert ensure_subscription(fhir, intake).state == "active"
    assert fhir.stored[key] is untouched
    moved = intake.model_copy(update={"hook_url": "http://127.0.0.1:10/hooks"})
    assert ensure_subscription(fhir, moved).state == "changed"
    assert fhir.stored[key]["channel"]["endpoint"] == "http://127.0.0.1:10/hooks"
    assert fhir.stored[key]["status"] == "requested"


@pytest.mark.parametrize("secret", ["short", "changeme", "x" * 15])
def test_weak_hook_secrets_are_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="16 characters"):
        IntakeSettings(hook_secret=secret)
