"""A finding that becomes final computes kept scores again: HAPI, hook, queue, worker."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from charts import SCT, concept, nodule, observation, patient

from operations.risk_score.inputs import input_value
from operations.risk_score.service import RiskScoreService
from subscriptions.hooks import FINDINGS

#: What a caller gave for the first score.
BROCK = {
    "family-lung-cancer": False,
    "emphysema": True,
    "nodule-diameter": 6.0,
    "nodule-type": "solid",
    "upper-lobe": True,
    "nodule-count": 1.0,
    "spiculated": False,
}
MESA = {
    "race": "white",
    "diabetes": False,
    "smoker": False,
    "total-cholesterol": 200.0,
    "hdl": 50.0,
    "lipid-treated": False,
    "systolic-bp": 130.0,
    "bp-treated": False,
    "family-mi": False,
    "agatston": 0.0,
}


@pytest.fixture
def person(installation) -> str:
    patient_id = f"rescore-{uuid.uuid4().hex[:8]}"
    installation.fhir.put(patient(patient_id, birthDate="1960-01-01"))
    return patient_id


def _keep(installation, person: str, model: str, values: dict[str, Any]) -> dict[str, Any]:
    service = RiskScoreService(installation.fhir)
    given = {name: input_value(name, value, source="caller") for name, value in values.items()}
    scores = service.score([model], given, datetime.now(UTC).date(), patient_id=person)
    (kept,) = service.keep(scores, person)
    return kept


def _scores(installation, person: str) -> list[dict[str, Any]]:
    return installation.fhir.search("RiskAssessment", {"patient": person, "_sort": "-_lastUpdated"})


def _finding(installation, person: str, resource: dict[str, Any]) -> str:
    resource |= {"id": f"{person}-{uuid.uuid4().hex[:4]}",
                 "subject": {"reference": f"Patient/{person}"}}  # fmt: skip
    installation.fhir.put(resource)
    return f"Observation/{resource['id']}"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def test_a_new_nodule_gives_a_new_score_linked_to_the_old(installation, person) -> None:
    old = _keep(installation, person, "brock", BROCK)
    seen = nodule(14.0, _today(), study=f"ImagingStudy/{person}")
    reference = _finding(installation, person, seen)
    new = installation.wait_for(
        lambda: next((s for s in _scores(installation, person) if s["id"] != old["id"]), None),
        "a new score",
    )
    assert {"reference": reference} in new["basis"]
    before, after = (s["prediction"][0]["probabilityDecimal"] for s in (old, new))
    assert after > 3 * before, "14 mm, spiculated, instead of 6 mm, smooth"
    notes = " ".join(note["text"] for note in new["note"])
    assert "Emphysema: yes, given by caller" in notes, "what the caller gave is kept"
    (trail,) = installation.fhir.search("Provenance", {"target": f"RiskAssessment/{new['id']}"})
    revised = [e["what"]["reference"] for e in trail["entity"] if e["role"] == "revision"]
    assert revised == [f"RiskAssessment/{old['id']}"]
    assert installation.fhir.read("RiskAssessment", old["id"])["meta"]["versionId"] == "1"


def test_calcium_changes_mesa_but_not_brock_and_nothing_is_doubled(installation, person) -> None:
    mesa = _keep(installation, person, "mesa-chd", MESA)
    brock = _keep(installation, person, "brock", BROCK)
    score = observation(concept(SCT, "450360000"), _today(), valueInteger=400)
    _finding(installation, person, score)
    installation.wait_for(lambda: len(_scores(installation, person)) > 2, "a new score")
    # The sweep finds the same version again within five seconds.
    deadline = datetime.now(UTC) + timedelta(seconds=8)
    installation.wait_for(lambda: datetime.now(UTC) > deadline, "two sweeps")
    found = _scores(installation, person)
    assert len(found) == 3
    new = next(item for item in found if item["id"] not in (mesa["id"], brock["id"]))
    assert new["method"]["coding"][0]["code"] == "mesa-chd"


def test_preliminary_findings_and_people_without_scores_are_left_alone(
    installation, person
) -> None:
    bystander = f"{person}-b"
    installation.fhir.put(patient(bystander, birthDate="1960-01-01"))
    old = _keep(installation, person, "brock", BROCK)
    study = f"ImagingStudy/{person}"
    waiting = nodule(14.0, _today(), study=study, status="preliminary")
    first = _finding(installation, person, waiting)
    _finding(installation, bystander, nodule(14.0, _today(), study=study))
    deadline = datetime.now(UTC) + timedelta(seconds=7)
    installation.wait_for(lambda: datetime.now(UTC) > deadline, "hook and sweep")
    assert [item["id"] for item in _scores(installation, person)] == [old["id"]]
    assert _scores(installation, bystander) == []

    accepted = installation.fhir.read("Observation", first.partition("/")[2])
    installation.fhir.put({**accepted, "status": "final"})
    installation.wait_for(lambda: len(_scores(installation, person)) == 2, "a new score")


def test_both_subscriptions_stand(installation) -> None:
    found = installation.fhir.read("Subscription", FINDINGS.id)
    assert (found["status"], found["criteria"]) == ("active", FINDINGS.criteria)
    assert installation.ready()
