"""Scores that are computed again: which findings, which scores, and never twice."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest
from charts import SCT, concept, low_attenuation, nodule, observation, patient
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fhir_ext.errors import NotFoundError
from fhir_ext.resources.risk_record import inputs_of, kept_assessment, record_bundle
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.repository import Repository
from operations.risk_score.catalogue import MODELS
from operations.risk_score.inputs import input_value
from operations.risk_score.rescore import Rescorer, read_finding
from subscriptions.hooks import FINDINGS
from subscriptions.intake.routes import SECRET_HEADER, hook_router
from subscriptions.rescore import CURSOR, Rescore, sweep_findings

SECRET = "a-secret-of-sixteen-or-more"
SCORED = "2026-03-01T08:00:00.000+00:00"
FOUND = "2026-03-02T09:00:00.000+00:00"

GIVEN = {
    "age": 60.0,
    "sex": "female",
    "family-lung-cancer": False,
    "emphysema": False,
    "nodule-diameter": 6.0,
    "nodule-type": "solid",
    "upper-lobe": True,
    "nodule-count": 1.0,
    "spiculated": False,
}


def stamped(resource: dict, when: str) -> dict:
    return {**resource, "meta": {**resource.get("meta", {}), "versionId": "1", "lastUpdated": when}}


def kept(model: str = "brock", when: str = SCORED, **changes) -> dict:
    values = {**GIVEN, **changes}
    reads = MODELS[model].reads
    inputs = {n: input_value(n, v, source="caller") for n, v in values.items() if n in reads}
    return stamped(kept_assessment(MODELS[model].compute(inputs, when[:10]), "p"), when)


def finding(**more) -> dict:
    seen = nodule(14.0, "2026-03-01", resource_id="n", **more)
    return stamped(seen, FOUND)


class FakeFhir:
    """Resources in memory; what is written gets a time after the finding."""

    def __init__(self, *resources: dict) -> None:
        self.stored = {(r["resourceType"], r["id"]): r for r in resources}
        self.written: list[dict] = []

    def read(self, kind, resource_id):
        if (kind, resource_id) not in self.stored:
            raise NotFoundError("no such resource")
        return copy.deepcopy(self.stored[(kind, resource_id)])

    def batch(self, queries):
        return [self._answer(query) for query in queries]

    def _answer(self, query):
        kind, _, rest = query.partition("?")
        if not rest:
            return self.stored.get(tuple(kind.split("/")))
        wanted = [kind] if kind != "Patient" else ["Patient", "Condition"]
        found = [r for (name, _), r in self.stored.items() if name in wanted]
        return {"resourceType": "Bundle", "entry": [{"resource": r} for r in found]}

    def search(self, kind, params, limit=0):
        assert params["patient"] == "p"
        found = [r for (name, _), r in self.stored.items() if name == kind]
        return sorted(found, key=lambda r: r["meta"]["lastUpdated"], reverse=True)

    def transaction_once(self, bundle):
        for entry in bundle["entry"]:
            resource = stamped(entry["resource"], "2026-03-02T09:00:01.000+00:00")
            self.stored[(resource["resourceType"], resource["id"])] = resource
            self.written.append(resource)
        return {}

    def kinds(self):
        return [r["resourceType"] for r in self.written]


PERSON = patient(birthDate="1966-03-02")


def test_a_finding_gives_a_new_score_from_what_was_given_and_what_was_seen() -> None:
    old = kept()
    fhir = FakeFhir(PERSON, old, finding())
    (new,) = Rescorer(fhir).rescore("n")
    assert fhir.kinds() == ["Device", "RiskAssessment", "Provenance"]
    assert new["occurrenceDateTime"] == "2026-03-02", "the day of the finding, not of the run"
    inputs = {item.name: item for item in inputs_of(new)}
    assert (inputs["nodule-diameter"].plain, inputs["nodule-diameter"].source) == (14.0, "imaging")
    assert (inputs["emphysema"].plain, inputs["emphysema"].source) == (False, "caller")
    assert (inputs["age"].plain, inputs["age"].source) == (60.0, "chart"), "not the age of then"
    trail = fhir.written[-1]
    assert {"role": "revision", "what": {"reference": f"RiskAssessment/{old['id']}"}} in (
        trail["entity"]
    )
    assert "agent" in trail and len(trail["agent"]) == 1, "nobody asked"


def test_again_it_changes_nothing() -> None:
    fhir = FakeFhir(PERSON, kept(), finding())
    handler = Rescore(Rescorer(fhir))
    handler({"observation_id": "n"})
    count = len(fhir.written)
    handler({"observation_id": "n"})
    assert len(fhir.written) == count


def test_without_a_birth_date_the_given_age_stays() -> None:
    person = {**PERSON}
    del person["birthDate"]
    (new,) = Rescorer(FakeFhir(person, kept(), finding())).rescore("n")
    age = next(item for item in inputs_of(new) if item.name == "age")
    assert (age.plain, age.source) == (60.0, "caller")


@pytest.mark.parametrize(
    "resources",
    [
        (kept(), finding(status="preliminary")),
        (kept(), finding(status="entered-in-error")),
        (kept(when="2026-03-02T10:00:00.000+00:00"), finding()),
        ({**kept(), "status": "entered-in-error"}, finding()),
        ({**kept(), "identifier": []}, finding()),
        (kept(), finding(study=None)),
        (finding(),),
        (kept(),),
        (kept("mayo", **{"ever-smoker": True, "prior-extrathoracic-cancer": False}),
         stamped(low_attenuation(9.0, "2026-03-01", resource_id="n"), FOUND)),
    ],
    ids=["preliminary", "withdrawn", "already-seen", "score-withdrawn", "not-ours",
         "not-computable", "no-score", "no-finding", "not-read-by-the-model"],
)  # fmt: skip
def test_what_is_left_alone(resources) -> None:
    fhir = FakeFhir(PERSON, *resources)
    assert Rescorer(fhir).rescore("n") == []
    assert fhir.written == []


def test_a_finding_that_makes_no_difference_gives_no_score() -> None:
    old = kept(emphysema=True)
    known = {"resourceType": "Condition", "id": "c", "code": concept(SCT, "87433001"),
             "subject": {"reference": "Patient/p"}}  # fmt: skip
    first = stamped(low_attenuation(9.0, "2026-03-01", resource_id="n"), FOUND)
    fhir = FakeFhir(PERSON, known, old, first)
    assert len(Rescorer(fhir).rescore("n")) == 1, "the chart says now what the caller said"
    later = {**first, "id": "m"}
    later["meta"] = {**first["meta"], "lastUpdated": "2026-03-02T11:00:00.000+00:00"}
    fhir.stored[("Observation", "m")] = later
    assert Rescorer(fhir).rescore("m") == []


def test_what_is_a_finding() -> None:
    calcium = stamped(observation(concept(SCT, "450360000"), "2026-03-01", valueInteger=4), FOUND)
    found = read_finding(calcium)
    assert found is not None and found.names == {"agatston"}
    assert found.day.isoformat() == "2026-03-02"
    assert read_finding({**calcium, "code": concept(SCT, "1")}) is None
    assert read_finding({**calcium, "subject": {"reference": "Group/1"}}) is None


def test_a_kept_score_is_written_over_nothing() -> None:
    bundle = record_bundle([kept()], datetime(2026, 3, 1, tzinfo=UTC))
    guarded = [e["request"].get("ifMatch") for e in bundle["entry"][1:]]
    assert all(guarded) and len(guarded) == 2


# Hook and sweep


class FakeQueue:
    def __init__(self) -> None:
        self.chores: dict[str, dict] = {}

    def enqueue_chore(self, name, key, payload):
        self.chores.setdefault(f"{name}/{key}", dict(payload))
        return f"{name}/{key}"


def test_hook_and_sweep_fall_on_the_same_chore(tmp_path) -> None:
    queue = FakeQueue()
    app = FastAPI()
    app.include_router(hook_router(queue, SECRET))
    headers = {SECRET_HEADER: SECRET, "If-Match": 'W/"3"'}
    answer = TestClient(app).put("/hooks/Observation/o-1", headers=headers, content=b"{}")
    assert answer.status_code == 204
    assert queue.chores == {"rescore/Observation/o-1/3": {"observation_id": "o-1"}}
    wrong = TestClient(app, raise_server_exceptions=False).put(
        "/hooks/Observation/o-2", headers={**headers, SECRET_HEADER: "x"}, content=b"{}"
    )
    assert wrong.status_code >= 400 and len(queue.chores) == 1

    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    repository = Repository(engine)
    asked = []

    class Pages:
        def pages(self, kind, params):
            asked.append((kind, params))
            meta = {"versionId": "3", "lastUpdated": FOUND}
            yield {"entry": [{"resource": {"id": "o-1", "meta": meta}}]}

    assert sweep_findings(Pages(), queue, repository, timedelta(minutes=5)) == 1
    assert len(queue.chores) == 1
    kind, params = asked[0]
    assert kind == "Observation" and params["status"] == "final,amended,corrected"
    assert repository.cursor(CURSOR) == "2026-03-02T09:00:00.000000+00:00"
    engine.dispose()


def test_the_subscription_asks_for_what_the_table_reads() -> None:
    assert FINDINGS.criteria.startswith("Observation?code=")
    for token in ("https://radelement.org|RDES195", "http://snomed.info/sct|450360000", "laa-950"):
        assert token in FINDINGS.criteria
    assert FINDINGS.criteria.endswith("&status=final,amended,corrected")
