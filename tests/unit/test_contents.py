"""Patients named for the audit, and secrets taken out of answers at any depth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.gateway.contents import patient_ids, redact

Json = dict[str, Any]

SECRET = "Authorization: Bearer 7hQ1-hook-secret"
MASK = [
    {
        "extension": [
            {
                "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
                "valueCode": "masked",
            }
        ]
    }
]


def subscription(**channel: object) -> Json:
    return {
        "resourceType": "Subscription",
        "id": "s1",
        "status": "active",
        "criteria": "ImagingStudy?",
        "channel": {"type": "rest-hook", "endpoint": "https://hook.example/", **channel},
    }


def bundled(resource: Json, bundle_type: str = "searchset") -> Json:
    entry: Json = {"resource": resource, "search": {"mode": "match"}}
    return {"resourceType": "Bundle", "type": bundle_type, "entry": [{"response": {}}, entry]}


def contained(resource: Json) -> Json:
    return {"resourceType": "Basic", "contained": [{"resourceType": "Basic"}, resource]}


def as_parameter(resource: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": [{"name": "return", "resource": resource}]}


def as_part(resource: Json) -> Json:
    part = {"name": "a", "part": [{"name": "b", "part": [{"name": "c", "resource": resource}]}]}
    return {"resourceType": "Parameters", "parameter": [part]}


def as_outcome(resource: Json) -> Json:
    entry = {"response": {"status": "200 OK", "outcome": resource}}
    return {"resourceType": "Bundle", "type": "batch-response", "entry": [entry]}


WRAPPERS: list[Callable[[Json], Json]] = [
    lambda resource: resource,
    bundled,
    lambda resource: bundled(resource, "history"),
    lambda resource: bundled(bundled(resource), "batch-response"),
    contained,
    as_parameter,
    as_part,
    as_outcome,
    lambda resource: as_part(bundled(contained(resource))),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("header", [[SECRET], [SECRET, "X: y"], SECRET])
def test_a_channel_secret_does_not_come_out(wrap: Callable[[Json], Json], header: object) -> None:
    answer = wrap(subscription(header=header))
    assert redact(answer)
    text = orjson.dumps(answer)
    assert b"hook-secret" not in text
    assert b'"header"' not in text
    assert answer == wrap(subscription(_header=MASK))


def test_a_secret_in_an_extension_of_the_header() -> None:
    answer = subscription(header=[None], _header=[{"extension": [{"valueString": SECRET}]}])
    assert redact(answer)
    assert answer == subscription(_header=MASK)


def test_a_subscription_without_headers_is_left_alone() -> None:
    answer = bundled(subscription())
    before = copy.deepcopy(answer)
    assert not redact(answer)
    assert answer == before


def test_other_resources_keep_what_is_called_header() -> None:
    answer = bundled({"resourceType": "TestScript", "channel": {"header": ["x"]}})
    before = copy.deepcopy(answer)
    assert not redact(answer)
    assert answer == before


def test_patients_of_a_bundle() -> None:
    answer = bundled(
        {
            "resourceType": "Observation",
            "subject": {"reference": "Patient/child"},
            "performer": [{"reference": "Patient/mother"}],
            "contained": [{"resourceType": "Device", "patient": {"reference": "Patient/third"}}],
        }
    )
    answer["entry"].append({"resource": {"resourceType": "Patient", "id": "own"}})
    answer["entry"].append({"resource": {"resourceType": "Practitioner", "id": "doctor"}})
    assert patient_ids(answer) == {"child", "mother", "third", "own"}
    assert patient_ids(as_part(answer)) == {"child", "mother", "third", "own"}


@pytest.mark.parametrize(
    "odd",
    [
        {"resourceType": "Bundle", "entry": "x"},
        {"resourceType": "Bundle", "entry": [None, 1, {"resource": []}, {"response": 3}]},
        {"resourceType": "Parameters", "parameter": [{"part": 7}, "x"]},
        {"resourceType": "Subscription", "channel": []},
        {"resourceType": "Subscription"},
        {"contained": {"resourceType": "Bundle"}},
        {"resourceType": 5},
        {"resourceType": ["Patient"], "id": "x"},
        {},
    ],
    ids=str,
)
def test_odd_answers_hold_nothing(odd: Json) -> None:
    assert not redact(odd)
    assert patient_ids(odd) == frozenset()


@given(st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_any_nesting(wrappers: list[Callable[[Json], Json]]) -> None:
    answer = subscription(header=[SECRET])
    patient: Json = {"resourceType": "Patient", "id": "deep"}
    for wrap in wrappers:
        answer, patient = wrap(answer), wrap(patient)
    assert redact(answer)
    assert b"hook-secret" not in orjson.dumps(answer)
    assert patient_ids(patient) == {"deep"}
