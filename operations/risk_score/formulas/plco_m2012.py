"""PLCOm2012: lung cancer within six years, in people who have ever smoked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from operations.risk_score.formulas.logistic import logistic

RACE: Final[Mapping[str, float]] = {
    "white": 0.0,
    "aian": 0.0,
    "black": 0.3944778,
    "hispanic": -0.7434744,
    "asian": -0.466585,
    "nhpi": 1.027152,
}


def plco_m2012(
    *,
    age: float,
    race: str,
    education: float,
    bmi: float,
    copd: bool,
    personal_cancer: bool,
    family_lung_cancer: bool,
    current_smoker: bool,
    cigarettes_per_day: float,
    years_smoked: float,
    years_quit: float,
) -> float:
    """Probability of a diagnosis of lung cancer within six years.

    Tammemägi MC et al., N Engl J Med 2013 (PLCOm2012).

    Args:
        age: years.
        race: key of `RACE`.
        education: 1 (less than high school) to 6 (postgraduate).
        bmi: kg/m2.
        cigarettes_per_day: above 0.
        years_smoked, years_quit: years; `years_quit` is 0 for current smokers.

    Raises:
        KeyError: there is no term for the race.
        ValueError: no cigarettes; the model is for people who have smoked.
    """
    if cigarettes_per_day <= 0:
        raise ValueError("cigarettes per day must be above 0")
    return logistic(
        -4.532506
        + 0.0778868 * (age - 62)
        - 0.0812744 * (education - 4)
        - 0.0274194 * (bmi - 27)
        + 0.3553063 * copd
        + 0.4589971 * personal_cancer
        + 0.587185 * family_lung_cancer
        + 0.2597431 * current_smoker
        - 1.822606 * (10.0 / cigarettes_per_day - 0.4021541613)
        + 0.0317321 * (years_smoked - 27)
        - 0.0308572 * (years_quit - 10)
        + RACE[race]
    )
