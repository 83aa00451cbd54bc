"""A recall on the running installation: withdrawn, listed, told, reported, and repeated."""

from __future__ import annotations

import json
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from recall_samples import counts_of, write_result
from result_samples import MODEL
from review_samples import parameters
from tokens import Tokens

from fhir_ext.embedded.process import ChildProcess
from fhir_ext.errors import ParkedWork
from fhir_ext.resources.device import is_recalled
from fhir_ext.resources.ids import device_id, imaging_study_id, recall_review_id, recall_task_id
from fhir_ext.results import ModelIdentity
from models.lifecycle import State, VersionState
from models.registry import Registry
from operations.analyze.rules import load_rules
from operations.analyze.service import AnalyzeService
from operations.model_registry.recall import start_recall
from operations.model_registry.recall_report import recall_report

Json = dict[str, Any]

KILLING = Path(__file__).parents[1] / "faults" / "killing_recall.py"
REASON = "Volumes are wrong on one kind of scanner."
RESULTS = ("Observation", "RiskAssessment", "DetectedIssue")
SCOPES = "user/Task.rus user/Observation.rs user/Provenance.rs"
PROGRAM = "demo-screening"


class Recalled:
    """One model version on the installation, its recall, and what becomes of its results."""

    def __init__(self, installation: Any, model: ModelIdentity) -> None:
        self.installation, self.model = installation, model
        self.fhir, self.archive = installation.fhir, installation.archive

    @property
    def device(self) -> str:
        return device_id(self.model)

    def recall(self, again: str = "") -> None:
        model = self.model
        start_recall(
            self.installation.parts.queue,
            model.id,
            model.version,
            model.settings_hash,
            REASON,
            "operator",
            again=again,
        )

    def recalled(self) -> Json:
        """The Task of the recall, once it is completed."""

        def task() -> Json | None:
            found = self.fhir.find("Task", recall_task_id(self.device))
            return found if found and found["status"] == "completed" else None

        return self.installation.wait_for(task, "a completed recall")

    def written(self) -> dict[str, list[Json]]:
        """Id of each Provenance of the version to what it wrote."""
        found = self.fhir.search("Provenance", {"agent": f"Device/{self.device}"})
        return {
            p["id"]: [self.fhir.read(*t["reference"].split("/")[:2]) for t in p["target"]]
            for p in found
        }

    def versions(self) -> dict[str, str]:
        """Version of everything that the version wrote."""
        return {
            f"{item['resourceType']}/{item['id']}": item["meta"]["versionId"]
            for group in self.written().values()
            for item in group
        }

    def notes(self, uid: str) -> int:
        """How many notes of rejection a study has."""
        return sum(
            series.instance_count
            for series in self.archive.list_series(uid)
            if series.modality == "KO"
        )


class Site(Recalled):
    """Makes results of a version of its own, so that its recall concerns no other test."""

    def __init__(self, installation: Any, small_study: Any, root: Path, version: str) -> None:
        registry = site_registry(root, version)
        super().__init__(installation, registry.manifest("lung-density", version).identity())
        self.small_study = small_study
        states = (VersionState("lung-density", version, State.ACTIVE),)
        self.analyze = AnalyzeService.build(
            self.fhir,
            self.archive,
            registry,
            load_rules(None),
            installation.settings.limits,
            lambda: states,
        )

    def store(self) -> tuple[str, str]:
        """(study UID, patient id) of a new study that the shipped version has looked at."""
        patient = self.installation.patient()
        (series,) = self.small_study(patient)
        uid = self.installation.store(series)
        self.installation.wait_done(uid)
        return uid, patient.patient_id.lower()

    def analysed(self) -> tuple[str, str]:
        """The same, with results of the version that will be recalled."""
        uid, patient = self.store()
        self.publish(*self.inferred(uid))
        return uid, patient

    def inferred(self, uid: str) -> tuple[Any, Any]:
        prepared = self.analyze.prepare(imaging_study_id(uid))
        (job,) = prepared.jobs
        return prepared, self.analyze.analyze(uid, job).results

    def publish(self, prepared: Any, results: Any) -> None:
        assert {result.model for result in results} == {self.model}
        self.analyze.publish(prepared, results, datetime.now(UTC))


def site_registry(root: Path, version: str) -> Registry:
    """The shipped services and one more version of lung density."""
    import models

    shipped = Path(models.__file__).parent / "lung_density" / "manifest.yaml"
    folder = root / "lung-density" / version
    folder.mkdir(parents=True)
    text = shipped.read_text("utf-8").replace("version: 1.0.0", f"version: {version}")
    (folder / "manifest.yaml").write_text(text, "utf-8")
    return Registry(site=root)


class Hook(ThreadingHTTPServer):
    """A registry's endpoint: keeps what HAPI brings."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Brought)
        self.brought: list[Json] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/told"


class _Brought(BaseHTTPRequestHandler):
    server: Hook

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.brought.append(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.shutdown()
    running.server_close()


def statuses(resources: list[Json]) -> set[str]:
    return {item["status"] for item in resources if item["resourceType"] in RESULTS}


def test_a_recall_withdraws_lists_tells_and_reports(
    installation: Any, small_study: Any, tmp_path: Path, hook: Hook
) -> None:
    site = Site(installation, small_study, tmp_path, "7.0.0")
    fhir, base = site.fhir, installation.tree.urls["gateway"]
    signed_uid, signed_patient = site.analysed()
    open_uid, open_patient = site.analysed()
    token = Tokens(installation.tree.urls["issuer"], installation.tree.directory).get(
        "radiologist", "user", SCOPES
    )
    headers = {"Authorization": f"Bearer {token}"}
    _join(fhir, signed_patient, open_patient)
    by_patient = {
        items[0]["subject"]["reference"]: (key, items) for key, items in site.written().items()
    }
    signed_key, signed = by_patient[f"Patient/{signed_patient}"]
    _, opened = by_patient[f"Patient/{open_patient}"]
    (task,) = (item for item in signed if item["resourceType"] == "Task")
    _accept(installation, base, headers, task["id"])
    panel = next(item for item in opened if item.get("hasMember"))
    received = requests.get(f"{base}/Observation/{panel['id']}", headers=headers, timeout=60)
    assert received.status_code == 200
    fhir.put(
        {
            "resourceType": "Subscription",
            "id": "recall-registry",
            "status": "requested",
            "reason": "a registry",
            "criteria": f"Observation?patient=Patient/{open_patient}",
            "channel": {
                "type": "rest-hook",
                "endpoint": hook.url,
                "payload": "application/fhir+json",
            },
        }
    )
    installation.wait_for(
        lambda: fhir.read("Subscription", "recall-registry")["status"] == "active", "a Subscription"
    )

    site.recall()
    summary = site.recalled()
    after = site.written()
    assert statuses(after[signed_key]) == {"final"}
    (left,) = (items for key, items in after.items() if key != signed_key)
    assert {item["status"] for item in left} == {"entered-in-error"}
    counts = counts_of(summary)
    assert (counts.groups, counts.withdrawn, counts.reviews) == (2, len(left), 1)
    listed = fhir.read("Task", recall_review_id(signed_key))
    assert (listed["status"], listed["for"]["reference"]) == (
        "requested",
        f"Patient/{signed_patient}",
    )
    part_of = fhir.search("Task", {"part-of": f"Task/{summary['id']}"})
    assert [item["id"] for item in part_of] == [listed["id"]]
    assert is_recalled(fhir.read("Device", site.device))

    wanted = {item["id"] for item in left if item["resourceType"] == "Observation"}
    told = installation.wait_for(
        lambda: (
            wanted <= {o["id"] for o in hook.brought if o["status"] == "entered-in-error"}
            and hook.brought
        ),
        "the subscriber to be told",
    )
    assert {o["subject"]["reference"] for o in told} == {f"Patient/{open_patient}"}
    installation.wait_for(lambda: site.notes(open_uid) == 1, "the note beside the SR")
    assert site.notes(signed_uid) == 0

    report = installation.wait_for(
        lambda: (r := recall_report(fhir, site.model.id, site.model.version)).receivers and r,
        "a receiver in the audit",
    )
    assert report.patients == tuple(
        sorted({f"Patient/{signed_patient}", f"Patient/{open_patient}"})
    )
    assert report.studies == tuple(
        sorted(f"ImagingStudy/{imaging_study_id(uid)}" for uid in (signed_uid, open_uid))
    )
    assert report.counts["withdrawn"] == len(left)
    assert report.counts["signed"] == sum(i["resourceType"] in RESULTS for i in signed)
    (reader,) = (r for r in report.receivers if r.certain)
    assert reader.user == "Practitioner/demo-radiologist"
    assert f"Patient/{open_patient}" in reader.patients
    assert [s.id for s in report.subscribers if s.id == "recall-registry"]
    assert report.recall is not None
    assert (report.recall["status"], report.recall["reason"]) == ("completed", REASON)

    versions = site.versions()
    site.recall(again="repeat")
    installation.wait_for(
        lambda: (
            fhir.read("Task", summary["id"])["meta"]["versionId"] > summary["meta"]["versionId"]
            and site.recalled()
        ),
        "the repeat",
    )
    assert site.versions() == versions
    assert counts_of(site.recalled()) == counts


def test_a_study_in_flight_cannot_publish_what_was_recalled(
    installation: Any, small_study: Any, tmp_path: Path
) -> None:
    site = Site(installation, small_study, tmp_path, "7.1.0")
    uid, _ = site.store()
    prepared, results = site.inferred(uid)
    site.recall()
    site.recalled()
    with pytest.raises(ParkedWork) as refused:
        site.publish(prepared, results)
    assert refused.value.code == "model-recalled"
    assert site.written() == {}
    # One that looked at the Device before the recall marked it is found by the loop.
    site.analyze.writer.write(prepared, results, datetime.now(UTC))
    installation.wait_for(
        lambda: (
            (items := [i for group in site.written().values() for i in group])
            and statuses(items) == {"entered-in-error"}
        ),
        "the late result to be withdrawn",
    )
    assert is_recalled(site.fhir.read("Device", site.device))


@pytest.mark.parametrize("moment", [1, 4])
def test_a_recall_whose_worker_is_killed_goes_on(
    installation: Any, tmp_path: Path, moment: int
) -> None:
    """Killed before the Device is marked, and amid the results."""
    fhir, tree = installation.fhir, installation.tree
    model = replace(MODEL, version=f"7.2.{uuid.uuid4().int % 10**6}")
    patient = f"Patient/{installation.patient().patient_id.lower()}"
    for _ in range(3):
        write_result(fhir, model, patient)
    site = Recalled(installation, model)
    tree.hold("worker")
    marker = tmp_path / "killed"
    child = ChildProcess(
        "worker",
        [sys.executable, str(KILLING), str(moment), str(marker)],
        tree.directory / "logs" / "worker-killing.log",
        environment=tree.environment,
    )
    try:
        site.recall()
        installation.wait_for(lambda: not child.alive(), "the worker's death")
        assert child.exit_code == -9
        assert marker.exists()
    finally:
        child.stop()
        tree.release("worker")
    counts = counts_of(site.recalled())
    groups = list(site.written().values())
    assert {item["status"] for group in groups for item in group} == {"entered-in-error"}
    assert {item["meta"]["versionId"] for group in groups for item in group} == {"2"}
    assert (counts.groups, counts.withdrawn) == (3, sum(map(len, groups)))
    trails = fhir.search("Provenance", {"entity": f"Task/{recall_task_id(site.device)}"})
    assert len(trails) == 3


def _join(fhir: Any, *patients: str) -> None:
    found = fhir.find("Group", PROGRAM)
    group = found or {"resourceType": "Group", "id": PROGRAM, "type": "person", "actual": True}
    members = [{"entity": {"reference": f"Patient/{one}"}} for one in patients]
    fhir.put({**group, "member": [*group.get("member", []), *members]})
    radiologist = {"resourceType": "Practitioner", "id": "demo-radiologist"}
    fhir.put({**radiologist, "name": [{"family": "Oyama", "given": ["Yuki"]}]})


def _accept(installation: Any, base: str, headers: dict[str, str], task_id: str) -> None:
    """Sign a result by `$review`, once the gateway knows that its patient is in the program."""
    url = f"{base}/Task/{task_id}"
    installation.wait_for(
        lambda: requests.get(url, headers=headers, timeout=60).status_code == 200,
        "a patient in the program",
    )
    sent = {**headers, "Content-Type": "application/fhir+json", "If-Match": 'W/"1"'}
    answer = requests.post(f"{url}/$review", json=parameters("accept"), headers=sent, timeout=60)
    assert answer.status_code == 200, answer.text
