"""Parameters of `$risk-score`, read strictly, and the answers of its routes."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from charts import concept, measured, nodule, patient
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fhir_ext.auth.grant import Grant, Persona, SmartScope
from fhir_ext.errors import BadRequestError, UnprocessableError
from fhir_ext.gateway.access import SCOPE_KEY, Access
from fhir_ext.gateway.interaction import Interaction, Kind
from fhir_ext.outcome import install_error_handlers
from operations.risk_score.definition import DEFINITION
from operations.risk_score.parameters import (
    needs_conversion,
    parse_parameters,
    parse_query,
    read_body,
)
from operations.risk_score.routes import risk_score_router
from operations.risk_score.service import RiskScoreService

TODAY = date(2026, 3, 1)

#: The routes look at the clock.
RECENT = (datetime.now(UTC).date() - timedelta(days=20)).isoformat()

#: The published example of the PREVENT equations, women: 14.7 % for the first outcome.
PREVENT = {
    "age": {"valueQuantity": {"value": 50, "system": "http://unitsofmeasure.org", "code": "a"}},
    "sex": {"valueCode": "female"},
    "total-cholesterol": {
        "valueQuantity": {"value": 200, "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    },
    "hdl": {"valueQuantity": {"value": 45, "system": "http://unitsofmeasure.org", "code": "mg/dL"}},
    "systolic-bp": {
        "valueQuantity": {"value": 160, "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
    },
    "bp-treated": {"valueBoolean": True},
    "statin": {"valueBoolean": False},
    "diabetes": {"valueBoolean": True},
    "smoker": {"valueBoolean": False},
    "egfr": {
        "valueQuantity": {
            "value": 90,
            "system": "http://unitsofmeasure.org",
            "code": "mL/min/{1.73_m2}",
        }
    },
    "bmi": {"valueQuantity": {"value": 35, "system": "http://unitsofmeasure.org", "code": "kg/m2"}},
}


def parameters(*models: str, inputs: dict | None = None, **more: Any) -> dict:
    found: list[dict] = [{"name": "model", "valueCode": model} for model in models]
    for name, value in (inputs or {}).items():
        part = [{"name": "name", "valueCode": name}, {"name": "value", **value}]
        found.append({"name": "input", "part": part})
    found += more.get("extra", [])
    return {"resourceType": "Parameters", "parameter": found}


def parse(resource: Any, level: str = "instance"):
    return parse_parameters(read_body(json.dumps(resource).encode()), level, TODAY)


def wrong(resource: Any, level: str = "instance") -> list:
    with pytest.raises(BadRequestError) as caught:
        parse(resource, level)
    return list(caught.value.issues)


def test_everything_that_the_definition_names_is_understood() -> None:
    extra = [
        {"name": "asOf", "valueDate": "2026-01-31"},
        {"name": "persist", "valueBoolean": True},
        {"name": "allowPreliminary", "valueBoolean": True},
    ]
    asked = parse(parameters("prevent", "pce", "prevent", inputs=PREVENT, extra=extra))
    assert asked.models == ("prevent", "pce")
    assert asked.given["systolic-bp"].value == 160
    assert asked.as_of == date(2026, 1, 31)
    assert asked.persist and asked.allow_preliminary
    names = {item["name"] for item in DEFINITION["parameter"] if item["use"] == "in"}
    assert names == {"model", "input", "asOf", "persist", "allowPreliminary", "subject"}


def test_what_is_left_out_has_a_default() -> None:
    asked = parse(parameters("mayo"))
    assert (asked.as_of, asked.persist, asked.allow_preliminary) == (TODAY, False, False)


@pytest.mark.parametrize(
    ("extra", "where"),
    [
        ({"name": "mdoel", "valueCode": "prevent"}, "Parameters.parameter[1]"),
        ({"valueCode": "prevent"}, "Parameters.parameter[1]"),
        ({"name": "model", "valueString": "prevent"}, "Parameters.parameter[1]"),
        ({"name": "model", "valueCode": 7}, "Parameters.parameter[1].value"),
        ({"name": "persist", "valueBoolean": "true"}, "Parameters.parameter[1].value"),
        ({"name": "persist", "valueCode": "true"}, "Parameters.parameter[1]"),
        ({"name": "asOf", "valueDate": "2026-01"}, "Parameters.parameter[1].value"),
        ({"name": "asOf", "valueDate": "2026-02-30"}, "Parameters.parameter[1].value"),
        ({"name": "asOf", "valueDateTime": "2026-01-01T00:00:00Z"}, "Parameters.parameter[1]"),
        ({"name": "asOf", "valueDate": "2026-01-01", "part": []}, "Parameters.parameter[1]"),
        ({"name": "input", "valueCode": "age"}, "Parameters.parameter[1]"),
        ({"name": "subject", "valueReference": {"reference": "Patient/1"}},
         "Parameters.parameter[1]"),
        ("model", "Parameters.parameter[1]"),
    ],
)  # fmt: skip
def test_what_is_not_defined_is_refused_with_its_place(extra, where) -> None:
    (issue,) = wrong(parameters("prevent", extra=[extra]))
    assert issue.expression == where


def test_a_singleton_comes_once() -> None:
    twice = [{"name": "asOf", "valueDate": "2026-01-01"}] * 2
    (issue,) = wrong(parameters("prevent", extra=twice))
    assert issue.expression == "Parameters.parameter[2].value"


def test_everything_wrong_is_told_at_once() -> None:
    extra = [{"name": "x"}, {"name": "persist", "valueBoolean": 1}]
    assert len(wrong(parameters("prevent", extra=extra))) == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"resourceType": "Patient"}', b'{"resourceType": NaN}',
     b'{"resourceType": "Parameters", "parameter": {}}', b"[" * 100_000,
     b'{"resourceType": "Parameters", "contained": []}'],
)  # fmt: skip
def test_what_is_no_parameters_resource_is_refused(body) -> None:
    with pytest.raises(BadRequestError):
        read_body(body)


def test_a_model_is_needed_and_must_exist() -> None:
    (issue,) = wrong({"resourceType": "Parameters"})
    assert issue.code == "required"
    with pytest.raises(UnprocessableError) as caught:
        parse(parameters("framingham"))
    assert caught.value.code == "unknown-model"
    assert "framingham" not in caught.value.message, "nothing of the caller is repeated"


def test_a_date_in_the_future_is_refused() -> None:
    later = [{"name": "asOf", "valueDate": "2026-03-03"}]
    (issue,) = wrong(parameters("prevent", extra=later))
    assert "future" in issue.diagnostics
    ahead = [{"name": "asOf", "valueDate": "2026-03-02"}]
    assert parse(parameters("prevent", extra=ahead)), "somewhere it is tomorrow already"


def test_inputs_that_cannot_be_used_are_422_each_with_its_place() -> None:
    bad = {**PREVENT, "hdl": {"valueBoolean": True}, "unheard": {"valueBoolean": True}}
    with pytest.raises(UnprocessableError) as caught:
        parse(parameters("prevent", inputs=bad))
    places = [issue.expression for issue in caught.value.issues]
    assert len(places) == 2 and all(place.startswith("Parameters.parameter[") for place in places)


def test_the_type_level_names_a_subject_to_persist() -> None:
    keep = [{"name": "persist", "valueBoolean": True}]
    assert wrong(parameters("prevent", extra=keep), "type")
    named = [*keep, {"name": "subject", "valueReference": {"reference": "Patient/p-1"}}]
    assert parse(parameters("prevent", extra=named), "type").subject == "p-1"
    for reference in ("Group/1", "http://x.org/Patient/1", "Patient/1/_history/2", "Patient/"):
        other = [{"name": "subject", "valueReference": {"reference": reference}}]
        assert wrong(parameters("prevent", extra=other), "type")


@pytest.mark.parametrize(
    ("pairs", "good"),
    [
        ([("model", "prevent"), ("model", "pce"), ("asOf", "2026-01-01")], True),
        ([("model", "prevent"), ("allowPreliminary", "true")], True),
        ([("model", "prevent"), ("persist", "false"), ("_format", "json")], True),
        ([("model", "prevent"), ("persist", "true")], False),
        ([("model", "prevent"), ("input", "age=50")], False),
        ([("model", "prevent"), ("subject", "Patient/1")], False),
        ([("model", "prevent"), ("allowPreliminary", "yes")], False),
        ([("model", "prevent"), ("_format", "xml")], False),
        ([("model", "prevent"), ("patient", "1")], False),
        ([("asOf", "2026-01-01")], False),
    ],
)
def test_a_get_has_models_and_a_date(pairs, good) -> None:
    if good:
        assert parse_query(pairs, TODAY).models[0] == "prevent"
    else:
        with pytest.raises(BadRequestError):
            parse_query(pairs, TODAY)


def test_only_other_units_are_converted_outside_of_the_event_loop() -> None:
    assert not needs_conversion(parameters("prevent", inputs=PREVENT))
    kpa = {"value": 16, "system": "http://unitsofmeasure.org", "code": "kPa"}
    assert needs_conversion(parameters("prevent", inputs={"systolic-bp": {"valueQuantity": kpa}}))


# Routes, with an access as the gateway gives it


def bundle(*resources: dict) -> dict:
    return {"resourceType": "Bundle", "entry": [{"resource": item} for item in resources]}


class FakeFhir:
    """A Patient and some Observations behind `batch`."""

    def __init__(self, *observations: dict) -> None:
        self.observations = observations
        self.queries: list[str] = []
        self.patient = patient()
        self.written: list[dict] = []

    def batch(self, queries):
        self.queries += queries
        return [self._answer(query) for query in queries]

    def _answer(self, query: str):
        if query.partition("?")[0] == "Patient/p" or query.startswith("Patient?_id=p&"):
            return self.patient if query == "Patient/p" else bundle(self.patient)
        if query.startswith("Observation?"):
            return bundle(*self.observations)
        return bundle() if "?" in query else None

    def search(self, kind, params, limit=0):
        return []

    def transaction_once(self, bundle):
        self.written.append(bundle)
        return {}


def access(*scopes: str, patients: tuple[str, ...] = ("p",)) -> Access:
    granted = []
    for scope in scopes:
        kind, _, letters = scope.partition(".")
        granted.append(SmartScope("user", kind, frozenset(letters)))
    grant = Grant("sub", "client", frozenset({Persona.CLINICIAN}), tuple(granted), 0.0)
    return Access(
        grant=grant,
        interaction=Interaction(Kind.OPERATION, "POST", "Patient", "p", operation="risk-score"),
        request_id="r",
        allowed_types=lambda letter, kind: any(s.covers(kind, frozenset(letter)) for s in granted),
        allowed_patient=lambda patient_id: patient_id in patients,
    )


def client(fhir: FakeFhir, given: Access) -> TestClient:
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(risk_score_router(RiskScoreService(fhir)))

    async def with_access(scope, receive, send):
        await app({**scope, SCOPE_KEY: given}, receive, send)

    return TestClient(with_access)


ALL = ("*.cruds",)
FHIR = {"content-type": "application/fhir+json"}


def post(caller: TestClient, path: str, resource: Any, headers: dict = FHIR):
    return caller.post(path, content=json.dumps(resource), headers=headers)


def test_all_inputs_given_need_no_server() -> None:
    fhir = FakeFhir()
    answer = post(client(fhir, access(*ALL)), "/RiskAssessment/$risk-score",
                  parameters("prevent", inputs=PREVENT))  # fmt: skip
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/fhir+json"
    total = answer.json()["prediction"][0]["probabilityDecimal"]
    assert total == pytest.approx(14.68, abs=0.005), "percent, as R4 has it"
    assert fhir.queries == []


def test_several_models_are_a_collection_in_order() -> None:
    inputs = {**PREVENT, "race": {"valueCode": "white"}}
    answer = post(client(FakeFhir(), access(*ALL)), "/RiskAssessment/$risk-score",
                  parameters("pce", "prevent", inputs=inputs)).json()  # fmt: skip
    assert (answer["resourceType"], answer["type"]) == ("Bundle", "collection")
    models = [e["resource"]["method"]["coding"][0]["code"] for e in answer["entry"]]
    assert models == ["pce", "prevent"]


def test_the_caller_goes_before_the_chart_and_the_source_is_said() -> None:
    fhir = FakeFhir(measured("39156-5", 22, "kg/m2", RECENT, resource_id="bmi"))
    given = {name: value for name, value in PREVENT.items() if name not in ("bmi", "sex")}
    answer = post(client(fhir, access(*ALL)), "/Patient/p/$risk-score",
                  parameters("prevent", inputs=given)).json()  # fmt: skip
    notes = [note["text"] for note in answer["note"]]
    assert "Age: 50 years, given by caller" in notes
    assert any("22 kg/m2" in text and "Observation/bmi" in text for text in notes)
    assert {"reference": "Observation/bmi"} in answer["basis"]


def test_a_nodule_described_from_two_sides_is_said() -> None:
    fhir = FakeFhir(nodule(8.0, RECENT, resource_id="n"))
    inputs = {
        "ever-smoker": {"valueBoolean": True},
        "prior-extrathoracic-cancer": {"valueBoolean": False},
    }
    caller = client(fhir, access(*ALL))
    answer = post(caller, "/Patient/p/$risk-score", parameters("mayo", inputs=inputs)).json()
    assert "one nodule is not checked" not in json.dumps(answer)
    larger = {"valueQuantity": {"value": 9, "system": "http://unitsofmeasure.org", "code": "mm"}}
    inputs["nodule-diameter"] = larger
    answer = post(caller, "/Patient/p/$risk-score", parameters("mayo", inputs=inputs)).json()
    assert "one nodule is not checked" in json.dumps(answer["note"])


def test_missing_inputs_are_422_and_all_are_listed_with_their_codes() -> None:
    fhir = FakeFhir({**measured("2093-3", 200, "mg/dL", RECENT), "valueQuantity": {
        "value": 200, "unit": "mg/dL"}})  # fmt: skip
    answer = client(fhir, access(*ALL)).get("/Patient/p/$risk-score?model=pce&model=prevent")
    assert answer.status_code == 422
    issues = answer.json()["issue"]
    missing = {i["diagnostics"].split()[0] for i in issues if i["code"] == "required"}
    assert {"race", "total-cholesterol", "hdl", "egfr", "bmi", "statin"} <= missing
    assert any("http://loinc.org|2093-3" in issue["diagnostics"] for issue in issues)
    assert [i["severity"] for i in issues if i["details"]["coding"][0]["code"] ==
            "unusable-value"] == ["information"]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "path", "status"),
    [
        (access(*ALL), "/Patient/q/$risk-score?model=prevent", 403),
        (access(*ALL, patients=("q",)), "/Patient/q/$risk-score?model=prevent", 404),
        (access("Observation.rs"), "/Patient/p/$risk-score?model=prevent", 403),
        (access(*ALL), "/Patient/p/$risk-score?model=prevent&persist=true", 400),
        (access(*ALL), "/Patient/a%20b/$risk-score?model=prevent", 400),
    ],
)
def test_refusals_of_a_get(given, path, status) -> None:
    answer = client(FakeFhir(), given).get(path)
    assert answer.status_code == status
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_a_body_must_be_fhir_json() -> None:
    caller = client(FakeFhir(), access(*ALL))
    body = parameters("prevent", inputs=PREVENT)
    assert post(caller, "/RiskAssessment/$risk-score", body, {"content-type": "text/xml"}
                ).status_code == 415  # fmt: skip
    assert post(caller, "/RiskAssessment/$risk-score?model=pce", body).status_code == 400


def test_what_the_token_may_not_read_is_not_looked_at() -> None:
    fhir = FakeFhir(measured("39156-5", 22, "kg/m2", RECENT))
    scopes = ("RiskAssessment.r", "Condition.s")
    answer = client(fhir, access(*scopes)).get("/Patient/p/$risk-score?model=prevent")
    assert answer.status_code == 422
    (asked,) = fhir.queries
    assert asked.startswith("Patient?_id=p&_revinclude=Condition:patient&")
    assert "MedicationStatement" not in asked
    missing = [i["diagnostics"].split()[0] for i in answer.json()["issue"]]
    assert {"age", "sex", "bmi"} <= set(missing)


def test_a_restricted_scope_restricts_the_search() -> None:
    fhir = FakeFhir()
    given = access("RiskAssessment.r", "Observation.s")
    narrow = SmartScope("user", "Observation", frozenset("s"), (("category", "laboratory"),))
    odd = SmartScope("user", "Observation", frozenset("s"), (("_has:Group:x", "y"),))
    grant = Grant("sub", "client", given.grant.personas, (given.grant.scopes[0], narrow, odd), 0.0)
    confined = Access(grant, given.interaction, "r", given.allowed_types, given.allowed_patient)
    client(fhir, confined).get("/Patient/p/$risk-score?model=prevent")
    observed = [query for query in fhir.queries if query.startswith("Observation?")]
    assert len(observed) == 1 and "category=laboratory" in observed[0]


def test_keeping_needs_the_right_to_create_and_writes_once() -> None:
    keep = [{"name": "persist", "valueBoolean": True}]
    body = parameters("prevent", inputs=PREVENT, extra=keep)
    reading = access("RiskAssessment.rs", "Patient.r")
    assert post(client(FakeFhir(), reading), "/Patient/p/$risk-score", body).status_code == 403
    fhir = FakeFhir()
    answer = post(client(fhir, access(*ALL)), "/Patient/p/$risk-score", body)
    assert answer.status_code == 200
    (bundle,) = fhir.written
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert kinds == ["Device", "RiskAssessment", "Provenance"]
    assert bundle["entry"][1]["resource"] == answer.json()
    agents = bundle["entry"][2]["resource"]["agent"]
    assert agents[1]["who"]["identifier"]["value"] == "sub"
    assert agents[1]["onBehalfOf"]["identifier"]["value"] == "client"


def test_the_dead_are_not_scored() -> None:
    fhir = FakeFhir()
    fhir.patient = patient(deceasedDateTime="2020-01-01")
    answer = client(fhir, access(*ALL)).get("/Patient/p/$risk-score?model=prevent")
    assert answer.status_code == 422 and "died" in answer.text


def test_the_patient_is_noted_for_the_audit() -> None:
    given = access(*ALL)
    client(FakeFhir(), given).get("/Patient/p/$risk-score?model=prevent")
    assert given.seen == {"p"}


def test_a_concept_of_another_system_is_not_ours() -> None:
    fhir = FakeFhir({**measured("39156-5", 22, "kg/m2", RECENT),
                     "code": concept("urn:other", "39156-5")})  # fmt: skip
    answer = client(fhir, access(*ALL)).get("/Patient/p/$risk-score?model=prevent")
    assert "bmi is missing" in answer.text
