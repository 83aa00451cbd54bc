"""What a recall makes of one piece of work: withdrawn, listed, or left alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from recall_samples import REASON, RECALL, STARTED, counts_of
from result_samples import MODEL, context, resources, result

from fhir_ext.resources import codes
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.ids import device_id, recall_provenance_id, recall_review_id
from fhir_ext.resources.recall import (
    Counts,
    Group,
    counts_for,
    is_settled,
    is_withdrawn,
    recall_bundle,
    recall_of,
    summary_task,
    withdrawn,
)

Json = dict[str, Any]

MOMENT = STARTED + timedelta(minutes=1)


def group(**statuses: str) -> Group:
    """A result as the server holds it; statuses by type."""
    of = result()
    bundle = result_bundle(of, context(of))
    (provenance,) = resources(bundle, "Provenance")
    found = []
    for kind in ("Observation", "RiskAssessment", "DetectedIssue", "Task"):
        for item in resources(bundle, kind):
            meta = {**item.get("meta", {}), "versionId": "3", "lastUpdated": "x"}
            found.append({**item, "meta": meta, "status": statuses.get(kind, item["status"])})
    return Group(provenance, tuple(found))


def written(bundle: Json, kind: str) -> list[Json]:
    return [e for e in bundle["entry"] if e["resource"]["resourceType"] == kind]


def test_everything_unsigned_is_withdrawn_over_the_version_that_was_read() -> None:
    found = group()
    bundle = recall_bundle(RECALL, found, None, MOMENT)
    kinds = ("Observation", "RiskAssessment", "DetectedIssue", "Task")
    entries = [e for kind in kinds for e in written(bundle, kind)]
    assert len(entries) == len(found.resources) == len(found.unsigned)
    assert {e["request"]["ifMatch"] for e in entries} == {'W/"3"'}
    assert all(is_withdrawn(e["resource"]) for e in entries)
    assert all("versionId" not in e["resource"]["meta"] for e in entries)
    labels = {label["code"] for e in entries for label in e["resource"]["meta"].get("security", [])}
    assert labels == {"AIAST"}


@pytest.mark.parametrize("kind", ["Observation", "RiskAssessment"])
def test_the_reason_stands_in_the_note(kind: str) -> None:
    item = next(r for r in group().resources if r["resourceType"] == kind)
    *before, note = withdrawn(item, RECALL)["note"]
    assert before == item.get("note", [])
    assert note["text"] == f"Recalled: {REASON}"


def test_a_task_says_why_and_an_issue_has_no_note() -> None:
    by_kind = {r["resourceType"]: r for r in group().resources}
    task = withdrawn(by_kind["Task"], RECALL)
    assert task["statusReason"]["text"] == REASON
    assert task["statusReason"]["coding"][0]["code"] == "model-recalled"
    assert "note" not in withdrawn(by_kind["DetectedIssue"], RECALL)


def test_the_provenance_names_who_and_why_and_not_the_version() -> None:
    found = group()
    (entry,) = written(recall_bundle(RECALL, found, None, MOMENT), "Provenance")
    trail = entry["resource"]
    assert trail["id"] == recall_provenance_id(found.provenance["id"])
    assert len(trail["target"]) == len(found.resources)
    assert f"Device/{device_id(MODEL)}" not in str(trail["agent"])
    assert trail["agent"][0]["who"]["identifier"]["value"] == "ops"
    assert trail["reason"][0]["text"] == REASON
    assert trail["recorded"] > trail["occurredDateTime"]


@pytest.mark.parametrize("status", ["final", "amended", "corrected"])
def test_signed_results_stay_and_are_listed(status: str) -> None:
    signed = {"Observation": status, "RiskAssessment": status, "DetectedIssue": status}
    found = group(**signed, Task="completed")
    bundle = recall_bundle(RECALL, found, None, MOMENT)
    assert [e["request"]["url"] for e in bundle["entry"][1:]] == [f"Task/{found.review_id}"]
    task = bundle["entry"][1]["resource"]
    assert task["id"] == recall_review_id(found.provenance["id"])
    assert len(task["input"]) == len(found.signed) == len(found.resources) - 1
    assert task["for"] == {"reference": found.patient}
    assert task["code"]["coding"][0]["code"] == "recall-review"
    assert task["partOf"] == [{"reference": f"Task/{RECALL.task_id}"}]
    # With an identifier of ours the gateway would let nobody complete it.
    assert "identifier" not in task


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error", "completed", "rejected"])
def test_what_does_not_count_any_more_is_left_alone(status: str) -> None:
    kinds = ("Observation", "RiskAssessment", "DetectedIssue", "Task")
    found = group(**dict.fromkeys(kinds, status))
    assert is_settled(found, None)
    assert counts_for(found, None) == Counts(groups=1)


@pytest.mark.parametrize(
    "status", ["draft", "requested", "received", "accepted", "ready", "in-progress", "on-hold"]
)
def test_every_open_task_is_closed(status: str) -> None:
    (task,) = (r for r in group(Task=status).unsigned if r["resourceType"] == "Task")
    assert withdrawn(task, RECALL)["status"] == "entered-in-error"


def test_a_score_that_rests_on_a_withdrawn_number_is_listed() -> None:
    found = group()
    score = {"resourceType": "RiskAssessment", "id": "score", "status": "final"}
    with_score = Group(found.provenance, found.resources, (score,))
    bundle = recall_bundle(RECALL, with_score, None, MOMENT)
    (task,) = (
        e["resource"]
        for e in written(bundle, "Task")
        if e["resource"]["id"] == with_score.review_id
    )
    assert [i["valueReference"]["reference"] for i in task["input"]] == ["RiskAssessment/score"]
    assert counts_for(with_score, None).reviews == 1


def test_a_task_that_a_human_dealt_with_is_not_opened_again() -> None:
    found = group(Observation="final", Task="completed")
    bundle = recall_bundle(RECALL, found, None, MOMENT)
    task = {**written(bundle, "Task")[-1]["resource"], "meta": {"versionId": "2"}}
    done = {**task, "status": "completed"}
    assert not any(
        e["resource"]["id"] == task["id"]
        for e in written(recall_bundle(RECALL, found, done, MOMENT), "Task")
    )
    same = recall_bundle(RECALL, found, task, MOMENT)
    assert not any(e["resource"]["id"] == task["id"] for e in written(same, "Task"))
    grown = recall_bundle(RECALL, found, {**task, "input": []}, MOMENT)
    (entry,) = (e for e in written(grown, "Task") if e["resource"]["id"] == task["id"])
    assert entry["request"]["ifMatch"] == 'W/"2"'


def test_the_summary_gives_back_recall_and_counts_and_no_patient() -> None:
    counts = Counts(groups=4, withdrawn=30, signed=13, reviews=1)
    running = summary_task(RECALL, counts, finished=False, moment=MOMENT)
    done = summary_task(RECALL, counts, finished=True, moment=MOMENT)
    assert (running["status"], done["status"]) == ("in-progress", "completed")
    assert "end" not in running["executionPeriod"]
    assert recall_of(done) == RECALL
    assert counts_of(done) == counts
    assert "Patient" not in str(done)
    assert {o["type"]["coding"][0]["code"] for o in done["output"]} == {
        item.code for item in codes.RECALL_OUTPUT.codes
    }
