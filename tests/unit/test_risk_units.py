"""Units: UCUM of the same dimension is converted, everything else is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from fhir_ext.errors import UnprocessableError
from operations.risk_score.inputs import INPUTS, input_value
from operations.risk_score.units import SPELLINGS, in_unit


def value(name: str, number: float, unit: str) -> float:
    found = input_value(name, number, unit, source="caller")
    assert found.unit == INPUTS[name].unit
    return float(found.value)


@pytest.mark.parametrize(
    ("name", "number", "unit", "expected"),
    [
        ("systolic-bp", 16, "kPa", 120.01),
        ("systolic-bp", 120, "mmHg", 120),
        ("systolic-bp", 120, "mm[Hg]{sitting}", 120),
        ("total-cholesterol", 5.172, "mmol/L", 200),
        ("total-cholesterol", 2, "g/L", 200),
        ("total-cholesterol", 2000, "mg/L", 200),
        ("hdl", 1.2, "mmol/L", 46.40),
        ("hdl", 1200, "umol/L", 46.40),
        ("egfr", 1.5, "mL/s/{1.73_m2}", 90),
        ("egfr", 90, "mL/min/1.73m2", 90),
        ("nodule-diameter", 0.8, "cm", 8),
        ("nodule-diameter", 1, "[in_i]", 25.4),
        ("age", 600, "mo", 50),
        ("bmi", 2.7, "g/cm2", 27),
        ("bmi", 0.0384, "[lb_av]/[in_i]2", 27.0),
        ("cigarettes-per-day", 140, "{cigarettes}/wk", 20),
        ("cigarettes-per-day", 20, "/d", 20),
        ("agatston", 100, "{Agatston}", 100),
        ("agatston", 100, "{score}", 100),
        ("nodule-count", 3, "1", 3),
        ("nodule-count", 3, "{nodules}", 3),
    ],
)
def test_converted(name: str, number: float, unit: str, expected: float) -> None:
    assert value(name, number, unit) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("systolic-bp", "mg/dL"),
        ("systolic-bp", "mm"),
        ("systolic-bp", "B[SPL]"),
        ("systolic-bp", "torrs"),
        ("systolic-bp", ""),
        ("total-cholesterol", "mm[Hg]"),
        ("egfr", "mmol/L"),
        ("nodule-diameter", "mm3"),
        ("age", "Cel"),
        ("age", "1"),
        ("agatston", "mm3"),
        ("agatston", "mg"),
    ],
)
def test_refused(name: str, unit: str) -> None:
    with pytest.raises(UnprocessableError) as caught:
        value(name, 100, unit)
    assert caught.value.code == "unit-not-accepted"
    assert name in caught.value.message


@pytest.mark.parametrize("name", ["age", "egfr", "systolic-bp", "bmi", "agatston"])
def test_amounts_of_substance_are_masses_of_cholesterol_only(name: str) -> None:
    with pytest.raises(UnprocessableError, match="cannot be converted"):
        value(name, 5, "mmol/L")
    assert {item.name for item in INPUTS.values() if item.molar} == {"total-cholesterol", "hdl"}


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        # UCUM would take all of these as the plain unit.
        ("cigarettes-per-day", "{packs}/d"),
        ("egfr", "mL/min"),
        ("egfr", "mL/min/{total}"),
        ("agatston", "{lesions}"),
    ],
)
def test_annotations_that_count_something_else_are_refused(name: str, unit: str) -> None:
    with pytest.raises(UnprocessableError, match="cannot be converted"):
        value(name, 20, unit)


@pytest.mark.parametrize("unit", ["a" * 41, "10*99999999.a", "a9999", "(" * 40, "{" * 20])
def test_units_made_to_cost_time_are_not_computed(unit: str) -> None:
    with pytest.raises(UnprocessableError):
        value("age", 50, unit)


def test_a_range_that_ends_at_a_round_number_holds_it_in_other_units() -> None:
    assert value("total-cholesterol", 3.2, "g/L") == 320.0
    assert value("total-cholesterol", 1.3, "g/L") == 130.0


@settings(max_examples=150, deadline=None)
@draw(
    unit=st.text(st.sampled_from("amgdLHglk[]{}/.*()0123456789-+%'_ µ\x00"), max_size=14),
    name=st.sampled_from([n for n, item in INPUTS.items() if item.kind == "quantity"]),
)
def test_any_unit_is_converted_or_refused(unit: str, name: str) -> None:
    try:
        in_unit(1.0, unit, INPUTS[name])
    except UnprocessableError as error:
        assert error.code == "unit-not-accepted"


def test_every_canonical_unit_is_known() -> None:
    assert {item.unit or "1" for item in INPUTS.values()} <= set(SPELLINGS)
    for unit, spellings in SPELLINGS.items():
        assert unit in spellings


def test_equal_units_cost_no_library() -> None:
    code = (
        "import sys\n"
        "import operations.risk_score.catalogue\n"
        "from operations.risk_score.inputs import input_value\n"
        "input_value('systolic-bp', 120, 'mmHg', source='caller')\n"
        "input_value('hdl', 50, 'mg/dL', source='caller')\n"
        "slow = ('pint', 'lark', 'ucumvert', 'numpy', 'pydantic', 'fastapi')\n"
        "assert [m for m in slow if m in sys.modules] == []\n"
        "input_value('systolic-bp', 16, 'kPa', source='caller')\n"
        "assert 'pint' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
