"""What the leader keeps and tells: once, signed, without patient data, whoever dies between."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from drift_samples import DAY, SERVICE, VERSION, samples, today
from pydantic import SecretStr, ValidationError
from serving import Receiver, receiving

from fhir_ext.errors import SettingsError, UpstreamUnavailable
from fhir_ext.outgoing import RefusedAddress
from fhir_ext.resources.drift_issue import drift_issue
from fhir_ext.settings import MonitoringSettings, OutgoingSettings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.sample_tables import ModelAlert
from fhir_ext.store.samples import SampleStore
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.model_drift.service import DriftService
from subscriptions.monitoring import (
    ALERT,
    WEBHOOK,
    Monitor,
    PostAlert,
    WriteAlert,
    alert_body,
    identity_of,
    issue_of,
    signed,
)

Json = dict[str, Any]
SECRET = "a secret of the test"
REGISTRY = Registry()


@dataclass
class Queue:
    """Keeps what is enqueued, as the durable queue does: once for each name and key."""

    chores: dict[tuple[str, str], Mapping[str, object]] = field(default_factory=dict)

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str:
        self.chores.setdefault((name, key), payload)
        return f"{name}/{key}"


@dataclass
class Server:
    """A FHIR server that keeps what is put."""

    kept: dict[str, Json] = field(default_factory=dict)

    def find(self, kind: str, resource_id: str) -> Json | None:
        return self.kept.get(f"{kind}/{resource_id}")

    def put(self, resource: Json) -> Json:
        self.kept[f"{resource['resourceType']}/{resource['id']}"] = resource
        return resource


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SampleStore]:
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    yield SampleStore(engine)
    engine.dispose()


def shifted(store: SampleStore) -> None:
    begin = today() - 40 * DAY
    store.record(samples(200, begin))
    store.record(samples(80, today() - 7 * DAY, 7, seed=1, shift=1.5, refused=0.5))


def monitor(store: SampleStore, queue: Queue, **changes: object) -> tuple[Monitor, Metrics]:
    settings = MonitoringSettings(**changes)
    metrics = Metrics()
    drift = DriftService(store, Repository(store._engine), settings)
    return Monitor(drift, REGISTRY, queue, metrics), metrics


def hooked(url: str) -> dict[str, object]:
    return {"webhook_url": url, "webhook_secret": SecretStr(SECRET)}


def test_a_change_is_told_once_however_often_it_is_seen(store: SampleStore) -> None:
    shifted(store)
    queue = Queue()
    watching, metrics = monitor(store, queue, **hooked("https://alerts.example/drift"))
    assert watching.look() == 2
    assert watching.look() == 0
    alerts = store.alerts(now() - DAY)
    assert {alert.kind for alert in alerts} == {"output-drift", "refusal-drift"}
    assert {alert.title for alert in alerts} == {REGISTRY.manifest(SERVICE).title}
    keys = {(name, alert.id) for alert in alerts for name in (ALERT, WEBHOOK)}
    assert queue.chores.keys() == keys

    def shown(name: str, **labels: str) -> float | None:
        of = {"service": SERVICE, "version": VERSION, **labels}
        return metrics.registry.get_sample_value(name, of)

    assert shown("fhir_ext_model_alerts", kind="output-drift") == 1
    assert shown("fhir_ext_model_alerts", kind="input-drift") == 0
    index = shown("fhir_ext_model_psi", subject="laa-950/lungs")
    assert index is not None
    assert index > 0.25
    median = shown("fhir_ext_model_output", output="laa-950/lungs", quantile="0.5")
    assert median == pytest.approx(1.5, abs=0.5)


def test_who_dies_between_keeping_and_telling_tells_later(store: SampleStore) -> None:
    shifted(store)
    monitor(store, Queue())[0].look()
    queue = Queue()
    assert monitor(store, queue)[0].look() == 0
    assert {name for name, _ in queue.chores} == {ALERT}
    assert len(queue.chores) == 2


def test_an_old_alert_is_not_told_again(store: SampleStore) -> None:
    shifted(store)
    watching, _ = monitor(store, Queue())
    watching.look()
    alerts = store.alerts(now() - DAY)
    store.delete_before(now() + DAY)
    shifted(store)
    for alert in alerts:
        old = ModelAlert(**{**alert.model_dump(), "at": now() - 2 * DAY})
        assert store.add_alert(old)
    queue = Queue()
    assert monitor(store, queue)[0].look() == 0
    assert queue.chores == {}


def test_a_version_without_a_past_or_without_results_raises_nothing(store: SampleStore) -> None:
    assert monitor(store, Queue())[0].look() == 0
    store.record(samples(80, today() - 3 * DAY, 3))
    assert monitor(store, Queue())[0].look() == 0


def kept_alert(store: SampleStore) -> ModelAlert:
    shifted(store)
    monitor(store, Queue())[0].look()
    return next(a for a in store.alerts(now() - DAY) if a.kind == "output-drift")


def test_the_issue_is_about_a_device_and_no_patient(store: SampleStore) -> None:
    alert = kept_alert(store)
    server = Server()
    known = {"resourceType": "Device", "id": "x", "note": "says more"}
    WriteAlert(server, store)({"alert_id": alert.id})
    issue = server.kept[f"DetectedIssue/{alert.id}"]
    assert "patient" not in issue
    (implicated,) = issue["implicated"]
    device = server.kept[implicated["reference"]]
    assert device["modelNumber"] == SERVICE
    assert issue["author"]["reference"] in server.kept
    assert issue["severity"] == "high"
    assert issue["evidence"][0]["code"][0]["coding"][0]["code"] == "output-drift"
    assert issue["detail"].startswith(f"{alert.title} {VERSION}, ")
    server.kept[implicated["reference"]] = known
    WriteAlert(server, store)({"alert_id": alert.id})
    assert server.kept[implicated["reference"]] is known, "what stands is not written over"
    WriteAlert(server, store)({"alert_id": "forgotten"})
    assert len(server.kept) == 3
    with pytest.raises(KeyError):
        drift_issue("i", identity_of(alert), kind="none", severity="high", findings=("a",),
                    spans="", identified=alert.at)  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def post(store: SampleStore, url: str, *, private: bool = True) -> PostAlert:
    outgoing = OutgoingSettings(private_networks=private, plain_http=private)
    settings = MonitoringSettings(**hooked(url))
    return PostAlert(store, settings, outgoing, "https://fhir.example/fhir")


def test_the_webhook_is_signed_and_holds_no_patient_data(
    store: SampleStore, receiver: Receiver
) -> None:
    alert = kept_alert(store)
    post(store, receiver.url)({"alert_id": alert.id})
    ((headers, body),) = receiver.got
    assert headers["webhook-id"] == alert.id
    content = f"{alert.id}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), content, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    data = json.loads(body)["data"]
    assert data["findings"][0]["name"] == "laa-950/lungs"
    assert data["detected_issue"] == f"https://fhir.example/fhir/DetectedIssue/{alert.id}"
    assert b"Patient" not in body
    assert b"pair-" not in body


@pytest.mark.parametrize("status", [302, 404, 410, 429, 500])
def test_a_receiver_that_does_not_take_it_is_tried_again(
    store: SampleStore, receiver: Receiver, status: int
) -> None:
    alert = kept_alert(store)
    receiver.status = status
    with pytest.raises(UpstreamUnavailable):
        post(store, receiver.url)({"alert_id": alert.id})
    assert len(receiver.got) == 1


def test_the_address_passes_the_guard(store: SampleStore, receiver: Receiver) -> None:
    alert = kept_alert(store)
    with pytest.raises(RefusedAddress):
        post(store, receiver.url, private=False)({"alert_id": alert.id})
    assert receiver.got == []
    post(store, receiver.url)({"alert_id": "forgotten"})
    assert receiver.got == []


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The example of the specification's libraries: key, id, time and body give this signature."""
    headers = signed(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    with pytest.raises(SettingsError):
        signed("i", 1, b"", "whsec_no base64")


def test_bodies_and_issues_name_what_was_compared(store: SampleStore) -> None:
    alert = kept_alert(store)
    compared = alert_body(alert, "https://x")["data"]["compared"]
    assert compared in issue_of(alert)["detail"]
    assert f"{alert.window_from:%Y-%m-%d}" in compared


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook_url": "https://x.example"},
        {"webhook_url": "https://x.example", "webhook_secret": "short"},
        {"window": timedelta(hours=12)},
        {"alpha": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MonitoringSettings(**wrong)
