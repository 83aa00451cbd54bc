"""The formulas give the published numbers, to the digits in which the vectors are given."""

from __future__ import annotations

import math
from typing import Any

import pytest
from risk_samples import AS_OF, BROCK, MAYO, MESA, PCE, PLCO, PREVENT, given

from operations.risk_score.catalogue import MODELS
from operations.risk_score.formulas.brock import brock
from operations.risk_score.formulas.logistic import logistic
from operations.risk_score.formulas.mesa_chd import mesa_chd
from operations.risk_score.formulas.pce import pce
from operations.risk_score.formulas.plco_m2012 import RACE, plco_m2012
from operations.risk_score.formulas.prevent import prevent


def percents(model: str, person: Any, **changes: Any) -> list[float]:
    inputs = {name.replace("_", "-"): value for name, value in changes.items()}
    merged = {name: v for name, v in {**person, **inputs}.items() if v is not None}
    return [p.percent for p in MODELS[model].compute(given(merged), AS_OF).predictions]


def test_plco_m2012() -> None:
    (found,) = percents("plco-m2012", PLCO)
    assert round(found, 2) == 3.18


@pytest.mark.parametrize(("spiculated", "percent"), [(False, 8.26), (True, 16.32), (None, 9.77)])
def test_brock(spiculated: bool | None, percent: float) -> None:
    (found,) = percents("brock", BROCK, spiculated=spiculated)
    assert round(found, 2) == percent


def test_mayo() -> None:
    (found,) = percents("mayo", MAYO)
    assert round(found, 1) == 46.5


@pytest.mark.parametrize(
    ("race", "sex", "percent"),
    [
        ("white", "female", 2.05),
        ("black", "female", 3.03),
        ("white", "male", 5.38),
        ("black", "male", 6.07),
    ],
)
def test_pooled_cohort_equations(race: str, sex: str, percent: float) -> None:
    (found,) = percents("pce", PCE, race=race, sex=sex)
    assert round(found, 2) == percent


@pytest.mark.parametrize(
    ("sex", "percent"), [("female", [14.68, 9.20, 8.06]), ("male", [16.32, 10.19, 10.59])]
)
def test_prevent(sex: str, percent: list[float]) -> None:
    assert [round(p, 2) for p in percents("prevent", PREVENT, sex=sex)] == percent


def test_prevent_gives_the_published_example() -> None:
    assert round(percents("prevent", PREVENT)[0], 1) == 14.7


@pytest.mark.parametrize(("agatston", "percent"), [(0, 2.20), (100, 7.58), (None, 5.06)])
def test_mesa(agatston: float | None, percent: float) -> None:
    (found,) = percents("mesa-chd", MESA, agatston=agatston)
    assert round(found, 2) == percent


def odds(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


PLCO_PLAIN = {
    "age": 62.0,
    "race": "white",
    "education": 4,
    "bmi": 27.0,
    "copd": False,
    "personal_cancer": False,
    "family_lung_cancer": False,
    "current_smoker": False,
    "cigarettes_per_day": 10 / 0.4021541613,
    "years_smoked": 27.0,
    "years_quit": 10.0,
}


@pytest.mark.parametrize(
    ("change", "coefficient"),
    [
        ({}, 0.0),
        ({"age": 63.0}, 0.0778868),
        ({"education": 5}, -0.0812744),
        ({"bmi": 28.0}, -0.0274194),
        ({"copd": True}, 0.3553063),
        ({"personal_cancer": True}, 0.4589971),
        ({"family_lung_cancer": True}, 0.587185),
        ({"current_smoker": True}, 0.2597431),
        ({"cigarettes_per_day": 10.0}, -1.822606 * (1 - 0.4021541613)),
        ({"years_smoked": 28.0}, 0.0317321),
        ({"years_quit": 11.0}, -0.0308572),
        ({"race": "aian"}, 0.0),
        ({"race": "black"}, 0.3944778),
        ({"race": "hispanic"}, -0.7434744),
        ({"race": "asian"}, -0.466585),
        ({"race": "nhpi"}, 1.027152),
    ],
)
def test_every_term_of_plco_m2012(change: dict[str, Any], coefficient: float) -> None:
    found = odds(plco_m2012(**{**PLCO_PLAIN, **change}))
    assert found == pytest.approx(-4.532506 + coefficient, abs=1e-9)


BROCK_PLAIN = {
    "age": 62.0,
    "female": False,
    "family_lung_cancer": False,
    "emphysema": False,
    "nodule_diameter": 4.0,
    "nodule_type": "solid",
    "upper_lobe": False,
    "nodule_count": 4,
}


@pytest.mark.parametrize(
    ("change", "with_margin", "without"),
    [
        ({}, 0.0, 0.0),
        ({"age": 63.0}, 0.0287, 0.0321),
        ({"female": True}, 0.6011, 0.5635),
        ({"family_lung_cancer": True}, 0.2961, 0.3013),
        ({"emphysema": True}, 0.2953, 0.3462),
        ({"nodule_diameter": 10.0}, -5.3854 * (1 - 1.58113883), -5.6693 * (1 - 1.58113883)),
        ({"nodule_type": "part-solid"}, 0.377, 0.3395),
        ({"nodule_type": "ground-glass"}, -0.1276, -0.3055),
        ({"upper_lobe": True}, 0.6581, 0.7116),
        ({"nodule_count": 5}, -0.0824, -0.0803),
    ],
)
def test_every_term_of_brock(change: dict[str, Any], with_margin: float, without: float) -> None:
    person: dict[str, Any] = {**BROCK_PLAIN, **change}
    # (4/10)^-0.5 is 1.58113883 to eight digits.
    close = pytest.approx
    assert odds(brock(**person, spiculated=False)) == close(-6.7892 + with_margin, abs=1e-7)
    assert odds(brock(**person, spiculated=True)) == close(-6.7892 + with_margin + 0.7729, abs=1e-7)
    assert odds(brock(**person, spiculated=None)) == close(-6.8071 + without, abs=1e-7)


def hazard(survival: float, probability: float) -> float:
    """Exponent of a formula 1 - S0^exp(x)."""
    return math.log(math.log(1.0 - probability) / math.log(survival))


MESA_PLAIN = {
    "age": 60.0,
    "male": False,
    "race": "white",
    "diabetes": False,
    "smoker": False,
    "total_cholesterol": 200.0,
    "hdl": 50.0,
    "lipid_treated": False,
    "systolic_bp": 130.0,
    "bp_treated": False,
    "family_mi": False,
}


@pytest.mark.parametrize(
    ("change", "with_calcium", "without"),
    [
        ({"age": 61.0}, 0.0172, 0.0455),
        ({"male": True}, 0.4079, 0.7496),
        ({"race": "chinese"}, -0.3475, -0.5055),
        ({"race": "black"}, 0.0353, -0.2111),
        ({"race": "hispanic"}, -0.0222, -0.1900),
        ({"diabetes": True}, 0.3892, 0.5168),
        ({"smoker": True}, 0.3717, 0.4732),
        ({"total_cholesterol": 201.0}, 0.0043, 0.0053),
        ({"hdl": 51.0}, -0.0114, -0.0140),
        ({"lipid_treated": True}, 0.1206, 0.2473),
        ({"systolic_bp": 131.0}, 0.0066, 0.0085),
        ({"bp_treated": True}, 0.2278, 0.3381),
        ({"family_mi": True}, 0.3239, 0.4522),
    ],
)
def test_every_term_of_mesa(change: dict[str, Any], with_calcium: float, without: float) -> None:
    def exponent(agatston: float | None, **changes: Any) -> float:
        survival = 0.99963 if agatston is None else 0.99833
        person: dict[str, Any] = {**MESA_PLAIN, **changes}
        return hazard(survival, mesa_chd(**person, agatston=agatston))

    assert exponent(0, **change) - exponent(0) == pytest.approx(with_calcium, abs=1e-9)
    assert exponent(None, **change) - exponent(None) == pytest.approx(without, abs=1e-9)
    assert exponent(99) - exponent(0) == pytest.approx(0.2743 * math.log(100), abs=1e-9)


PREVENT_PLAIN = {
    "age": 55.0,
    "total_cholesterol": 200.0,
    "hdl": 50.0,
    "systolic_bp": 130.0,
    "bp_treated": False,
    "statin": False,
    "diabetes": False,
    "smoker": False,
    "egfr": 90.0,
    "bmi": 25.0,
}
N = 0.02586 * 150 - 3.5
H = (0.02586 * 50 - 1.3) / 0.3


@pytest.mark.parametrize(
    ("change", "sex", "differences"),
    [
        ({"bp_treated": True}, "female", (0.3151672, 0.2265309, 0.3534442)),
        ({"bp_treated": True}, "male", (0.288879, 0.2036522, 0.2980922)),
        ({"statin": True}, "female", (-0.1477655 + 0.1197879 * N, -0.0592374 + 0.0844423 * N, 0)),
        ({"statin": True}, "male", (-0.1337349 + 0.150273 * N, -0.0865581 + 0.114563 * N, 0)),
        ({"smoker": True}, "female", (0.5360739, 0.4831078, 0.583916)),
        ({"smoker": True}, "male", (0.4386871, 0.3956973, 0.5023736)),
        ({"diabetes": True}, "female", (0.8667604, 0.8348585, 1.038346)),
        ({"systolic_bp": 150.0}, "female", (0.3600781, 0.3592852, 0.3576505)),
        ({"systolic_bp": 150.0}, "male", (0.3362658, 0.3239977, 0.3634461)),
        ({"systolic_bp": 90.0}, "female", (-0.3600781 + 0.2394003, -0.3592852 + 0.0835358, None)),
        ({"egfr": 45.0}, "male", (0.5378979 + 2 * 0.0164827, 0.3690075 + 2 * 0.0203619, None)),
        ({"egfr": 75.0}, "female", (0.0433769, 0.0397779, 0.0557087)),
        ({"bmi": 35.0}, "female", (0, 0, 0.2997706 - 0.0072294)),
        ({"bmi": 35.0}, "male", (0, 0, 0.3726929 - 0.0485841)),
        (
            {"age": 65.0},
            "female",
            (
                0.7939329 - 0.0819715 * N + 0.0306769 * H,
                0.719883 - 0.0567839 * N + 0.0325692 * H,
                0.8998235,
            ),
        ),
        (
            {"age": 65.0},
            "male",
            (
                0.7688528 - 0.0517874 * N + 0.0191169 * H,
                0.7099847 - 0.0300005 * N + 0.0232747 * H,
                0.8972642,
            ),
        ),
    ],
)
def test_terms_of_prevent(
    change: dict[str, Any], sex: str, differences: tuple[float | None, ...]
) -> None:
    base = prevent(sex=sex, **PREVENT_PLAIN)
    changed = prevent(sex=sex, **{**PREVENT_PLAIN, **change})
    for before, after, difference in zip(base, changed, differences, strict=True):
        if difference is not None:
            assert odds(after) - odds(before) == pytest.approx(difference, abs=1e-9)


def test_treated_pressure_has_its_own_terms_in_the_pooled_cohort_equations() -> None:
    person = {"age": 55.0, "total_cholesterol": 213.0, "hdl": 50.0, "systolic_bp": 120.0}
    plain: dict[str, Any] = {**person, "smoker": False, "diabetes": False}
    for race, sex, survival, terms in (
        ("white", "female", 0.9665, 2.019 - 1.957),
        ("white", "male", 0.9144, 1.797 - 1.764),
        ("black", "male", 0.8954, 1.916 - 1.809),
        ("black", "female", 0.9533, 29.291 - 27.820 + (-6.432 + 6.087) * math.log(55)),
    ):
        treated, untreated = (
            hazard(survival, pce(race=race, sex=sex, bp_treated=taken, **plain))
            for taken in (True, False)
        )
        assert treated - untreated == pytest.approx(terms * math.log(120), abs=1e-9)


@pytest.mark.parametrize(
    ("race", "sex", "survival", "smoker", "diabetes"),
    [
        ("white", "female", 0.9665, 7.574 - 1.665 * math.log(50), 0.661),
        ("black", "female", 0.9533, 0.691, 0.874),
        ("white", "male", 0.9144, 7.837 - 1.795 * math.log(50), 0.658),
        ("black", "male", 0.8954, 0.549, 0.645),
    ],
)
def test_smoking_and_diabetes_in_the_pooled_cohort_equations(
    race: str, sex: str, survival: float, smoker: float, diabetes: float
) -> None:
    def exponent(smokes: bool, diabetic: bool) -> float:
        person = {"age": 50.0, "total_cholesterol": 213.0, "hdl": 50.0, "systolic_bp": 120.0}
        found = pce(
            race=race, sex=sex, bp_treated=False, smoker=smokes, diabetes=diabetic, **person
        )
        return hazard(survival, found)

    plain = exponent(False, False)
    assert exponent(True, False) - plain == pytest.approx(smoker, abs=1e-9)
    assert exponent(False, True) - plain == pytest.approx(diabetes, abs=1e-9)


#: Terms that work over age: at 65 years the transformed age is 1.
OVER_AGE = [
    (
        "diabetes",
        True,
        "female",
        (0.8667604 - 0.27057, 0.8348585 - 0.2417542, 1.038346 - 0.3581041),
    ),
    (
        "diabetes",
        True,
        "male",
        (0.7692857 - 0.2251948, 0.7189597 - 0.2018525, 0.923776 - 0.3040924),
    ),
    ("smoker", True, "female", (0.5360739 - 0.078715, 0.4831078 - 0.0791142, 0.583916 - 0.1159453)),
    ("smoker", True, "male", (0.4386871 - 0.0895067, 0.3956973 - 0.0970527, 0.5023736 - 0.1401688)),
    (
        "systolic_bp",
        150.0,
        "female",
        (0.3600781 - 0.0946348, 0.3592852 - 0.1035985, 0.3576505 - 0.0946663),
    ),
    (
        "systolic_bp",
        150.0,
        "male",
        (0.3362658 - 0.1049477, 0.3239977 - 0.0927024, 0.3634461 - 0.1289201),
    ),
    (
        "egfr",
        45.0,
        "female",
        (
            0.6045917 - 0.1637806 + 2 * 0.0433769,
            0.4864619 - 0.1671492 + 2 * 0.0397779,
            0.7451638 - 0.1884289 + 2 * 0.0557087,
        ),
    ),
    (
        "egfr",
        45.0,
        "male",
        (
            0.5378979 - 0.1543702 + 2 * 0.0164827,
            0.3690075 - 0.1217081 + 2 * 0.0203619,
            0.6926917 - 0.1797778 + 2 * 0.0251827,
        ),
    ),
    ("bmi", 35.0, "female", (0, 0, 0.2997706 - 0.0072294 - 0.003878)),
    ("bmi", 35.0, "male", (0, 0, 0.3726929 - 0.0485841 + 0.0068126)),
]


@pytest.mark.parametrize(("name", "value", "sex", "differences"), OVER_AGE)
def test_terms_of_prevent_over_age(
    name: str, value: Any, sex: str, differences: tuple[float, ...]
) -> None:
    older = {**PREVENT_PLAIN, "age": 65.0}
    base, changed = prevent(sex=sex, **older), prevent(sex=sex, **{**older, name: value})
    for before, after, difference in zip(base, changed, differences, strict=True):
        # At 35 kg/m2 both terms of BMI moved by one step from 25.
        assert odds(after) - odds(before) == pytest.approx(difference, abs=1e-9)


def test_low_pressure_has_a_term_of_its_own_in_prevent() -> None:
    for sex, slopes in (
        ("female", (-0.2394003, -0.0835358, -0.4559771)),
        ("male", (-0.4347345, -0.2837212, -0.6811466)),
    ):
        at_110 = prevent(sex=sex, **{**PREVENT_PLAIN, "systolic_bp": 110.0})
        at_90 = prevent(sex=sex, **{**PREVENT_PLAIN, "systolic_bp": 90.0})
        for lower, higher, slope in zip(at_90, at_110, slopes, strict=True):
            assert odds(higher) - odds(lower) == pytest.approx(slope, abs=1e-9)


def test_formulas_refuse_what_they_have_no_term_for() -> None:
    with pytest.raises(KeyError):
        plco_m2012(**{**PLCO_PLAIN, "race": "chinese"})
    with pytest.raises(ValueError, match="above 0"):
        plco_m2012(**{**PLCO_PLAIN, "cigarettes_per_day": 0.0})
    with pytest.raises(KeyError):
        brock(**{**BROCK_PLAIN, "nodule_type": "cavitary"}, spiculated=None)
    assert set(RACE) == {"white", "black", "asian", "hispanic", "aian", "nhpi"}


def test_the_logistic_function_does_not_overflow() -> None:
    assert logistic(0.0) == 0.5
    assert logistic(-1000.0) == 0.0
    assert logistic(1000.0) == 1.0
    assert logistic(2.0) + logistic(-2.0) == pytest.approx(1.0, abs=1e-15)
