"""What a decision writes, who may decide, and what a repeat or a race ends in."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest
from result_samples import ISSUE, KERNEL, measurements, result
from review_samples import (
    ANN,
    BOB,
    REASON,
    MemoryFhir,
    Queue,
    allow,
    member_id,
    request,
    stored,
    task_of,
)

from fhir_ext.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionFailed,
    UnprocessableError,
)
from fhir_ext.resources.ids import dicom_uid, result_id, review_dicom_uid
from fhir_ext.resources.result_reading import result_of, sr_instance_uid_of
from fhir_ext.resources.review import Reviewer
from fhir_ext.resources.review_reading import machine_values, read_decided, read_reviewed
from fhir_ext.results import ModelIdentity, Region, ServiceResult
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.service import ReviewService

REGISTRY = Registry()
#: The version that is installed, so that its rule can be asked.
INSTALLED = REGISTRY.manifest("lung-density").identity()


def made(**changes: Any) -> ServiceResult:
    return result(model=INSTALLED, **changes)


def service(fhir: MemoryFhir, queue: Queue | None = None, metrics: Metrics | None = None):
    return ReviewService(fhir, queue or Queue(), REGISTRY, metrics or Metrics())


def statuses(fhir: MemoryFhir, kind: str) -> set[str]:
    return {v[-1]["status"] for url, v in fhir.store.items() if url.startswith(f"{kind}/")}


def labels(resource: dict[str, Any]) -> set[str]:
    return {label["code"] for label in resource["meta"]["security"]}


def trail(fhir: MemoryFhir, task: dict[str, Any]) -> dict[str, Any]:
    (found,) = (o["valueReference"] for o in task["output"] if "valueReference" in o)
    return fhir.read(*found["reference"].split("/"))


def test_accept_signs_everything_and_keeps_the_label() -> None:
    of, metrics, queue = made(), Metrics(), Queue()
    fhir = stored(of)
    task = service(fhir, queue, metrics).review(task_of(of), ANN, request("accept"), "1", allow)
    assert (task["status"], task["owner"]) == ("completed", {"reference": "Practitioner/ann"})
    for kind in ("Observation", "RiskAssessment", "DetectedIssue"):
        assert statuses(fhir, kind) == {"final"}
    laa = fhir.read("Observation", member_id(of, "laa-950"))
    assert labels(laa) == {"AIAST"}
    assert laa["performer"] == [{"reference": "Practitioner/ann"}]
    provenance = trail(fhir, task)
    types = [agent["type"]["coding"][0]["code"] for agent in provenance["agent"]]
    assert types == ["verifier", "assembler"]
    assert "contained" not in provenance
    assert "reason" not in provenance
    assert queue.chores == [], "no number changed, so the SR stands"
    page = generate_latest(metrics.registry).decode()
    assert 'fhir_ext_reviews_total{outcome="accept",service="lung-density"} 1.0' in page


def test_modify_keeps_what_the_machine_said() -> None:
    of, queue = made(), Queue()
    fhir = stored(of)
    target = member_id(of, "perc15", "left-lung")
    asked = request("modify", (target, -940.5, "[hnsf'U]"))
    task = service(fhir, queue).review(task_of(of), ANN, asked, "1", allow)
    changed = fhir.read("Observation", target)
    assert changed["status"] == "amended"
    assert changed["valueQuantity"]["value"] == -940.5
    assert labels(changed) == {"CLINAST"}
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    assert panel["status"] == "amended"
    assert labels(panel) == {"AIAST"}
    assert sr_instance_uid_of(panel) == review_dicom_uid(task["id"], "sr")
    assert fhir.read("Observation", member_id(of, "laa-950"))["status"] == "final"
    assert statuses(fhir, "RiskAssessment") == {"final"}, "it does not rest on the number"
    provenance = trail(fhir, task)
    assert provenance["reason"] == [REASON]
    (kept,) = provenance["contained"]
    assert kept["valueQuantity"]["value"] == -951.3
    assert machine_values(provenance) == {target: kept}
    assert "meta" not in kept, "R4 dom-4 and dom-5"
    assert {"reference": f"#{kept['id']}", "type": "Observation"} in [
        entity["what"] for entity in provenance["entity"]
    ]
    versions = {e["what"].get("display") for e in provenance["entity"]}
    assert "Observation version 1" in versions
    assert queue.chores == [("correct-sr", task["id"], {"task_id": task["id"]})]


def test_a_number_below_the_threshold_takes_risk_and_issue_back() -> None:
    of = made()
    fhir = stored(of)
    asked = request("modify", (member_id(of, "laa-950"), 3.5, "%"))
    service(fhir).review(task_of(of), ANN, asked, "1", allow)
    assert statuses(fhir, "RiskAssessment") == {"cancelled"}
    assert statuses(fhir, "DetectedIssue") == {"cancelled"}
    risk = fhir.read("RiskAssessment", result_id(of.inference_key, "risk", "emphysema"))
    assert risk["note"][0]["text"] == "Outline wrong"


def test_a_number_above_the_threshold_restates_the_risk() -> None:
    of = made()
    fhir = stored(of)
    asked = request("modify", (member_id(of, "laa-950"), 22.0, "%"))
    service(fhir).review(task_of(of), ANN, asked, "1", allow)
    risk = fhir.read("RiskAssessment", result_id(of.inference_key, "risk", "emphysema"))
    assert risk["status"] == "amended"
    assert "is 22.0 %" in risk["prediction"][0]["rationale"]
    issue = fhir.read("DetectedIssue", result_id(of.inference_key, "issue", "emphysema-on-ct"))
    assert (issue["status"], "is 22.0 %" in issue["detail"]) == ("amended", True)


def test_a_number_that_crosses_the_threshold_makes_a_risk() -> None:
    low = tuple(
        m if m.name != "laa-950" else type(m)(m.name, m.region, m.unit, value=2.0)
        for m in measurements()
    )
    of = made(measurements=low, risks=(), issues=())
    for known, issues in ((False, {"final"}), (True, set())):
        fhir = stored(of)
        if known:
            fhir.put({"resourceType": "Condition", "id": "c-1"})
        asked = request("modify", (member_id(of, "laa-950"), 12.0, "%"))
        task = service(fhir).review(task_of(of), ANN, asked, "1", allow)
        assert statuses(fhir, "RiskAssessment") == {"final"}
        assert statuses(fhir, "DetectedIssue") == issues
        made_id = result_id(of.inference_key, "risk", "emphysema")
        assert {"reference": f"RiskAssessment/{made_id}"} in trail(fhir, task)["target"]


def test_without_the_same_version_nobody_says_what_follows() -> None:
    other = ModelIdentity("lung-density", "0.9.0", "Lung density", "00" * 32)
    of = result(model=other)
    fhir = stored(of)
    asked = request("modify", (member_id(of, "laa-950"), 22.0, "%"))
    service(fhir).review(task_of(of), ANN, asked, "1", allow)
    assert statuses(fhir, "RiskAssessment") == {"cancelled"}
    assert statuses(fhir, "DetectedIssue") == {"cancelled"}


def test_a_withheld_number_may_be_given() -> None:
    of = made(withheld={"perc15": KERNEL})
    fhir = stored(of)
    target = member_id(of, "perc15")
    task = service(fhir).review(
        task_of(of), ANN, request("modify", (target, -930, "[hnsf'U]")), "1", allow
    )
    given = fhir.read("Observation", target)
    assert given["valueQuantity"]["value"] == -930
    assert "dataAbsentReason" not in given
    assert "dataAbsentReason" in trail(fhir, task)["contained"][0]
    decided = read_decided(fhir, task)
    assert [(d.name, d.region, d.difference) for d in decided.differences] == [
        ("perc15", Region.LUNGS, None)
    ]


def test_reject_withdraws_everything_with_the_reason() -> None:
    of, queue = made(), Queue()
    fhir = stored(of)
    task = service(fhir, queue).review(task_of(of), ANN, request("reject"), "1", allow)
    for kind in ("Observation", "RiskAssessment", "DetectedIssue"):
        assert statuses(fhir, kind) == {"entered-in-error"}
    assert task["statusReason"] == REASON
    assert trail(fhir, task)["reason"] == [REASON]
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    assert panel["note"][-1]["text"] == "Outline wrong"
    assert sr_instance_uid_of(panel) == dicom_uid(of.inference_key, "sr")
    assert [name for name, *_ in queue.chores] == ["correct-sr"]


def test_a_repeat_changes_nothing_even_with_an_old_version() -> None:
    of, queue = made(), Queue()
    fhir = stored(of)
    asked = request("modify", (member_id(of, "laa-950"), 3.5, "%"))
    first = service(fhir, queue).review(task_of(of), ANN, asked, "1", allow)
    before = {url: len(versions) for url, versions in fhir.store.items()}
    assert service(fhir, queue).review(task_of(of), ANN, asked, "1", allow) == first
    assert {url: len(versions) for url, versions in fhir.store.items()} == before
    assert len(queue.chores) == 2, "what a dead program did not queue is queued by a repeat"


@pytest.mark.parametrize("reviewer", [ANN, BOB, Reviewer("sub-ann", "Practitioner/other")])
def test_another_decision_is_a_conflict(reviewer: Reviewer) -> None:
    of = made()
    fhir = stored(of)
    laa = member_id(of, "laa-950")
    service(fhir).review(task_of(of), ANN, request("modify", (laa, 3.5, "%")), "1", allow)
    others = [request("accept"), request("reject"), request("modify", (laa, 3.6, "%"))]
    for asked in others if reviewer == ANN else [request("modify", (laa, 3.5, "%"))]:
        with pytest.raises(ConflictError) as caught:
            service(fhir).review(task_of(of), reviewer, asked, "2", allow)
        assert caught.value.code == "review-decided"


def test_the_version_must_fit() -> None:
    of = made()
    fhir = stored(of)
    with pytest.raises(PreconditionFailed):
        service(fhir).review(task_of(of), ANN, request("accept"), "7", allow)
    assert statuses(fhir, "Observation") == {"preliminary"}


def test_whoever_is_quicker_wins_and_the_other_is_told() -> None:
    of = made()
    fhir = stored(of)

    def bob() -> None:
        service(fhir).review(task_of(of), BOB, request("reject"), "1", allow)

    fhir.before_transaction.append(bob)
    with pytest.raises(ConflictError) as caught:
        service(fhir).review(task_of(of), ANN, request("accept"), "1", allow)
    assert caught.value.code == "review-decided"
    assert statuses(fhir, "Observation") == {"entered-in-error"}


def test_a_result_that_changed_meanwhile_is_read_again() -> None:
    of = made()
    fhir = stored(of)
    laa = member_id(of, "laa-950")

    def touched() -> None:
        fhir.put({**fhir.read("Observation", laa), "note": [{"text": "looked at"}]})

    fhir.before_transaction.append(touched)
    service(fhir).review(task_of(of), ANN, request("accept"), "1", allow)
    assert fhir.read("Observation", laa)["note"] == [{"text": "looked at"}]


def test_a_superseded_result_cannot_be_decided() -> None:
    of = made()
    fhir = stored(of)
    panel = fhir.read("Observation", result_id(of.inference_key, "panel"))
    fhir.put({**panel, "status": "cancelled"})
    with pytest.raises(ConflictError) as caught:
        service(fhir).review(task_of(of), ANN, request("accept"), "1", allow)
    assert caught.value.code == "review-closed"
    fhir.put({**fhir.read("Task", task_of(of)), "status": "cancelled"})
    with pytest.raises(ConflictError) as caught:
        service(fhir).claim(task_of(of), ANN, None, allow)
    assert caught.value.code == "review-closed"


def test_changes_must_fit_their_targets() -> None:
    of = made(withheld={"perc15": KERNEL})
    fhir = stored(of)
    signed = member_id(of, "lung-volume")
    fhir.put({**fhir.read("Observation", signed), "status": "final"})
    panel = result_id(of.inference_key, "panel")
    asked = request(
        "modify",
        (member_id(of, "laa-950"), 3.5, "1"),
        (member_id(of, "laa-950", "left-lung"), 7.25, "%"),
        ("elsewhere", 1, "%"),
        (panel, 1, "%"),
        (signed, 4000, "mL"),
        (member_id(of, "perc15"), -930, "%"),
    )
    with pytest.raises(UnprocessableError) as caught:
        service(fhir).review(task_of(of), ANN, asked, "1", allow)
    places = [issue.expression for issue in caught.value.issues]
    assert places == [f"Parameters.parameter[{n}]" for n in range(2, 8)]
    assert statuses(fhir, "RiskAssessment") == {"preliminary"}


def test_who_may_not_see_the_patient_changes_nothing() -> None:
    of = made()
    fhir = stored(of)
    asked: list[str] = []

    def refuse(patient_id: str) -> None:
        asked.append(patient_id)
        raise ForbiddenError("no", code="confinement")

    with pytest.raises(ForbiddenError):
        service(fhir).review(task_of(of), ANN, request("accept"), "1", refuse)
    for act in (service(fhir).claim, service(fhir).release):
        with pytest.raises(ForbiddenError):
            act(task_of(of), ANN, None, refuse)
    assert asked == ["example"] * 3
    assert len(fhir.store[f"Task/{task_of(of)}"]) == 1


def test_claim_and_release() -> None:
    of = made()
    fhir = stored(of)
    desk, task_id = service(fhir), task_of(of)
    claimed = desk.claim(task_id, ANN, "1", allow)
    assert (claimed["status"], claimed["owner"]) == ("accepted", ANN.reference)
    assert desk.claim(task_id, ANN, "1", allow) == claimed, "a repeat changes nothing"
    for attempt in (
        lambda: desk.claim(task_id, BOB, None, allow),
        lambda: desk.review(task_id, BOB, request("accept"), "2", allow),
    ):
        with pytest.raises(ConflictError) as caught:
            attempt()
        assert caught.value.code == "review-claimed"
    with pytest.raises(ForbiddenError):
        desk.release(task_id, BOB, None, allow)
    released = desk.release(task_id, BOB, None, allow, administrator=True)
    assert released["status"] == "requested"
    assert "owner" not in released
    assert desk.release(task_id, BOB, None, allow) == released
    with pytest.raises(PreconditionFailed):
        desk.claim(task_id, BOB, "1", allow)
    desk.claim(task_id, BOB, None, allow)
    decided = desk.review(task_id, BOB, request("accept"), "4", allow)
    assert decided["owner"]["identifier"]["value"] == "sub-bob"
    for act in (desk.claim, desk.release):
        with pytest.raises(ConflictError):
            act(task_id, BOB, None, allow)


def test_tasks_that_ask_for_no_review() -> None:
    of = made()
    fhir = stored(of)
    fhir.put({"resourceType": "Task", "id": "t-1", "status": "requested"})
    other = {**fhir.read("Task", task_of(of)), "id": "t-2"}
    other["code"] = {"coding": [{"code": "stuck-work"}]}
    fhir.put(other)
    for task_id in ("t-1", "t-2"):
        with pytest.raises(UnprocessableError) as caught:
            service(fhir).review(task_id, ANN, request("accept"), "1", allow)
        assert caught.value.code == "not-a-review"
    with pytest.raises(NotFoundError):
        service(fhir).review("t-3", ANN, request("accept"), "1", allow)


def test_a_result_is_read_back_as_it_was() -> None:
    of = made(withheld={"perc15": KERNEL})
    fhir = stored(of)
    reviewed = read_reviewed(fhir, fhir.read("Task", task_of(of)))
    device = fhir.read(*reviewed.panel["device"]["reference"].split("/"))
    study = fhir.read(*reviewed.panel["derivedFrom"][0]["reference"].split("/"))
    back = result_of(reviewed.panel, reviewed.members, device, study)
    assert (back.service, back.inference_key) == (of.service, of.inference_key)
    assert (back.study_instance_uid, back.series_instance_uid) == (
        of.study_instance_uid,
        of.series_instance_uid,
    )
    assert [(m.name, m.region, m.value, m.refusal) for m in back.measurements] == [
        (m.name, m.region, m.value, m.refusal) for m in of.measurements
    ]
    assert (back.model.id, back.model.version, back.model.settings_hash) == (
        INSTALLED.id,
        INSTALLED.version,
        INSTALLED.settings_hash,
    )
    assert ISSUE.known_condition
