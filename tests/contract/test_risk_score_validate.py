"""Risk scores are valid R4 under our profile in a real HAPI, and our profile says something."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from risk_samples import AS_OF, BROCK, MESA, PEOPLE, given

from fhir_ext.resources import codes
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.risk_score import risk_score_assessment
from operations.risk_score.catalogue import MODELS, NON_GATED

Json = dict[str, Any]
Errors = Callable[[Json], list[str]]
HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
PATIENT = "Patient/risk-score-validate"


@pytest.fixture(scope="module")
def session(hapi_base_url: str) -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.headers.update(HEADERS)
        loaded = opened.post(hapi_base_url, json=load_bundle(), timeout=120)
        assert loaded.status_code == 200, loaded.text
        patient = {"resourceType": "Patient", "id": PATIENT.partition("/")[2]}
        assert opened.put(f"{hapi_base_url}/{PATIENT}", json=patient, timeout=60).ok
        yield opened


@pytest.fixture(scope="module")
def errors(session: requests.Session, hapi_base_url: str) -> Errors:
    def issues(resource: Json) -> list[str]:
        url = f"{hapi_base_url}/{resource['resourceType']}/$validate"
        answer = session.post(url, json=resource, timeout=60)
        return [
            issue["diagnostics"]
            for issue in answer.json()["issue"]
            if issue["severity"] in ("error", "fatal")
        ]

    return issues


def by_caller(model: str) -> Json:
    return risk_score_assessment(MODELS[model].compute(given(PEOPLE[model]), AS_OF), None)


def from_chart(model: str) -> Json:
    inputs = given(
        PEOPLE[model], "chart", date="2025-12-01", reference="Observation/risk-score-validate"
    )
    return risk_score_assessment(
        MODELS[model].compute(inputs, AS_OF),
        {"reference": PATIENT},
        resource_id="risk-score-validate",
        identifier={"system": f"{codes.CANONICAL}/identifier/inference-key", "value": model},
        performer={"display": "fhir-ext"},
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("build", [by_caller, from_chart])
def test_every_score_is_valid(errors: Errors, build: Callable[[str], Json], model: str) -> None:
    resource = build(model)
    assert errors(resource) == []


def test_variants_are_valid(errors: Errors) -> None:
    plain = {name: value for name, value in BROCK.items() if name != "spiculated"}
    without = MODELS["brock"].compute(given(plain), AS_OF)
    assert errors(risk_score_assessment(without, None)) == []
    imaging = given(MESA, "imaging", date="2026-01-05T10:15:00+01:00", preliminary=True)
    score = MODELS["mesa-chd"].compute(imaging, AS_OF, flags=[NON_GATED])
    resource = risk_score_assessment(score, {"reference": PATIENT})
    assert resource["status"] == "preliminary"
    assert errors(resource) == []


def _without_inputs(resource: Json) -> None:
    del resource["extension"]


def _fraction(resource: Json) -> None:
    resource["prediction"][0]["probabilityDecimal"] = 101


def _advice(resource: Json) -> None:
    resource["mitigation"] = "Take a statin."


def _unknown_input(resource: Json) -> None:
    resource["extension"][0]["extension"][0]["valueCode"] = "shoe-size"


def _no_source(resource: Json) -> None:
    parts = resource["extension"][0]["extension"]
    resource["extension"][0]["extension"] = [p for p in parts if p["url"] != "source"]


def _unknown_model(resource: Json) -> None:
    resource["method"]["coding"][0]["code"] = "crystal-ball"


def _no_date(resource: Json) -> None:
    del resource["occurrenceDateTime"]


@pytest.mark.parametrize(
    "spoil",
    [_without_inputs, _fraction, _advice, _unknown_input, _no_source, _unknown_model, _no_date],
)
def test_the_profile_refuses_what_is_no_score(
    errors: Errors, spoil: Callable[[Json], None]
) -> None:
    resource = copy.deepcopy(by_caller("prevent"))
    spoil(resource)
    assert errors(resource) != []


def test_a_kept_score_is_found_by_patient_and_model(
    session: requests.Session, hapi_base_url: str
) -> None:
    resource = from_chart("mesa-chd")
    observation = {
        "resourceType": "Observation",
        "id": "risk-score-validate",
        "status": "final",
        "code": {"text": "anything"},
    }
    for item in (observation, resource):
        url = f"{hapi_base_url}/{item['resourceType']}/{item['id']}"
        assert session.put(url, json=item, timeout=60).ok
    found = session.get(
        f"{hapi_base_url}/RiskAssessment",
        params={"subject": PATIENT, "method": f"{codes.RISK_MODEL.url}|mesa-chd"},
        headers={"Cache-Control": "no-cache"},
        timeout=60,
    ).json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == [resource["id"]]
