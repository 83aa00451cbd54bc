"""Drift in the running installation: samples of real studies, an alert in HAPI, a webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from drift_samples import DAY, SETTINGS_HASH, samples, today
from serving import Receiver, receiving

from fhir_ext.resources import codes
from fhir_ext.resources.ids import device_id
from fhir_ext.results import ModelIdentity
from fhir_ext.store.repository import now
from fhir_ext.store.samples import SampleStore

if TYPE_CHECKING:
    import pydicom
    from installation import Installation

Study = Callable[..., list[list["pydicom.Dataset"]]]
Json = dict[str, Any]

SECRET = "a secret of the end-to-end test"
#: No such model is installed: its samples are invented, and so disturb nobody.
MODEL = ModelIdentity("drifting-density", "0.0.7", "drifting-density", SETTINGS_HASH)


@pytest.fixture
def receiver(installation: Installation) -> Iterator[Receiver]:
    """The worker looks every second and tells this receiver; as before at the end."""
    tree = installation.tree
    before = dict(tree.environment)
    with receiving(503) as running:
        tree.hold("worker")
        tree.environment.update(
            {
                "FHIR_EXT_MONITORING__INTERVAL": "PT1S",
                "FHIR_EXT_MONITORING__WEBHOOK_URL": running.url,
                "FHIR_EXT_MONITORING__WEBHOOK_SECRET": SECRET,
                "FHIR_EXT_OUTGOING__PRIVATE_NETWORKS": "true",
                "FHIR_EXT_OUTGOING__PLAIN_HTTP": "true",
            }
        )
        tree.release("worker")
        try:
            yield running
        finally:
            tree.hold("worker")
            tree.environment.clear()
            tree.environment.update(before)
            tree.release("worker")
            installation.wait_for(installation.ready, "readiness")


def command(installation: Installation, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fhir_ext", "model", *arguments],
        env=installation.tree.environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_shift_becomes_an_issue_in_hapi_and_a_signed_webhook(
    installation: Installation, receiver: Receiver
) -> None:
    of = {"service": MODEL.id, "version": MODEL.version}
    store = SampleStore(installation.repository.engine)
    store.record(samples(200, today() - 40 * DAY, seed=11, **of))
    store.record(samples(80, today() - 7 * DAY, 7, seed=13, shift=1.5, **of))
    asked = {
        "implicated": f"Device/{device_id(MODEL)}",
        "code": f"{codes.MODEL_ALERT.url}|model-drift",
    }
    fhir = installation.fhir
    (issue,) = installation.wait_for(
        lambda: fhir.search("DetectedIssue", asked), "an issue about the model"
    )
    assert "patient" not in issue
    assert issue["evidence"][0]["code"][0]["coding"][0]["code"] == "output-drift"
    assert "laa-950/lungs PSI" in issue["detail"]

    installation.wait_for(lambda: len(receiver.got) >= 2, "a webhook that is tried again")
    receiver.status = 204
    installation.wait_for(lambda: receiver.taken, "a webhook that is taken")
    headers, body = receiver.taken[0]
    assert headers["webhook-id"] == issue["id"]
    content = f"{issue['id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha256).digest())
    assert headers["webhook-signature"] == f"v1,{digest.decode()}"
    assert json.loads(body)["data"]["kind"] == "output-drift"

    metrics = requests.get(installation.tree.urls["worker metrics"], timeout=10).text
    shown = f'kind="output-drift",service="{MODEL.id}",version="{MODEL.version}"'
    assert f"fhir_ext_model_alerts{{{shown}}} 1.0" in metrics
    # Several more looks, and still one alert of each sort.
    looked = now() + timedelta(seconds=3)
    installation.wait_for(lambda: now() > looked, "three more looks")
    assert len(receiver.taken) == 1
    assert len(fhir.search("DetectedIssue", asked)) == 1
    (found,) = json.loads(command(installation, "drift", MODEL.id, "--json"))
    assert found["numbers"][0]["verdict"] == "major"
    assert "major" in command(installation, "drift", MODEL.id)


def test_a_study_that_is_analyzed_leaves_a_sample(
    installation: Installation, small_study: Study
) -> None:
    begin = now()
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    installation.wait_done(uid)
    store = SampleStore(installation.repository.engine)
    (version,) = store.versions(begin, service="lung-density")
    (sample,) = store.between(version, begin, now())
    assert sample.role == "active"
    assert sample.mix["scanner"] == str(series[0].ManufacturerModelName)
    assert sample.mix["sex"] == "F"
    assert sample.mix["age-band"].endswith("9")
    assert sample.numbers["laa-950/lungs"] > 0
    assert sample.latency_seconds is not None
    assert sample.latency_seconds > 0
    text = json.dumps(sample.model_dump(mode="json"))
    assert all(planted not in text for planted in installation.planted)
    metrics = requests.get(installation.tree.urls["worker metrics"], timeout=10).text
    of = f'service="lung-density",version="{version.version}"'
    assert f"fhir_ext_model_seconds_count{{{of}}}" in metrics
    assert all(planted not in metrics for planted in installation.planted)
    assert "nothing to compare with yet" in command(installation, "drift", "lung-density")
