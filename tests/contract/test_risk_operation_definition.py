"""The OperationDefinition of `$risk-score` and what it keeps, held against a real HAPI."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import pytest

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources.codes import RISK_INPUT, RISK_MODEL
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.risk_record import Asker, kept_assessment, record_bundle
from fhir_ext.settings import FhirSettings
from operations.risk_score.catalogue import MODELS
from operations.risk_score.definition import DEFINITION
from operations.risk_score.inputs import INPUTS, input_value

#: HAPI recommends a narrative (dom-6), which we do not write.
EXPECTED = "dom-6"


@pytest.fixture(scope="module")
def hapi(hapi_base_url: str) -> FhirClient:
    server = FhirClient(FhirSettings(base_url=hapi_base_url))
    server.transaction(load_bundle())
    return server


def _problems(outcome: dict) -> list[str]:
    found = [issue["diagnostics"] for issue in outcome["issue"]
             if issue["severity"] != "information"]  # fmt: skip
    return [text for text in found if EXPECTED not in text]


def test_the_definition_is_valid(hapi: FhirClient) -> None:
    assert _problems(hapi.validate(DEFINITION)) == []


def test_a_definition_that_is_not_is_found_out(hapi: FhirClient) -> None:
    wrong = copy.deepcopy(DEFINITION)
    wrong["parameter"][0]["max"] = "many"
    del wrong["system"]
    assert _problems(hapi.validate(wrong))


def test_the_definition_is_bound_to_what_there_is() -> None:
    named = {item["name"]: item for item in DEFINITION["parameter"]}
    assert named["model"]["binding"]["valueSet"].endswith("/ValueSet/risk-model")
    assert [code.code for code in RISK_MODEL.codes] == list(MODELS)
    assert {code.code for code in RISK_INPUT.codes} == set(INPUTS)
    assert named["input"]["part"][0]["binding"]["valueSet"].endswith("/ValueSet/risk-input")


def test_it_is_served_where_the_statement_points_to(hapi: FhirClient, tree) -> None:
    found = hapi.search("OperationDefinition", {"url": DEFINITION["url"]})
    assert [item["id"] for item in found] == [DEFINITION["id"]]
    assert found[0]["code"] == "risk-score"


def test_a_kept_score_and_its_provenance_are_valid(hapi: FhirClient) -> None:
    given = {
        name: input_value(name, value, source="caller")
        for name, value in {
            "age": 65.0,
            "ever-smoker": True,
            "prior-extrathoracic-cancer": False,
            "nodule-diameter": 12.0,
            "spiculated": True,
            "upper-lobe": True,
        }.items()
    }
    score = MODELS["mayo"].compute(given, "2026-03-01")
    assessment = kept_assessment(score, "risk-contract")
    bundle = record_bundle(
        [assessment],
        datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
        asker=Asker("client", "subject", "Practitioner/1"),
        revised={assessment["id"]: "RiskAssessment/before"},
    )
    for entry in bundle["entry"]:
        assert _problems(hapi.validate(entry["resource"])) == []
    provenance = bundle["entry"][-1]["resource"]
    assert provenance["entity"] == [
        {"role": "revision", "what": {"reference": "RiskAssessment/before"}}
    ]
