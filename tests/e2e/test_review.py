"""Humans have the last word: reviews through the gateway, and what machines do afterwards."""

from __future__ import annotations

import copy
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom.uid import generate_uid
from registry_samples import shipped_states
from review_samples import Queue, allow, parameters, request
from tokens import Tokens

import models
from fhir_ext.errors import ConflictError
from fhir_ext.resources.ids import imaging_study_id, review_dicom_uid
from fhir_ext.resources.review import Reviewer
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.analyze.rules import load_rules
from operations.analyze.service import AnalyzeService
from operations.review.service import ReviewService

Json = dict[str, Any]

PROGRAM = "demo-screening"
JSON = {"Content-Type": "application/fhir+json"}
SCOPES = "user/Task.rus user/Observation.rs user/Provenance.rs"


class Desk:
    """The gateway as people of the demo see it, and the installation behind it."""

    def __init__(self, installation: Any, small_study: Callable[..., Any]) -> None:
        self.installation, self.small_study = installation, small_study
        self.fhir, self.archive = installation.fhir, installation.archive
        self.base = installation.tree.urls["gateway"]
        self._tokens = Tokens(installation.tree.urls["issuer"], installation.tree.directory)
        radiologist = {"resourceType": "Practitioner", "id": "demo-radiologist"}
        self.fhir.put({**radiologist, "name": [{"family": "Oyama", "given": ["Yuki"]}]})

    def token(self, persona: str) -> str:
        return self._tokens.get(persona, "user", SCOPES)

    def call(
        self,
        task_id: str,
        operation: str,
        persona: str,
        body: Json | None = None,
        version: str = "",
    ) -> requests.Response:
        headers = {**JSON, "Authorization": f"Bearer {self.token(persona)}"}
        if version:
            headers["If-Match"] = f'W/"{version}"'
        url = f"{self.base}/Task/{task_id}/${operation}"
        return requests.post(url, json=body, headers=headers, timeout=60)

    def review(self, task_id: str, body: Json, version: str = "1") -> requests.Response:
        return self.call(task_id, "review", "radiologist", body, version)

    def analysed(self, *, join: bool = True) -> tuple[str, Json, list[Any]]:
        """(study UID, review Task, instances) of a new patient's study that is analysed."""
        patient = self.installation.patient()
        if join:
            self.join(patient.patient_id.lower())
        (series,) = self.small_study(patient)
        uid = self.installation.store(series)
        self.installation.wait_done(uid)
        (task,) = self.installation.results(uid)["Task"]
        return uid, task, series

    def join(self, patient_id: str) -> None:
        """Make a patient a member of the radiologist's program."""
        found = self.fhir.find("Group", PROGRAM)
        group = found or {"resourceType": "Group", "id": PROGRAM, "type": "person", "actual": True}
        entity = {"entity": {"reference": f"Patient/{patient_id}"}}
        self.fhir.put({**group, "member": [*group.get("member", []), entity]})

    def seen(self, task_id: str) -> None:
        """Wait until the gateway knows that the Task's patient is in the program."""
        headers = {"Authorization": f"Bearer {self.token('radiologist')}"}
        url = f"{self.base}/Task/{task_id}"
        self.installation.wait_for(
            lambda: requests.get(url, headers=headers, timeout=60).status_code == 200,
            "a patient in the program",
        )

    def member(self, uid: str, name: str, side: str = "51440002") -> Json:
        """The member of a measurement; both lungs unless another side is named."""
        (found,) = (
            o
            for o in self.installation.results(uid)["Observation"]
            if o["code"]["coding"][0]["code"] == name
            and o["component"][0]["valueCodeableConcept"]["coding"][0]["code"] == side
        )
        return found

    def versions(self, uid: str) -> dict[str, str]:
        """Version of everything clinical that the first work on a study wrote."""
        return {
            f"{kind}/{item['id']}": item["meta"]["versionId"]
            for kind, items in self.installation.results(uid).items()
            for item in items
            if kind in ("Observation", "RiskAssessment", "DetectedIssue")
        }


@pytest.fixture(scope="module")
def desk(installation, small_study) -> Desk:
    return Desk(installation, small_study)


def statuses(desk: Desk, uid: str, *kinds: str) -> set[str]:
    results = desk.installation.results(uid)
    return {item["status"] for kind in kinds for item in results[kind]}


def test_accept_and_everything_that_is_refused_before(desk: Desk) -> None:
    uid, task, _ = desk.analysed()
    desk.seen(task["id"])
    body = parameters("accept")
    for persona in ("coordinator", "clinician", "administrator"):
        refused = desk.call(task["id"], "review", persona, body, "1")
        assert refused.status_code == 403, persona
    assert desk.call(task["id"], "review", "radiologist", body).status_code == 428
    assert desk.review(task["id"], body, "9").status_code == 412
    wrong = desk.review(task["id"], parameters("modify"))
    assert (wrong.status_code, wrong.json()["issue"][0]["expression"]) == (400, ["Parameters"])
    assert statuses(desk, uid, "Observation", "RiskAssessment") == {"preliminary"}

    answer = desk.review(task["id"], body)
    assert (answer.status_code, answer.headers["ETag"]) == (200, 'W/"2"'), answer.text
    assert answer.json()["owner"] == {"reference": "Practitioner/demo-radiologist"}
    assert statuses(desk, uid, "Observation", "RiskAssessment", "DetectedIssue") == {"final"}
    repeated = desk.review(task["id"], body)
    assert (repeated.status_code, repeated.json()) == (200, answer.json())
    assert desk.review(task["id"], parameters("reject"), "2").status_code == 409
    audited = desk.installation.wait_for(
        lambda: desk.fhir.search(
            "AuditEvent",
            {"patient": task["for"]["reference"], "agent": "Practitioner/demo-radiologist"},
        ),
        "the review in the audit",
    )
    assert audited


def test_modify_leaves_a_trail_and_a_corrected_sr(desk: Desk) -> None:
    uid, task, _ = desk.analysed()
    desk.seen(task["id"])
    target = desk.member(uid, "laa-950")
    machine = target["valueQuantity"]["value"]
    assert machine > 5
    answer = desk.review(task["id"], parameters("modify", (target["id"], 3.5, "%")))
    assert answer.status_code == 200, answer.text

    changed = desk.fhir.read("Observation", target["id"])
    assert (changed["status"], changed["valueQuantity"]["value"]) == ("amended", 3.5)
    old = desk.fhir.read("Observation", f"{target['id']}/_history/1")
    assert old["valueQuantity"]["value"] == machine
    assert statuses(desk, uid, "RiskAssessment", "DetectedIssue") == {"cancelled"}
    (trail,) = (o["valueReference"] for o in answer.json()["output"] if "valueReference" in o)
    provenance = desk.fhir.read(*trail["reference"].split("/"))
    assert provenance["contained"][0]["valueQuantity"]["value"] == machine

    done = desk.installation.wait_for(
        lambda: (
            (t := desk.fhir.read("Task", task["id"]))["businessStatus"]["coding"][0]["code"]
            == "done"
            and t
        ),
        "the corrected SR",
    )
    assert done["status"] == "completed"
    (series,) = (s for s in desk.archive.list_series(uid) if s.modality == "SR")
    assert series.instance_count == 2
    successor = desk.archive.instance_metadata(
        uid, series.series_instance_uid, review_dicom_uid(task["id"], "sr")
    )
    assert (successor.VerificationFlag, successor.CompletionFlag) == ("VERIFIED", "COMPLETE")
    assert str(successor.VerifyingObserverSequence[0].VerifyingObserverName) == "Oyama^Yuki"
    panel = next(o for o in desk.installation.results(uid)["Observation"] if o.get("hasMember"))
    named = {item["value"] for item in panel["identifier"]}
    assert f"urn:oid:{successor.SOPInstanceUID}" in named

    row = desk.installation.wait_for(
        lambda: desk.installation.repository.review(task["id"]), "the count"
    )
    assert (row.outcome, row.model_id, row.model_version) == ("modify", "lung-density", "1.0.0")
    (difference,) = row.differences
    assert difference["difference"] == pytest.approx(machine - 3.5)
    nothing_new(desk, uid, runs=1)


def nothing_new(desk: Desk, uid: str, runs: int) -> None:
    """The bridge takes what we stored for no grown study."""
    desk.installation.wait_for(
        lambda: desk.installation.repository.archive_study(uid).state == "bridged",
        "a compared study",
    )
    study = desk.fhir.read("ImagingStudy", imaging_study_id(uid))
    assert study["meta"]["versionId"] == "1"
    assert {series["modality"]["code"] for series in study["series"]} == {"CT"}
    assert len(desk.installation.runs(uid)) == runs


def test_reject_withdraws_the_result_in_both_places(desk: Desk) -> None:
    uid, task, _ = desk.analysed()
    desk.seen(task["id"])
    answer = desk.review(task["id"], parameters("reject"))
    assert answer.status_code == 200, answer.text
    kinds = ("Observation", "RiskAssessment", "DetectedIssue")
    assert statuses(desk, uid, *kinds) == {"entered-in-error"}
    assert answer.json()["statusReason"]["coding"][0]["code"] == "wrong-outline"
    note = desk.installation.wait_for(
        lambda: next((s for s in desk.archive.list_series(uid) if s.modality == "KO"), None),
        "the note of rejection",
    )
    assert note.instance_count == 1
    time.sleep(3)
    nothing_new(desk, uid, runs=1)


def test_of_many_decisions_at_once_exactly_one_wins(desk: Desk) -> None:
    uid, task, _ = desk.analysed()
    desk.seen(task["id"])
    service = ReviewService(desk.fhir, Queue(), Registry(), Metrics())
    start = threading.Barrier(6)

    def gateway(body: Json) -> str:
        start.wait()
        return str(desk.review(task["id"], body).status_code)

    def other(name: str) -> str:
        start.wait()
        try:
            service.review(task["id"], Reviewer(name), request("accept"), "1", allow)
        except ConflictError:
            return "409"
        return "200"

    modified = parameters("modify", (desk.member(uid, "perc15")["id"], -900, "[hnsf'U]"))
    with ThreadPoolExecutor(6) as pool:
        attempts = [
            pool.submit(gateway, parameters("reject")),
            pool.submit(gateway, modified),
            *(pool.submit(other, name) for name in ("a", "b", "c", "d")),
        ]
        answers = sorted(attempt.result() for attempt in attempts)
    assert answers == ["200", *["409"] * 5]
    decided = desk.fhir.read("Task", task["id"])
    outcome = decided["output"][0]["valueCodeableConcept"]["coding"][0]["code"]
    expected = {"accept": {"final"}, "reject": {"entered-in-error"}, "modify": {"final", "amended"}}
    assert statuses(desk, uid, "Observation") == expected[outcome]
    reviews = [
        p
        for p in desk.fhir.search("Provenance", {"target": f"Task/{task['id']}"})
        if "activity" in p
    ]
    assert len(reviews) == 1


def test_a_patient_of_another_program_stays_out_of_reach(desk: Desk) -> None:
    uid, task, _ = desk.analysed(join=False)
    for operation, body in (("review", parameters("accept")), ("claim", None), ("release", None)):
        answer = desk.call(task["id"], operation, "radiologist", body, "1")
        assert answer.status_code in (403, 404), operation
    assert statuses(desk, uid, "Observation") == {"preliminary"}
    assert desk.fhir.read("Task", task["id"])["meta"]["versionId"] == "1"


def test_claim_release_and_the_worklist(desk: Desk) -> None:
    uid, task, _ = desk.analysed()
    desk.seen(task["id"])
    claimed = desk.call(task["id"], "claim", "coordinator")
    assert (claimed.status_code, claimed.json()["status"]) == (200, "accepted"), claimed.text
    assert desk.call(task["id"], "claim", "radiologist").status_code == 409
    assert desk.review(task["id"], parameters("accept"), "2").status_code == 409
    assert desk.call(task["id"], "release", "radiologist").status_code == 403
    assert desk.call(task["id"], "release", "coordinator").json()["status"] == "requested"
    headers = {"Authorization": f"Bearer {desk.token('radiologist')}"}
    query = {"status": "requested", "patient": task["for"]["reference"]}
    worklist = requests.get(f"{desk.base}/Task", params=query, headers=headers, timeout=60).json()
    assert [entry["resource"]["id"] for entry in worklist["entry"]] == [task["id"]]
    assert desk.call(task["id"], "claim", "radiologist").status_code == 200
    assert desk.review(task["id"], parameters("accept"), "4").status_code == 200
    assert statuses(desk, uid, "Observation") == {"final"}


def test_no_machine_changes_what_was_signed(desk: Desk, tmp_path: Path) -> None:
    uid, task, series = desk.analysed()
    desk.seen(task["id"])
    target = desk.member(uid, "laa-950")
    body = parameters("modify", (target["id"], 3.5, "%"))
    assert desk.review(task["id"], body).status_code == 200
    signed = desk.versions(uid)

    workflow = desk.installation.enqueue_again(imaging_study_id(uid))
    run = desk.installation.wait_for(
        lambda: (r := desk.installation.repository.run(workflow)) and r.finished_at and r,
        "the rerun",
    )
    assert run.reason == "already-written"
    assert desk.versions(uid) == signed

    more = copy.deepcopy(series[:12])
    for instance in more:
        instance.AcquisitionNumber = 9
        instance.SOPInstanceUID = generate_uid()
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    desk.installation.store(more)
    desk.installation.wait_for(
        lambda: len([r for r in desk.installation.runs(uid) if r.state == "done"]) == 2,
        "the grown study",
    )
    grown = desk.versions(uid)
    assert {url: grown[url] for url in signed} == signed
    assert len(grown) > len(signed)

    newer = newer_registry(tmp_path)
    analyze = AnalyzeService.build(
        desk.fhir,
        desk.archive,
        newer,
        load_rules(None),
        desk.installation.settings.limits,
        lambda: shipped_states(newer),
    )
    prepared = analyze.prepare(imaging_study_id(uid))
    (job,) = prepared.jobs
    outcome = analyze.analyze(uid, job)
    assert {result.model.version for result in outcome.results} == {"9.9.9"}
    analyze.publish(prepared, outcome.results, datetime.now(UTC))
    newest = desk.versions(uid)
    assert {url: newest[url] for url in signed} == signed
    second = {url for url in grown if url not in signed}
    assert {desk.fhir.read(*url.split("/"))["status"] for url in second} == {"cancelled"}


def newer_registry(folder: Path) -> Registry:
    """The shipped services under a newer version."""
    source = Path(models.__file__).parent / "lung_density" / "manifest.yaml"
    target = folder / "lung_density" / "manifest.yaml"
    target.parent.mkdir()
    shutil.copy(source, target)
    target.write_text(target.read_text().replace("version: 1.0.0", "version: 9.9.9"))
    return Registry(folder)


def test_a_review_whose_program_died_is_followed_all_the_same(desk: Desk) -> None:
    """The transaction stands, but nothing was queued: the leader finds it."""
    uid, task, _ = desk.analysed()
    service = ReviewService(desk.fhir, Queue(), Registry(), Metrics())
    target = desk.member(uid, "perc15")
    asked = request("modify", (target["id"], -905.0, "[hnsf'U]"))
    service.review(task["id"], Reviewer(f"sub-{uuid.uuid4().hex[:6]}"), asked, "1", allow)
    desk.installation.wait_for(
        lambda: desk.fhir.read("Task", task["id"])["businessStatus"]["coding"][0]["code"] == "done",
        "the corrected SR",
    )
    (series,) = (s for s in desk.archive.list_series(uid) if s.modality == "SR")
    assert series.instance_count == 2
