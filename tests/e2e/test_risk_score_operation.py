"""`$risk-score` through the gateway: real tokens, real HAPI."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from charts import (
    RXNORM,
    SCT,
    UCUM,
    blood_pressure,
    concept,
    condition,
    low_attenuation,
    measured,
    medication_request,
    patient,
    smoking,
)
from tokens import Tokens

#: Program of the demo's clinician.
PROGRAM = "demo-screening"

FHIR = {"content-type": "application/fhir+json"}
READ = (
    "user/RiskAssessment.rs user/Patient.rs user/Observation.rs user/Condition.rs "
    "user/MedicationRequest.rs user/FamilyMemberHistory.rs"
)
KEEP = READ.replace("user/RiskAssessment.rs", "user/RiskAssessment.crs")

Answer = tuple[int, dict[str, Any]]
Call = Callable[..., Answer]


def _day(ago: int) -> str:
    return (datetime.now(UTC).date() - timedelta(days=ago)).isoformat()


def _enrol(installation, *people: str) -> None:
    """Make people members of the program that the demo's clinician works for."""
    group = installation.fhir.find("Group", PROGRAM)
    group = group or {"resourceType": "Group", "id": PROGRAM, "type": "person", "actual": True}
    members = [{"entity": {"reference": f"Patient/{person}"}} for person in people]
    installation.fhir.put({**group, "member": [*group.get("member", ()), *members]})


@pytest.fixture(scope="module")
def outsider(installation) -> str:
    """A patient of no program."""
    person = f"risk-{uuid.uuid4().hex[:8]}"
    installation.fhir.put(patient(person))
    return person


@pytest.fixture(scope="module")
def people(installation, call) -> tuple[str, str]:
    """A woman with everything that PREVENT needs in her chart, and somebody else."""
    own, other = f"risk-{uuid.uuid4().hex[:8]}", f"risk-{uuid.uuid4().hex[:8]}"
    chart = [
        measured("2093-3", 200, "mg/dL", _day(30)),
        measured("2085-9", 1.1637, "mmol/L", _day(30)),
        measured("98979-8", 90, "mL/min/{1.73_m2}", _day(30)),
        measured("39156-5", 35, "kg/m2", _day(10)),
        blood_pressure(160, _day(10)),
        smoking("266919005", _day(10)),
        condition(concept(SCT, "44054006"), clinical="active"),
        medication_request(concept(RXNORM, "617310")),
        medication_request(concept(RXNORM, "314076")),
    ]
    born = f"{datetime.now(UTC).year - 51}-01-01"
    for person in (own, other):
        installation.fhir.put(patient(person, birthDate=born))
    for number, resource in enumerate(chart):
        resource |= {"id": f"{own}-{number}", "subject": {"reference": f"Patient/{own}"}}
        installation.fhir.put(resource)
    _enrol(installation, own, other)
    # The gateway remembers the members of a program for some seconds.
    installation.wait_for(
        lambda: call("GET", f"Patient/{other}", "user/Patient.rs")[0] == 200, "membership"
    )
    return own, other


@pytest.fixture(scope="module")
def call(tree) -> Call:
    tokens = Tokens(tree.urls["issuer"], tree.directory)
    base = tree.urls["gateway"]
    session = requests.Session()

    def ask(method: str, path: str, scope: str, body: Any = None, persona: str = "clinician",
            context: str = "user", patient_id: str | None = None) -> Answer:  # fmt: skip
        chosen = {"patient": patient_id} if patient_id else {}
        token = tokens.get(persona, context, scope, **chosen)
        answer = session.request(
            method,
            f"{base}/{path}",
            data=None if body is None else json.dumps(body),
            headers={"authorization": f"Bearer {token}", **(FHIR if body is not None else {})},
            timeout=30,
        )
        assert answer.headers["content-type"].startswith("application/fhir+json")
        return answer.status_code, answer.json()

    return ask


def parameters(*models: str, persist: bool = False, **inputs: Any) -> dict[str, Any]:
    found: list[dict] = [{"name": "model", "valueCode": model} for model in models]
    for name, value in inputs.items():
        part = [{"name": "name", "valueCode": name.replace("_", "-")}, {"name": "value", **value}]
        found.append({"name": "input", "part": part})
    if persist:
        found.append({"name": "persist", "valueBoolean": True})
    return {"resourceType": "Parameters", "parameter": found}


def amount(value: float, unit: str) -> dict[str, Any]:
    return {"valueQuantity": {"value": value, "system": UCUM, "code": unit}}


def truth(value: bool) -> dict[str, Any]:
    return {"valueBoolean": value}


def test_get_computes_from_the_chart_and_says_where_each_input_is_from(call, people) -> None:
    own, _ = people
    status, answer = call("GET", f"Patient/{own}/$risk-score?model=prevent", READ)
    assert status == 200, answer
    assert answer["subject"] == {"reference": f"Patient/{own}"}
    assert answer["status"] == "final" and "id" not in answer
    # The published example of the equations, but for one year of age and the statin.
    assert [p["probabilityDecimal"] for p in answer["prediction"]] == pytest.approx(
        [14.1, 9.0, 8.5], abs=1.0
    )
    basis = {item["reference"] for item in answer["basis"]}
    assert f"Patient/{own}" in basis
    assert {f"Observation/{own}-{n}" for n in range(6)} <= basis
    assert any(item.startswith("MedicationRequest/") for item in basis)


def test_missing_inputs_are_listed(call, people) -> None:
    _, other = people
    status, answer = call("GET", f"Patient/{other}/$risk-score?model=prevent&model=pce", READ)
    assert status == 422
    missing = [i["diagnostics"].split()[0] for i in answer["issue"] if i["code"] == "required"]
    assert missing.count("hdl") == 1 and {"egfr", "statin", "race", "smoker"} <= set(missing)
    assert "http://loinc.org|98979-8" in json.dumps(answer)


def test_the_caller_gives_what_the_chart_does_not_say(call, people) -> None:
    _, other = people
    inputs = {
        "race": {"valueCode": "white"},
        "total_cholesterol": amount(5.2, "mmol/L"),
        "hdl": amount(50, "mg/dL"),
        "systolic_bp": amount(120, "mm[Hg]"),
        "egfr": amount(90, "mL/min/{1.73_m2}"),
        "bmi": amount(24, "kg/m2"),
        "bp_treated": truth(False),
        "statin": truth(False),
        "smoker": truth(False),
        "diabetes": truth(False),
    }
    status, answer = call(
        "POST", f"Patient/{other}/$risk-score", READ, parameters("prevent", "pce", **inputs)
    )
    assert status == 200, answer
    assert answer["type"] == "collection"
    models = [e["resource"]["method"]["coding"][0]["code"] for e in answer["entry"]]
    assert models == ["prevent", "pce"]
    notes = json.dumps(answer)
    assert "given by caller" in notes and f"from Patient/{other}" in notes
    assert "race or ethnicity" in notes, "a race term is said"


def test_a_kept_score_has_its_provenance_and_a_repeat_changes_nothing(
    call, people, installation
) -> None:
    own, _ = people
    body = parameters("prevent", persist=True)
    status, first = call("POST", f"Patient/{own}/$risk-score", KEEP, body)
    assert status == 200, first
    status, again = call("POST", f"Patient/{own}/$risk-score", KEEP, body)
    assert (status, again["id"]) == (200, first["id"])
    status, read = call("GET", f"RiskAssessment/{first['id']}", KEEP)
    assert (status, read["meta"]["versionId"]) == (200, "1")
    assert read["prediction"] == first["prediction"]
    (trail,) = installation.fhir.search("Provenance", {"target": f"RiskAssessment/{first['id']}"})
    sources = {entity["what"]["reference"] for entity in trail["entity"]}
    assert {entity["role"] for entity in trail["entity"]} == {"source"}
    assert f"Observation/{own}-0" in sources
    assert len(trail["agent"]) == 2 and "onBehalfOf" in trail["agent"][1]


def test_wrong_scopes_and_other_patients_are_refused(call, people, outsider) -> None:
    own, other = people
    path = f"Patient/{own}/$risk-score"
    body = parameters("prevent", persist=True)
    for scope in ("user/Observation.rs", "user/Patient.rs"):
        assert call("GET", f"{path}?model=prevent", scope)[0] == 403
    assert call("POST", path, READ, body)[0] == 403, "may read, may not keep"
    mine = READ.replace("user/", "patient/")
    launched = {"context": "patient", "patient_id": own}
    status, answer = call("GET", f"{path}?model=prevent", mine, **launched)
    assert status == 200, answer
    for somebody in (other, outsider):
        asked = f"Patient/{somebody}/$risk-score?model=prevent"
        status, answer = call("GET", asked, mine, **launched)
        assert status == 403 and somebody not in json.dumps(answer)
    assert call("GET", f"Patient/{outsider}/$risk-score?model=prevent", READ)[0] == 403
    for persona in ("epidemiologist", "ml-engineer", "auditor"):
        assert call("GET", f"{path}?model=prevent", READ, persona=persona)[0] == 403


def test_a_type_that_no_scope_names_is_not_looked_at(call, people) -> None:
    own, _ = people
    scope = "user/RiskAssessment.rs user/Patient.rs"
    status, answer = call("GET", f"Patient/{own}/$risk-score?model=prevent", scope)
    missing = [i["diagnostics"].split()[0] for i in answer["issue"]]
    assert status == 422 and {"hdl", "diabetes", "statin"} <= set(missing)
    assert "age" not in missing


def test_bad_requests(call, people) -> None:
    own, _ = people
    path = f"Patient/{own}/$risk-score"
    assert call("GET", f"{path}?model=prevent&persist=true", KEEP)[0] == 400
    assert call("GET", path, READ)[0] == 400
    assert call("GET", f"{path}?model=framingham", READ)[0] == 422
    body = parameters("prevent")
    body["parameter"].append({"name": "patient", "valueString": "x"})
    status, answer = call("POST", path, READ, body)
    assert status == 400
    assert answer["issue"][0]["expression"] == ["Parameters.parameter[1]"]


def test_an_unknown_patient_is_404(call) -> None:
    asked = "Patient/risk-nobody/$risk-score?model=prevent"
    status, answer = call("GET", asked, READ.replace("user/", "system/"), persona="service",
                          context="system")  # fmt: skip
    assert status == 404 and answer["issue"][0]["code"] == "not-found"


def test_all_inputs_given_for_nobody(call) -> None:
    inputs = {
        "age": amount(65, "a"),
        "ever_smoker": truth(True),
        "prior_extrathoracic_cancer": truth(False),
        "nodule_diameter": amount(12, "mm"),
        "spiculated": truth(True),
        "upper_lobe": truth(True),
    }
    scope = "user/RiskAssessment.rs"
    status, answer = call("POST", "RiskAssessment/$risk-score", scope, parameters("mayo", **inputs))
    assert status == 200, answer
    assert answer["prediction"][0]["probabilityDecimal"] == pytest.approx(46.5, abs=0.05)
    status, answer = call(
        "POST", "RiskAssessment/$risk-score", scope, parameters("mayo", age=inputs["age"])
    )
    assert status == 422 and len(answer["issue"]) == 5


def test_preliminary_findings_are_used_only_when_allowed(call, people, installation) -> None:
    _, other = people
    waiting = low_attenuation(12.0, _day(1), status="preliminary")
    installation.fhir.put(
        {**waiting, "id": f"{other}-laa", "subject": {"reference": f"Patient/{other}"}}
    )
    path = f"Patient/{other}/$risk-score"
    inputs = {
        "family_lung_cancer": truth(False),
        "nodule_diameter": amount(8, "mm"),
        "nodule_type": {"valueCode": "solid"},
        "upper_lobe": truth(True),
        "nodule_count": {"valueInteger": 1},
        "spiculated": truth(False),
    }
    body = parameters("brock", **inputs)
    assert call("POST", path, READ, body)[0] == 422
    body["parameter"].append({"name": "allowPreliminary", "valueBoolean": True})
    status, answer = call("POST", path, READ, body)
    assert status == 200, answer
    assert answer["status"] == "preliminary"
    assert "preliminary" in json.dumps(answer["note"])


def test_the_operation_is_declared(call, tree) -> None:
    statement = requests.get(f"{tree.urls['gateway']}/metadata", timeout=30).json()
    declared = [
        operation["definition"]
        for resource in statement["rest"][0]["resource"]
        for operation in resource.get("operation", ())
        if operation["name"] == "risk-score"
    ]
    url = "https://w3id.org/fhir-ext/OperationDefinition/risk-score"
    assert declared and all(url in definition for definition in declared)
    # HAPI reads an OperationDefinition by id only when it is one of its own.
    status, found = call("GET", f"OperationDefinition?url={url}", "user/OperationDefinition.rs")
    assert status == 200
    assert [entry["resource"]["code"] for entry in found["entry"]] == ["risk-score"]
