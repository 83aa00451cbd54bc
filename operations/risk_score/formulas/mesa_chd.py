"""MESA: coronary heart disease within ten years, with and without coronary calcium."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, pow
from typing import Final


@dataclass(frozen=True, slots=True)
class _Terms:
    survival: float
    age: float
    male: float
    race: Mapping[str, float]
    diabetes: float
    smoker: float
    total: float
    hdl: float
    lipid_treated: float
    pressure: float
    bp_treated: float
    family: float
    calcium: float = 0.0


_WITH_CALCIUM: Final = _Terms(
    survival=0.99833,
    age=0.0172,
    male=0.4079,
    race={"white": 0.0, "chinese": -0.3475, "black": 0.0353, "hispanic": -0.0222},
    diabetes=0.3892,
    smoker=0.3717,
    total=0.0043,
    hdl=-0.0114,
    lipid_treated=0.1206,
    pressure=0.0066,
    bp_treated=0.2278,
    family=0.3239,
    calcium=0.2743,
)
_WITHOUT_CALCIUM: Final = _Terms(
    survival=0.99963,
    age=0.0455,
    male=0.7496,
    race={"white": 0.0, "chinese": -0.5055, "black": -0.2111, "hispanic": -0.1900},
    diabetes=0.5168,
    smoker=0.4732,
    total=0.0053,
    hdl=-0.0140,
    lipid_treated=0.2473,
    pressure=0.0085,
    bp_treated=0.3381,
    family=0.4522,
)


def mesa_chd(
    *,
    age: float,
    male: bool,
    race: str,
    diabetes: bool,
    smoker: bool,
    total_cholesterol: float,
    hdl: float,
    lipid_treated: bool,
    systolic_bp: float,
    bp_treated: bool,
    family_mi: bool,
    agatston: float | None,
) -> float:
    """Probability of coronary heart disease within ten years.

    McClelland RL et al., 2015 (PMC4603537).

    Args:
        age: years.
        race: `white`, `chinese`, `black` or `hispanic`.
        total_cholesterol, hdl: mg/dL.
        systolic_bp: mm[Hg].
        agatston: Agatston score of a gated cardiac CT; None takes the model without calcium.

    Raises:
        KeyError: there is no term for the race.
    """
    terms = _WITHOUT_CALCIUM if agatston is None else _WITH_CALCIUM
    found = (
        terms.age * age
        + terms.male * male
        + terms.race[race]
        + terms.diabetes * diabetes
        + terms.smoker * smoker
        + terms.total * total_cholesterol
        + terms.hdl * hdl
        + terms.lipid_treated * lipid_treated
        + terms.pressure * systolic_bp
        + terms.bp_treated * bp_treated
        + terms.family * family_mi
        + terms.calcium * log((agatston or 0.0) + 1.0)
    )
    return 1.0 - pow(terms.survival, exp(found))
