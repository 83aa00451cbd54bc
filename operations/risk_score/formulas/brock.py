"""Brock (PanCan): cancer in a nodule found on a screening CT, with and without spiculation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from operations.risk_score.formulas.logistic import logistic


@dataclass(frozen=True, slots=True)
class _Terms:
    constant: float
    age: float
    female: float
    family: float
    emphysema: float
    size: float
    type: Mapping[str, float]
    upper: float
    count: float
    spiculated: float = 0.0


_WITH_SPICULATION: Final = _Terms(
    constant=-6.7892,
    age=0.0287,
    female=0.6011,
    family=0.2961,
    emphysema=0.2953,
    size=-5.3854,
    type={"solid": 0.0, "part-solid": 0.377, "ground-glass": -0.1276},
    upper=0.6581,
    count=-0.0824,
    spiculated=0.7729,
)
_WITHOUT_SPICULATION: Final = _Terms(
    constant=-6.8071,
    age=0.0321,
    female=0.5635,
    family=0.3013,
    emphysema=0.3462,
    size=-5.6693,
    type={"solid": 0.0, "part-solid": 0.3395, "ground-glass": -0.3055},
    upper=0.7116,
    count=-0.0803,
)


def brock(
    *,
    age: float,
    female: bool,
    family_lung_cancer: bool,
    emphysema: bool,
    nodule_diameter: float,
    nodule_type: str,
    upper_lobe: bool,
    nodule_count: float,
    spiculated: bool | None,
) -> float:
    """Probability that the nodule is cancer: the full model.

    McWilliams A et al., N Engl J Med 2013 (doi 10.1056/NEJMoa1214726); coefficients with
    spiculation as in PMC6717521, table 2.

    Args:
        age: years.
        nodule_diameter: longest diameter, mm.
        nodule_type: `solid`, `part-solid` or `ground-glass`.
        nodule_count: nodules on the scan.
        spiculated: None takes the full model without spiculation.

    Raises:
        KeyError: there is no term for the type.
    """
    terms = _WITHOUT_SPICULATION if spiculated is None else _WITH_SPICULATION
    return logistic(
        terms.constant
        + terms.age * (age - 62)
        + terms.female * female
        + terms.family * family_lung_cancer
        + terms.emphysema * emphysema
        + terms.size * ((nodule_diameter / 10.0) ** -0.5 - 1.58113883)
        + terms.type[nodule_type]
        + terms.upper * upper_lobe
        + terms.count * (nodule_count - 4)
        + terms.spiculated * bool(spiculated)
    )
