"""The body of `$review` is read strictly, and everything that is wrong has its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from review_samples import REASON, parameters

from fhir_ext.errors import BadRequestError
from fhir_ext.resources import codes
from operations.review.parameters import Change, read_request, require_empty

CHANGE = ("o-1", 3.5, "%")


def wrong(body: Any) -> list[tuple[str | None, str]]:
    """(expression, diagnostics) of everything that is refused."""
    with pytest.raises(BadRequestError) as caught:
        read_request(body)
    assert caught.value.status == 400
    assert {issue.detail for issue in caught.value.issues} == {"review-parameter"}
    return [(issue.expression, issue.diagnostics) for issue in caught.value.issues]


def places(body: Any) -> list[str | None]:
    return [place for place, _ in wrong(body)]


def test_each_outcome_is_read() -> None:
    assert read_request(parameters("accept")).outcome == "accept"
    rejected = read_request(parameters("reject"))
    assert (rejected.outcome, rejected.reason) == ("reject", REASON)
    modified = read_request(parameters("modify", CHANGE, ("o-2", -900, "[hnsf'U]")))
    assert modified.changes == (
        Change("o-1", 3.5, "%", "Parameters.parameter[2]"),
        Change("o-2", -900.0, "[hnsf'U]", "Parameters.parameter[3]"),
    )


@pytest.mark.parametrize("body", [None, [], "x", {}, {"resourceType": "Patient"}])
def test_what_is_no_parameters_resource_is_refused(body: Any) -> None:
    assert places(body)[0] == "Parameters"


def test_unknown_and_repeated_parameters_are_refused() -> None:
    body = parameters("accept")
    body["parameter"] += [
        {"name": "reviewer", "valueReference": {"reference": "Practitioner/someone-else"}},
        {"name": "outcome", "valueCode": "reject"},
        "nonsense",
    ]
    assert places(body) == [
        "Parameters.parameter[1].name",
        "Parameters.parameter[2]",
        "Parameters.parameter[3]",
    ]
    assert places({**parameters("accept"), "text": {}}) == ["Parameters"]
    assert places({"resourceType": "Parameters", "parameter": {}}) == ["Parameters.parameter"]


@pytest.mark.parametrize("value", ["maybe", "", 1, None, ["accept"], "x" * 300])
def test_outcomes_that_do_not_exist_are_refused(value: Any) -> None:
    body = {"resourceType": "Parameters", "parameter": [{"name": "outcome", "valueCode": value}]}
    assert wrong(body)


def test_an_outcome_of_another_type_is_refused() -> None:
    body = parameters("accept")
    body["parameter"][0] = {"name": "outcome", "valueString": "accept"}
    assert places(body) == ["Parameters.parameter[0]"]


@pytest.mark.parametrize(
    "value",
    [
        {},
        "outline",
        {"text": "   "},
        {"text": "x" * 5000},
        {"coding": [{}]},
        {"coding": [{"code": "x", "extension": []}]},
        {"coding": [{"code": "x", "system": 7}]},
        {"coding": "x"},
        {"text": "x", "extension": []},
    ],
)
def test_reasons_that_say_nothing_are_refused(value: Any) -> None:
    body = parameters("reject")
    body["parameter"][1]["valueCodeableConcept"] = value
    assert all(
        place and place.startswith("Parameters.parameter[1].value") for place in places(body)
    )


def test_what_an_outcome_needs_and_what_it_takes() -> None:
    for outcome in ("reject", "modify"):
        body = parameters(outcome, *([CHANGE] if outcome == "modify" else []))
        del body["parameter"][1]
        assert wrong(body) == [("Parameters", f"{outcome} needs a reason")]
    assert wrong(parameters("modify")) == [("Parameters", "modify needs a change")]
    assert places(parameters("accept", CHANGE)) == ["Parameters.parameter[1]"]
    assert places(parameters("reject", CHANGE)) == ["Parameters.parameter[2]"]
    body = parameters("accept")
    body["parameter"].append({"name": "reason", "valueCodeableConcept": REASON})
    assert wrong(body) == [("Parameters", "accept takes no reason")]
    assert wrong({"resourceType": "Parameters"}) == [("Parameters", "parameter outcome is missing")]


def test_a_target_is_changed_once() -> None:
    assert places(parameters("modify", CHANGE, CHANGE)) == ["Parameters.parameter[3]"]


@pytest.mark.parametrize(
    "reference",
    [
        "Observation/",
        "RiskAssessment/1",
        "http://elsewhere.example/Observation/1",
        "Observation/1/_history/2",
        "Observation/../Patient/1",
        "#1",
        "Observation/a b",
        7,
        None,
    ],
)
def test_targets_are_relative_references_to_observations(reference: Any) -> None:
    body = parameters("modify", CHANGE)
    body["parameter"][2]["part"][0]["valueReference"] = {"reference": reference}
    assert places(body) == ["Parameters.parameter[2].part[0].value"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"value": "3.5"}, ".value"),
        ({"value": True}, ".value"),
        ({"value": None}, ".value"),
        ({"value": float("nan")}, ".value"),
        ({"value": float("inf")}, ".value"),
        ({"value": 10**400}, ".value"),
        ({"comparator": "<"}, ""),
        ({"system": "http://example.org"}, ""),
        ({"code": ""}, ""),
        ({"code": None}, ""),
        ({"extension": []}, ""),
    ],
)
def test_numbers_are_numbers_with_a_unit(change: Any, place: str) -> None:
    body = parameters("modify", CHANGE)
    body["parameter"][2]["part"][1]["valueQuantity"].update(change)
    assert places(body) == [f"Parameters.parameter[2].part[1].value{place}"]


def test_parts_are_one_target_and_one_value() -> None:
    whole = parameters("modify", CHANGE)
    for number in (0, 1):
        body = copy.deepcopy(whole)
        del body["parameter"][2]["part"][number]
        assert places(body) == ["Parameters.parameter[2].part"]
    body = copy.deepcopy(whole)
    body["parameter"][2]["part"].append({"name": "reviewer", "valueString": "me"})
    assert places(body) == ["Parameters.parameter[2].part[2]"]
    body = copy.deepcopy(whole)
    body["parameter"][2]["valueString"] = "x"
    assert places(body) == ["Parameters.parameter[2]"]
    body = copy.deepcopy(whole)
    body["parameter"][2]["part"][1] = {"name": "value", "valueString": "3.5"}
    assert places(body) == ["Parameters.parameter[2].part[1]"]


def test_nothing_from_outside_is_quoted() -> None:
    body = parameters("modify", CHANGE)
    body["parameter"].append({"name": "Qwertzname"})
    body["parameter"][0]["valueCode"] = "Qwertzcode"
    body["parameter"][2]["part"][0]["valueReference"]["reference"] = "Qwertzref"
    assert "Qwertz" not in str(wrong(body))


def test_too_many_changes_end_early() -> None:
    body = parameters("modify", *((f"o-{n}", 1.0, "%") for n in range(600)))
    assert {text for _, text in wrong(body)} == {"parameter change is given too often"}


def test_operations_without_parameters_take_none() -> None:
    require_empty(None)
    require_empty({"resourceType": "Parameters"})
    for body in ({"resourceType": "Patient"}, parameters("accept")):
        with pytest.raises(BadRequestError):
            require_empty(body)


def test_the_definition_names_what_is_read() -> None:
    from operations.review.definitions import DEFINITIONS

    review = next(d for d in DEFINITIONS if d["code"] == "review")
    given = {p["name"]: p for p in review["parameter"] if p["use"] == "in"}
    assert set(given) == {"outcome", "reason", "change"}
    assert [part["name"] for part in given["change"]["part"]] == [
        "target",
        "value",
        "category",
        "status",
    ]
    assert given["outcome"]["binding"]["valueSet"].endswith(codes.REVIEW_OUTCOME.id)
    assert [d["code"] for d in DEFINITIONS] == ["review", "claim", "release"]
