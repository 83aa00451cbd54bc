"""The report of a recall: who is concerned, and who received what, from what HAPI holds."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from recall_samples import RECALL, PagedFhir, add
from result_samples import ISSUED, MODEL
from review_samples import ANN, Queue, allow, request, task_of
from typer.testing import CliRunner

from fhir_ext.audit.record import AccessRecord
from fhir_ext.errors import NotFoundError
from fhir_ext.resources.access_event import AuditServer, access_events
from fhir_ext.resources.context import instant
from fhir_ext.resources.ids import device_id, dicom_uid, imaging_study_id, result_id
from fhir_ext.resources.recall import Counts
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.model_registry.recall import Recaller, groups_of
from operations.model_registry.recall_report import RecallReport, recall_report
from operations.review.service import ReviewService

Json = dict[str, Any]

SERVER = AuditServer("Device/software", "https://fhir.example.org/fhir")


class Server(PagedFhir):
    """Also holds AuditEvents and Subscriptions."""

    def pages(self, resource_type: str, params: Any) -> Iterator[Json]:
        if resource_type != "AuditEvent":
            yield from super().pages(resource_type, params)
            return
        since = datetime.fromisoformat(params["date"].removeprefix("ge"))
        found = [
            event
            for event in self.search("AuditEvent", {})
            if event["outcome"] == params["outcome"]
            and datetime.fromisoformat(event["recorded"]) >= since
            and params["patient"] in {e.get("what", {}).get("reference") for e in event["entity"]}
        ]
        yield {"entry": [{"resource": event} for event in found]}


@pytest.fixture
def fhir() -> Server:
    return Server()


def asked(fhir: Server, minutes: float, **changes: Any) -> None:
    """Somebody asks the gateway for data of patient p1, so many minutes after the result."""
    number = len(fhir.search("AuditEvent", {}))
    record = {
        "request_id": f"r{number}",
        "recorded": instant(ISSUED + timedelta(minutes=minutes)),
        "interaction": "search-type",
        "action": "E",
        "outcome": "0",
        "http_status": 200,
        "target": "Observation",
        "query": "patient=p1",
        "patients": ("p1",),
        "client_id": "viewer",
        "subject": "sub-1",
        "fhir_user": "Practitioner/ann",
        "personas": ("radiologist",),
        **changes,
    }
    for event in access_events(AccessRecord(**record), SERVER):
        fhir.put(event)


def read(of: Any) -> Json:
    panel = result_id(of.inference_key, "panel")
    return {
        "interaction": "read",
        "action": "R",
        "target": f"Observation/{panel}",
        "query": None,
    }


def report(fhir: Server) -> RecallReport:
    return recall_report(fhir, MODEL.id, MODEL.version)


def settle(fhir: Server) -> None:
    for page in groups_of(fhir, RECALL.device_id):
        for group in page:
            Recaller(fhir).settle(RECALL, group)


def test_patients_studies_and_results_are_named(fhir: Server) -> None:
    first, second = add(fhir, 1), add(fhir, 2)
    service = ReviewService(fhir, Queue(), Registry(), Metrics())
    service.review(task_of(second), ANN, request("accept"), "1", allow)
    before = report(fhir)
    assert before.recall is None
    assert before.counts["withdrawn"] == 16
    settle(fhir)
    made = report(fhir)
    assert made.patients == ("Patient/p1", "Patient/p2")
    assert made.studies == tuple(
        sorted(f"ImagingStudy/{imaging_study_id(of.study_instance_uid)}" for of in (first, second))
    )
    by_patient = {item.patient: item for item in made.results}
    assert (len(by_patient["Patient/p1"].unsigned), by_patient["Patient/p1"].signed) == (16, ())
    assert by_patient["Patient/p1"].withdrawn > by_patient["Patient/p1"].written
    assert len(by_patient["Patient/p2"].signed) == 15
    assert by_patient["Patient/p2"].withdrawn == ""
    assert by_patient["Patient/p2"].untouched == (f"Task/{task_of(second)}",)
    assert made.devices == (f"Device/{device_id(MODEL)}",)
    assert made.counts["withdrawn"] == before.counts["withdrawn"]


def test_receivers_are_told_apart_and_counted(fhir: Server) -> None:
    of = add(fhir, 1)
    asked(fhir, 1)
    asked(fhir, 2, **read(of))
    asked(fhir, 3, client_id="registry", subject="registry", fhir_user=None, personas=("service",))
    person, program = report(fhir).receivers[1], report(fhir).receivers[0]
    assert (person.client, person.user) == ("viewer", "Practitioner/ann")
    assert (person.certain, person.possible) == (1, 1)
    assert person.first < person.last
    assert (program.client, program.user) == ("registry", "")
    assert (program.certain, program.possible, program.patients) == (0, 1, {"Patient/p1"})


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "4", "http_status": 403},
        {"interaction": "create", "action": "C"},
        {"target": "Condition"},
        {"interaction": "read", "action": "R", "target": "Patient/p1", "query": None},
        {"interaction": "read", "action": "R", "target": "Observation/other", "query": None},
        {"patients": ("p2",)},
        {"minutes": -1},
    ],
)
def test_what_held_no_result_makes_no_receiver(fhir: Server, changes: Json) -> None:
    add(fhir, 1)
    asked(fhir, **{"minutes": 1, **changes})
    assert report(fhir).receivers == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "Patient", "query": "_id=p1&_revinclude=Observation:subject"},
        {"target": None, "query": "_type=Observation", "interaction": "search-system"},
        {"interaction": "operation", "operation": "everything", "target": "Patient/p1"},
        {"interaction": "batch", "target": None, "query": None},
    ],
)
def test_what_may_have_held_a_result_is_possible(fhir: Server, changes: Json) -> None:
    add(fhir, 1)
    asked(fhir, **{"minutes": 1, **changes})
    (receiver,) = report(fhir).receivers
    assert (receiver.certain, receiver.possible) == (0, 1)


def test_who_asks_after_the_withdrawal_received_no_number(fhir: Server) -> None:
    of = add(fhir, 1)
    settle(fhir)
    later = (datetime.now(UTC) - ISSUED).total_seconds() / 60 + 5
    asked(fhir, later, **read(of))
    assert report(fhir).receivers == ()


def test_who_asks_for_what_was_measured_in_the_segments_is_a_receiver(fhir: Server) -> None:
    """Also after the recall: the numbers stand until a human has decided."""
    of = add(fhir, 1)
    drawn = result_id(of.inference_key, "provenance")
    provenance = fhir.read("Provenance", drawn)
    fhir.put({**provenance, "entity": [*provenance["entity"], {"role": "derivation", "what": {}}]})
    series = {"identifier": {"value": f"urn:oid:{dicom_uid(of.inference_key, 'seg-series')}"}}
    measured = {"resourceType": "Observation", "id": "measured", "status": "preliminary"}
    fhir.put({**measured, "subject": {"reference": "Patient/p1"}})
    fhir.put(
        {
            **provenance,
            "id": "other",
            "agent": [{"who": {"reference": "Device/other"}}],
            "target": [{"reference": "Observation/measured"}],
            "entity": [*provenance["entity"], {"role": "source", "what": series}],
        }
    )
    settle(fhir)
    later = (datetime.now(UTC) - ISSUED).total_seconds() / 60 + 5
    asked(fhir, later, **read(of))
    assert report(fhir).receivers == ()
    asked(fhir, later, **{**read(of), "target": "Observation/measured"})
    (receiver,) = report(fhir).receivers
    assert (receiver.certain, receiver.possible) == (1, 0)


def test_subscriptions_of_others_are_listed_without_their_secrets(fhir: Server) -> None:
    add(fhir, 1)
    channel = {"endpoint": "https://user:secret@registry.example.org/hook?key=secret"}
    criteria = "Observation?code=x&patient=p1"
    for name, more in (
        ("registry", {}),
        ("off", {"status": "off"}),
        ("fhir-ext-imaging-finding", {}),
        ("other", {"criteria": "Encounter?"}),
    ):
        item = {"resourceType": "Subscription", "id": name, "status": "active"}
        fhir.put({**item, "criteria": criteria, "channel": channel, **more})
    (one,) = report(fhir).subscribers
    assert (one.id, one.criteria) == ("registry", "Observation?code&patient")
    assert one.endpoint == "https://registry.example.org"
    assert one.at_most == 13


def test_a_version_that_is_not_known_has_no_report(fhir: Server) -> None:
    add(fhir, 1)
    with pytest.raises(NotFoundError):
        recall_report(fhir, MODEL.id, "9.9.9")


def test_the_command_shows_counts_and_writes_the_rest_to_a_file_of_its_own(
    fhir: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fhir_ext.cli import app, parts

    add(fhir, 1)
    asked(fhir, 1)
    Recaller(fhir).mark(RECALL)
    settle(fhir)
    Recaller(fhir).report_progress(RECALL, Counts(groups=1), finished=True)
    monkeypatch.setattr(parts, "load_settings", lambda: None)
    monkeypatch.setattr(parts.Parts, "fhir", fhir)
    file = tmp_path / "recall.json"
    file.write_text("older")
    file.chmod(0o644)
    command = ["model", "recall-report", MODEL.id, MODEL.version, "--json", str(file)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "completed" in shown.output
    assert "viewer" in shown.output
    assert "p1" not in shown.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = json.loads(file.read_text())
    assert written["patients"] == ["Patient/p1"]
    assert written["recall"]["who"] == "ops"
    assert written["counts"]["receivers"] == 1
