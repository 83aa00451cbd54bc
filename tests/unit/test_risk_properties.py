"""What holds for every person: bounds, direction of every monotone term, and units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st
from risk_samples import AS_OF, PEOPLE, given

from fhir_ext.errors import UnprocessableError
from fhir_ext.resources.risk_score import risk_score_assessment
from fhir_ext.results import InputValue
from operations.risk_score.catalogue import MODELS
from operations.risk_score.inputs import INPUTS, input_value
from operations.risk_score.model import RiskModel

Person = dict[str, Any]


def values(model: RiskModel, name: str) -> st.SearchStrategy[Any]:
    """Values of an input for which a model holds."""
    item = INPUTS[name]
    match item.kind:
        case "boolean":
            return st.booleans()
        case "code":
            return st.sampled_from(model.codes.get(name, item.codes))
        case "integer":
            return st.integers(int(item.low), int(item.high))
        case _:
            low, high = item.low, item.high
            span = model.ranges.get(name)
            if span is not None and span.outside == "refuse":
                low, high = span.low, span.high
            return st.floats(low, high, exclude_max=span is not None and span.below)


def people(code: str) -> st.SearchStrategy[Person]:
    model = MODELS[code]
    drawn = {name: values(model, name) for name in model.required}
    kept = {name: values(model, name) for name in model.optional}
    if code == "plco-m2012":
        drawn["smoking-status"] = st.sampled_from(("current", "former"))
        drawn["cigarettes-per-day"] = st.floats(0.5, 120)
        drawn["age"] = st.floats(40, 90)
        drawn["years-smoked"] = st.floats(0, 30)
        drawn["years-quit"] = st.floats(0, 10)
    if "total-cholesterol" in drawn:
        drawn["total-cholesterol"] = st.floats(130, 320)
        drawn["hdl"] = st.floats(20, 100)
    return st.fixed_dictionaries(drawn, optional=kept).map(_consistent)


def _consistent(person: Person) -> Person:
    if person.get("smoking-status") == "current":
        return {**person, "years-quit": 0}
    return person


def percents(code: str, inputs: Mapping[str, InputValue]) -> list[float]:
    return [p.percent for p in MODELS[code].compute(inputs, AS_OF).predictions]


@pytest.mark.parametrize("code", MODELS)
@settings(max_examples=100, deadline=None)
@draw(data=st.data())
def test_every_probability_is_one(code: str, data: st.DataObject) -> None:
    person = data.draw(people(code))
    score = MODELS[code].compute(given(person), AS_OF)
    assert len(score.predictions) == len(MODELS[code].outcomes)
    for prediction in score.predictions:
        assert 0.0 <= prediction.percent <= 100.0
    assert {item.name for item in score.inputs} == set(person)
    written = risk_score_assessment(score, None)["prediction"]
    assert all(0.0 <= item["probabilityDecimal"] <= 100.0 for item in written)


UP, DOWN = 1, -1

#: Inputs in which a model is monotone: (model, input, direction, low, high, predictions).
#: Left out is what is not, such as cholesterol over age in the pooled cohort equations.
MONOTONE = [
    ("plco-m2012", "age", UP, 45, 90, 1),
    ("plco-m2012", "bmi", DOWN, 15, 60, 1),
    ("plco-m2012", "cigarettes-per-day", UP, 1, 120, 1),
    ("plco-m2012", "years-smoked", UP, 0, 30, 1),
    ("plco-m2012", "education", DOWN, 1, 6, 1),
    ("plco-m2012", "copd", UP, False, True, 1),
    ("plco-m2012", "personal-cancer", UP, False, True, 1),
    ("plco-m2012", "family-lung-cancer", UP, False, True, 1),
    ("brock", "age", UP, 20, 100, 1),
    ("brock", "nodule-diameter", UP, 1, 60, 1),
    ("brock", "nodule-count", DOWN, 1, 40, 1),
    ("brock", "emphysema", UP, False, True, 1),
    ("brock", "family-lung-cancer", UP, False, True, 1),
    ("brock", "upper-lobe", UP, False, True, 1),
    ("mayo", "age", UP, 20, 100, 1),
    ("mayo", "nodule-diameter", UP, 1, 60, 1),
    ("mayo", "spiculated", UP, False, True, 1),
    ("mayo", "upper-lobe", UP, False, True, 1),
    ("mayo", "ever-smoker", UP, False, True, 1),
    ("mayo", "prior-extrathoracic-cancer", UP, False, True, 1),
    ("pce", "systolic-bp", UP, 90, 200, 1),
    ("pce", "smoker", UP, False, True, 1),
    ("pce", "diabetes", UP, False, True, 1),
    ("prevent", "systolic-bp", UP, 110, 200, 3),
    ("prevent", "egfr", DOWN, 15, 140, 3),
    ("prevent", "smoker", UP, False, True, 3),
    ("prevent", "diabetes", UP, False, True, 3),
    ("prevent", "bmi", UP, 30, 39.9, 3),
    ("mesa-chd", "age", UP, 45, 85, 1),
    ("mesa-chd", "systolic-bp", UP, 60, 250, 1),
    ("mesa-chd", "total-cholesterol", UP, 110, 400, 1),
    ("mesa-chd", "hdl", DOWN, 10, 100, 1),
    ("mesa-chd", "diabetes", UP, False, True, 1),
    ("mesa-chd", "smoker", UP, False, True, 1),
    ("mesa-chd", "bp-treated", UP, False, True, 1),
    ("mesa-chd", "lipid-treated", UP, False, True, 1),
    ("mesa-chd", "family-mi", UP, False, True, 1),
]


@pytest.mark.parametrize(("code", "name", "direction", "low", "high", "outcomes"), MONOTONE)
@settings(max_examples=40, deadline=None)
@draw(data=st.data())
def test_monotone(
    code: str, name: str, direction: int, low: Any, high: Any, outcomes: int, data: st.DataObject
) -> None:
    person = data.draw(people(code))
    if name == "total-cholesterol":
        person["hdl"] = min(person["hdl"], 100.0)
    if isinstance(low, bool):
        pair = [low, high]
    else:
        whole = INPUTS[name].kind == "integer"
        number = st.integers(low, high) if whole else st.floats(low, high)
        pair = sorted(data.draw(st.tuples(number, number)))
    less, more = (percents(code, given({**person, name: value})) for value in pair)
    assert len(less) == outcomes
    for before, after in zip(less, more, strict=True):
        assert direction * (after - before) >= -1e-9


def test_more_calcium_is_more_risk() -> None:
    scores = [
        percents("mesa-chd", given({**PEOPLE["mesa-chd"], "agatston": score}))[0]
        for score in (0, 1, 10, 100, 400, 1000, 5000)
    ]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


#: Other units of an input, and how much of them one canonical unit is.
OTHER_UNITS = {
    "age": (("mo", 12.0),),
    "bmi": (("g/cm2", 0.1),),
    "cigarettes-per-day": (("{cigarettes}/wk", 7.0),),
    "years-smoked": (("mo", 12.0),),
    "years-quit": (("mo", 12.0),),
    "nodule-diameter": (("cm", 0.1), ("um", 1000.0)),
    "total-cholesterol": (("mmol/L", 0.02586), ("g/L", 0.01)),
    "hdl": (("mmol/L", 0.02586), ("umol/L", 25.86)),
    "systolic-bp": (("kPa", 0.133322387), ("cm[Hg]", 0.1)),
    "egfr": (("mL/s/{1.73_m2}", 1 / 60), ("L/h/{1.73_m2}", 0.06)),
}


@pytest.mark.parametrize("code", MODELS)
@settings(max_examples=40, deadline=None)
@draw(data=st.data())
def test_other_units_give_the_same_score(code: str, data: st.DataObject) -> None:
    person = data.draw(people(code))
    plain = given(person)
    other: dict[str, InputValue] = dict(plain)
    for name in OTHER_UNITS.keys() & person.keys():
        unit, factor = data.draw(st.sampled_from(OTHER_UNITS[name]))
        try:
            other[name] = input_value(name, person[name] * factor, unit, source="caller")
        except UnprocessableError:
            # At the edge of what is possible, rounding may lead outside.
            assert not INPUTS[name].low * 1.001 < person[name] < INPUTS[name].high * 0.999
    try:
        converted = percents(code, other)
    except UnprocessableError as error:
        # At the edge of a range too.
        assert error.code == "out-of-range"
        return
    assert converted == pytest.approx(percents(code, plain), rel=1e-5, abs=1e-6)
