"""Every access through the real gateway leaves its AuditEvents, whatever is away meanwhile."""

from __future__ import annotations

import base64
import os
import signal
import time
import uuid
from typing import Any

import pytest
import requests
from tokens import Tokens

from fhir_ext.audit.segments import backlog
from fhir_ext.resources.ids import access_event_id

Json = dict[str, Any]

#: Seconds from an answer to its AuditEvent that nobody should have to wait for.
SOON = 15.0


class Trail:
    """Asks the gateway, and looks into HAPI for what that left."""

    def __init__(self, installation) -> None:
        self.installation, self.fhir = installation, installation.fhir
        self.base = installation.tree.urls["gateway"]
        tokens = Tokens(installation.tree.urls["issuer"], installation.tree.directory)
        self.token = tokens.get("service", "system", "system/*.cruds")
        self.narrow = tokens.get("service", "system", "system/Observation.rs")
        self.prefix = f"at{uuid.uuid4().hex[:8]}"

    def patients(self, count: int) -> list[str]:
        """Ids of new patients; they share a family name nobody else has."""
        ids = [f"{self.prefix}-{uuid.uuid4().hex[:6]}" for _ in range(count)]
        for patient in ids:
            self.fhir.put(
                {"resourceType": "Patient", "id": patient, "name": [{"family": self.prefix}]}
            )
        return ids

    def ask(self, path: str, token: str | None = "", method: str = "GET", **options: Any):
        headers = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        return requests.request(
            method, f"{self.base}/{path}", headers=headers, timeout=60, **options
        )

    def event(self, answer: requests.Response, patient: str | None) -> Json | None:
        request_id = answer.headers["X-Request-Id"]
        found: Json | None = self.fhir.find("AuditEvent", access_event_id(request_id, patient))
        return found

    def wait(self, answer: requests.Response, patient: str | None, seconds: float = SOON) -> Json:
        found = self.installation.wait_for(
            lambda: self.event(answer, patient), "an AuditEvent", seconds
        )
        return dict(found)


@pytest.fixture(scope="module")
def trail(installation) -> Trail:
    return Trail(installation)


def _entity(event: Json, entity_type: str) -> Json:
    (found,) = (item for item in event["entity"] if item["type"]["code"] == entity_type)
    return dict(found)


def test_a_read_is_told_within_seconds(trail) -> None:
    (patient,) = trail.patients(1)
    answer = trail.ask(f"Patient/{patient}")
    assert answer.status_code == 200
    event = trail.wait(answer, patient)
    assert event["meta"]["profile"][0].endswith("IHE.BasicAudit.PatientRead")
    assert event["outcome"] == "0"
    assert event["agent"][0]["altId"] == "demo-backend"
    assert _entity(event, "2")["what"]["reference"] == f"Patient/{patient}"
    request = _entity(event, "XrequestId")
    assert request["what"]["identifier"]["value"] == answer.headers["X-Request-Id"]
    found = trail.fhir.search("AuditEvent", {"patient": f"Patient/{patient}"})
    assert [item["id"] for item in found] == [event["id"]]


def test_a_search_is_told_once_for_each_patient_in_it(trail) -> None:
    patients = trail.patients(3)
    answer = trail.ask(f"Patient?_id={','.join(patients)}&family={trail.prefix}")
    assert len(answer.json()["entry"]) == 3
    for patient in patients:
        event = trail.wait(answer, patient)
        assert event["subtype"][0]["code"] == "search-type"
        asked = base64.b64decode(_entity(event, "2")["query"]).decode()
        assert trail.prefix in asked
        assert asked.startswith("Patient?")
    assert trail.event(answer, None) is None


def test_what_was_written_is_named(trail) -> None:
    (patient,) = trail.patients(1)
    observation = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "weight"},
        "subject": {"reference": f"Patient/{patient}"},
    }
    answer = trail.ask("Observation", method="POST", json=observation)
    assert answer.status_code == 201
    event = trail.wait(answer, patient)
    assert event["action"] == "C"
    assert _entity(event, "2")["what"]["reference"] == f"Observation/{answer.json()['id']}"


def test_refusals_are_told_with_our_code_only(trail) -> None:
    (patient,) = trail.patients(1)
    refused = trail.ask(f"Patient/{patient}", token=trail.narrow)
    assert refused.status_code == 403
    event = trail.wait(refused, None)
    assert event["outcome"] == "4"
    assert event["outcomeDesc"] == "scope"
    unknown = trail.ask(f"Patient/{patient}", token=None)
    assert unknown.status_code == 401
    event = trail.wait(unknown, None)
    assert event["outcome"] == "4"
    assert "altId" not in event["agent"][0]


def test_an_answer_that_breaks_off_is_told(trail, installation) -> None:
    """A long answer is sent while it arrives; what was sent before serve dies was seen."""
    (patient,) = trail.patients(1)
    trail.fhir.put(
        {
            "resourceType": "Observation",
            "id": f"{trail.prefix}-long",
            "status": "final",
            "code": {"text": "long"},
            "subject": {"reference": f"Patient/{patient}"},
            "note": [{"text": "x" * 100_000} for _ in range(150)],
        }
    )
    answer = trail.ask(f"Observation/{trail.prefix}-long", stream=True)
    assert answer.status_code == 200
    assert answer.raw.read(1000)
    # The caller reads no further, so the rest of the answer waits in serve.
    os.kill(installation.tree.pid("serve"), signal.SIGKILL)
    answer.close()
    found = installation.wait_for(
        lambda: trail.event(answer, patient) or trail.event(answer, None), "an AuditEvent", 60
    )
    assert found["outcome"] == "0"
    installation.wait_for(installation.ready, "serve after its death")


def test_nothing_is_lost_while_no_worker_runs(trail, installation) -> None:
    (patient,) = trail.patients(1)
    installation.tree.hold("worker")
    try:
        answers = [trail.ask(f"Patient/{patient}") for _ in range(40)]
        time.sleep(1)
        assert trail.event(answers[0], patient) is None
        waiting = installation.parts.queue.waiting_chores()
        assert any(item.workflow_id.startswith("audit/") for item in waiting)
    finally:
        installation.tree.release("worker")
    for answer in answers:
        assert trail.wait(answer, patient, 60)["meta"]["versionId"] == "1"


def test_nothing_is_lost_when_serve_is_killed(trail, installation) -> None:
    (patient,) = trail.patients(1)
    for _ in range(3):
        answers = [trail.ask(f"Patient/{patient}") for _ in range(10)]
        os.kill(installation.tree.pid("serve"), signal.SIGKILL)
        for answer in answers:
            trail.wait(answer, patient, 60)
        installation.wait_for(installation.ready, "serve after its death")


def test_nothing_is_lost_while_hapi_is_away(trail, installation) -> None:
    tree = installation.tree
    (patient,) = trail.patients(1)
    hapi = tree.server("hapi")
    tree.hold("worker")
    answers = [trail.ask(f"Patient/{patient}") for _ in range(10)]
    hapi.stop()
    try:
        tree.release("worker")
        failed = [trail.ask(f"Patient/{patient}") for _ in range(3)]
        assert {answer.status_code for answer in failed} <= {502, 503}
        time.sleep(5)
    finally:
        hapi.start(tree.directory / "logs" / "hapi.log")
        hapi.wait_ready()
    for answer in answers:
        trail.wait(answer, patient, 90)
    for answer in failed:
        assert trail.wait(answer, None, 90)["outcome"] == "8"


def test_queries_are_in_no_log_and_the_journal_is_empty_in_the_end(trail, installation) -> None:
    journal = installation.settings.audit.journal
    installation.wait_for(lambda: backlog(journal).segments == 0, "an empty journal", SOON)
    for name in ("serve", "worker"):
        for path in (installation.tree.directory / "logs").glob(f"{name}*.log"):
            assert trail.prefix not in path.read_text(errors="replace")
    assert installation.parts.queue.parked_chores() == []
