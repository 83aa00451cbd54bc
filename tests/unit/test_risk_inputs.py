"""Inputs come in as FHIR parameters or as text, are checked, and never echo what was given."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_ext.errors import UnprocessableError
from fhir_ext.resources.codes import RISK_INPUT
from operations.risk_score.inputs import (
    INPUTS,
    caller_inputs,
    input_value,
    parse_as_of,
    parse_caller_value,
    parse_text,
    parse_texts,
)

#: As the operation publishes them.
NAMES = [
    "age",
    "sex",
    "race",
    "education",
    "bmi",
    "copd",
    "personal-cancer",
    "family-lung-cancer",
    "smoking-status",
    "ever-smoker",
    "smoker",
    "cigarettes-per-day",
    "years-smoked",
    "years-quit",
    "emphysema",
    "nodule-diameter",
    "nodule-type",
    "upper-lobe",
    "nodule-count",
    "spiculated",
    "prior-extrathoracic-cancer",
    "total-cholesterol",
    "hdl",
    "systolic-bp",
    "bp-treated",
    "lipid-treated",
    "statin",
    "diabetes",
    "egfr",
    "family-mi",
    "agatston",
]


def test_the_catalogue_has_the_published_names() -> None:
    assert list(INPUTS) == NAMES
    assert [item.code for item in RISK_INPUT.codes] == NAMES
    units = {name: item.unit for name, item in INPUTS.items() if item.unit}
    assert units == {
        "age": "a",
        "bmi": "kg/m2",
        "cigarettes-per-day": "{cigarettes}/d",
        "years-smoked": "a",
        "years-quit": "a",
        "nodule-diameter": "mm",
        "total-cholesterol": "mg/dL",
        "hdl": "mg/dL",
        "systolic-bp": "mm[Hg]",
        "egfr": "mL/min/{1.73_m2}",
        "agatston": "1",
    }


def quantity(value: Any, code: str = "mg/dL", **more: Any) -> dict[str, Any]:
    system = {"system": "http://unitsofmeasure.org"}
    return {"valueQuantity": {"value": value, "code": code, **system, **more}}


@pytest.mark.parametrize(
    ("name", "element", "expected"),
    [
        ("hdl", quantity(50), 50.0),
        ("hdl", quantity(50.5, "mg/dL", unit="mg per dL"), 50.5),
        ("hdl", {"valueQuantity": {"value": 50, "unit": "mg/dl"}}, 50.0),
        ("systolic-bp", {"valueQuantity": {"value": 120, "unit": "mmHg"}}, 120.0),
        ("age", {"valueInteger": 65}, 65.0),
        ("age", {"valueDecimal": 65.5}, 65.5),
        ("age", {"valuePositiveInt": 65}, 65.0),
        ("age", quantity(65, "a"), 65.0),
        ("education", {"valueInteger": 3}, 3.0),
        ("nodule-count", quantity(2, "1"), 2.0),
        ("copd", {"valueBoolean": True}, True),
        ("copd", {"valueBoolean": False}, False),
        ("sex", {"valueCode": "female"}, "female"),
        ("nodule-type", {"valueCode": "part-solid"}, "part-solid"),
        ("age", {"name": "value", "id": "x", "valueInteger": 65}, 65.0),
    ],
)
def test_fhir_values(name: str, element: dict[str, Any], expected: Any) -> None:
    found = parse_caller_value(name, element)
    assert found.value == expected
    assert type(found.value) is type(expected)
    assert (found.name, found.source, found.unit) == (name, "caller", INPUTS[name].unit)
    assert (found.date, found.reference, found.preliminary) == (None, None, False)


@pytest.mark.parametrize(
    ("name", "element", "code"),
    [
        ("shoe-size", {"valueInteger": 43}, "unknown-input"),
        ("age", {}, "invalid-input"),
        ("age", {"valueInteger": 65, "valueDecimal": 65.0}, "invalid-input"),
        ("age", {"valueString": "65"}, "invalid-input"),
        ("age", {"valueInteger": "65"}, "invalid-input"),
        ("age", {"valueInteger": True}, "invalid-input"),
        ("age", {"valueInteger": None}, "invalid-input"),
        ("age", {"valueBoolean": True}, "invalid-input"),
        ("age", {"valueDecimal": float("nan")}, "out-of-range"),
        ("age", {"valueDecimal": float("inf")}, "out-of-range"),
        ("age", {"valueInteger": 10**400}, "out-of-range"),
        ("age", {"valueInteger": -1}, "out-of-range"),
        ("age", {"valueInteger": 130}, "out-of-range"),
        ("age", {"valueQuantity": [65]}, "invalid-input"),
        ("age", {"valueQuantity": {"code": "a"}}, "invalid-input"),
        ("age", {"valueQuantity": {"value": 65}}, "unit-not-accepted"),
        ("age", {"valueQuantity": {"value": 65, "code": 1}}, "unit-not-accepted"),
        ("age", quantity(65, "a", comparator=">"), "invalid-input"),
        ("age", quantity(65, "a", system="http://snomed.info/sct"), "unit-not-accepted"),
        ("age", quantity("65", "a"), "invalid-input"),
        ("education", {"valueDecimal": 3.5}, "invalid-input"),
        ("education", {"valueInteger": 7}, "out-of-range"),
        ("nodule-count", {"valueInteger": 0}, "out-of-range"),
        ("copd", {"valueInteger": 1}, "invalid-input"),
        ("copd", {"valueBoolean": "true"}, "invalid-input"),
        ("sex", {"valueCode": "other"}, "invalid-input"),
        ("sex", {"valueCode": ["male"]}, "invalid-input"),
        ("sex", {"valueString": "male"}, "invalid-input"),
        ("race", {"valueCode": "martian"}, "invalid-input"),
    ],
)
def test_fhir_values_that_are_refused(name: str, element: dict[str, Any], code: str) -> None:
    with pytest.raises(UnprocessableError) as caught:
        parse_caller_value(name, element)
    assert caught.value.code == code
    for given in ("43", "martian", "other", "130", "65"):
        assert given not in caught.value.message


def parameter(name: str, **value: Any) -> dict[str, Any]:
    parts = [{"name": "name", "valueCode": name}, {"name": "value", **value}]
    return {"name": "input", "part": parts}


def parameters(*items: Any) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": list(items)}


def test_inputs_of_parameters() -> None:
    found = caller_inputs(
        parameters(
            {"name": "model", "valueCode": "mayo"},
            parameter("age", valueInteger=65),
            parameter("upper-lobe", valueBoolean=True),
        )
    )
    assert {name: item.value for name, item in found.items()} == {"age": 65.0, "upper-lobe": True}
    assert caller_inputs({}) == {}
    assert caller_inputs(parameters("nonsense")) == {}


def test_everything_wrong_is_told_at_once_with_its_place() -> None:
    with pytest.raises(UnprocessableError) as caught:
        caller_inputs(
            parameters(
                {"name": "model", "valueCode": "mayo"},
                parameter("age", valueInteger=650),
                parameter("copd", valueBoolean=True),
                parameter("copd", valueBoolean=False),
                {"name": "input", "part": [{"name": "name", "valueCode": "age"}]},
                {"name": "input"},
                {"name": "input", "part": [*parameter("age")["part"], {"name": "unit"}]},
                {"name": "input", "part": [{"name": "name"}, {"name": "value"}]},
                {"name": "input", "part": [{"name": "name"}, {"name": "name"}]},
                {"name": "input", "part": ["x"]},
            )
        )
    places = [issue.expression for issue in caught.value.issues]
    assert places == [f"Parameters.parameter[{i}]" for i in (1, 3, 4, 5, 6, 7, 8, 9)]
    assert caught.value.issues[0].detail == "out-of-range"
    assert "more than once" in caught.value.issues[1].diagnostics


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("systolic-bp=120", "systolic-bp", 120.0),
        (" age = 50 ", "age", 50.0),
        ("diabetes=true", "diabetes", True),
        ("diabetes=No", "diabetes", False),
        ("sex=female", "sex", "female"),
        ("race=White", "race", "white"),
        ("education=3", "education", 3.0),
        ("hdl=50 mg/dL", "hdl", 50.0),
        ("systolic-bp=120 mm Hg", "systolic-bp", 120.0),
    ],
)
def test_text(text: str, name: str, expected: Any) -> None:
    found = parse_text(text)
    assert (found.name, found.value) == (name, expected)


def test_text_with_a_unit() -> None:
    assert parse_text("total-cholesterol=5.2 mmol/L").value == pytest.approx(201.08, abs=0.01)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("age", "invalid-input"),
        ("age=", "invalid-input"),
        ("age=old", "invalid-input"),
        ("age=nan", "out-of-range"),
        ("age=50 kg", "unit-not-accepted"),
        ("copd=maybe", "invalid-input"),
        ("copd=1", "invalid-input"),
        ("sex=x", "invalid-input"),
        ("=3", "unknown-input"),
        ("weight=80", "unknown-input"),
    ],
)
def test_text_that_is_refused(text: str, code: str) -> None:
    with pytest.raises(UnprocessableError) as caught:
        parse_text(text)
    assert caught.value.code == code


def test_texts_are_read_together() -> None:
    assert set(parse_texts(["age=50", "sex=male"])) == {"age", "sex"}
    with pytest.raises(UnprocessableError) as caught:
        parse_texts(["age=50", "age=51", "sex=?"])
    assert [issue.expression for issue in caught.value.issues] == ["argument 2", "argument 3"]


def test_what_was_read_from_a_chart_keeps_where_it_came_from() -> None:
    found = input_value(
        "systolic-bp",
        16,
        "kPa",
        source="chart",
        date="2025-12-01",
        reference="Observation/1",
        preliminary=True,
    )
    assert found.unit == "mm[Hg]"
    assert found.value == pytest.approx(120.01, abs=0.01)
    assert (found.source, found.date, found.reference) == ("chart", "2025-12-01", "Observation/1")
    assert found.preliminary


@pytest.mark.parametrize("text", ["2026", "2026-02", "2026-02-30", "20260203", "today", ""])
def test_the_date_of_a_score_is_whole(text: str) -> None:
    with pytest.raises(UnprocessableError, match="YYYY-MM-DD"):
        parse_as_of(text)
    assert parse_as_of("2026-02-03") == "2026-02-03"
