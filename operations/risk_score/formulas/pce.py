"""Pooled cohort equations of 2013: atherosclerotic cardiovascular disease within ten years."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, pow
from typing import Final


@dataclass(frozen=True, slots=True)
class _Terms:
    mean: float
    survival: float
    age: float
    total: float
    hdl: float
    treated: float
    untreated: float
    smoker: float
    diabetes: float
    age_squared: float = 0.0
    age_total: float = 0.0
    age_hdl: float = 0.0
    age_treated: float = 0.0
    age_untreated: float = 0.0
    age_smoker: float = 0.0


_TERMS: Final = {
    ("white", "female"): _Terms(
        mean=-29.18,
        survival=0.9665,
        age=-29.799,
        age_squared=4.884,
        total=13.54,
        age_total=-3.114,
        hdl=-13.578,
        age_hdl=3.149,
        treated=2.019,
        untreated=1.957,
        smoker=7.574,
        age_smoker=-1.665,
        diabetes=0.661,
    ),
    ("black", "female"): _Terms(
        mean=86.61,
        survival=0.9533,
        age=17.114,
        total=0.940,
        hdl=-18.920,
        age_hdl=4.475,
        treated=29.291,
        age_treated=-6.432,
        untreated=27.820,
        age_untreated=-6.087,
        smoker=0.691,
        diabetes=0.874,
    ),
    ("white", "male"): _Terms(
        mean=61.18,
        survival=0.9144,
        age=12.344,
        total=11.853,
        age_total=-2.664,
        hdl=-7.990,
        age_hdl=1.769,
        treated=1.797,
        untreated=1.764,
        smoker=7.837,
        age_smoker=-1.795,
        diabetes=0.658,
    ),
    ("black", "male"): _Terms(
        mean=19.54,
        survival=0.8954,
        age=2.469,
        total=0.302,
        hdl=-0.307,
        treated=1.916,
        untreated=1.809,
        smoker=0.549,
        diabetes=0.645,
    ),
}


def pce(
    *,
    age: float,
    sex: str,
    race: str,
    total_cholesterol: float,
    hdl: float,
    systolic_bp: float,
    bp_treated: bool,
    smoker: bool,
    diabetes: bool,
) -> float:
    """Probability of a first hard atherosclerotic event within ten years.

    Pooled cohort equations, ACC/AHA 2013 (doi 10.1161/01.cir.0000437741.48606.98).

    Args:
        age: years.
        sex: `male` or `female`.
        race: `white` or `black`; the equations know no other.
        total_cholesterol, hdl: mg/dL.
        systolic_bp: mm[Hg].

    Raises:
        KeyError: there is no equation for sex and race.
    """
    terms = _TERMS[race, sex]
    a, total, good, pressure = log(age), log(total_cholesterol), log(hdl), log(systolic_bp)
    if bp_treated:
        of_pressure = terms.treated + terms.age_treated * a
    else:
        of_pressure = terms.untreated + terms.age_untreated * a
    found = (
        terms.age * a
        + terms.age_squared * a * a
        + (terms.total + terms.age_total * a) * total
        + (terms.hdl + terms.age_hdl * a) * good
        + of_pressure * pressure
        + (terms.smoker + terms.age_smoker * a) * smoker
        + terms.diabetes * diabetes
    )
    return 1.0 - pow(terms.survival, exp(found - terms.mean))
