"""One person per risk model, as the vectors of the formulas have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_ext.results import InputValue
from operations.risk_score.inputs import input_value

AS_OF = "2026-02-03"

PLCO: Mapping[str, Any] = {
    "age": 65,
    "race": "white",
    "education": 3,
    "bmi": 27,
    "copd": False,
    "personal-cancer": False,
    "family-lung-cancer": False,
    "smoking-status": "current",
    "cigarettes-per-day": 20,
    "years-smoked": 40,
}
BROCK: Mapping[str, Any] = {
    "age": 65,
    "sex": "female",
    "family-lung-cancer": False,
    "emphysema": True,
    "nodule-diameter": 8,
    "nodule-type": "solid",
    "upper-lobe": True,
    "nodule-count": 1,
    "spiculated": False,
}
MAYO: Mapping[str, Any] = {
    "age": 65,
    "ever-smoker": True,
    "prior-extrathoracic-cancer": False,
    "nodule-diameter": 12,
    "spiculated": True,
    "upper-lobe": True,
}
PCE: Mapping[str, Any] = {
    "age": 55,
    "sex": "female",
    "race": "white",
    "total-cholesterol": 213,
    "hdl": 50,
    "systolic-bp": 120,
    "bp-treated": False,
    "smoker": False,
    "diabetes": False,
}
PREVENT: Mapping[str, Any] = {
    "age": 50,
    "sex": "female",
    "total-cholesterol": 200,
    "hdl": 45,
    "systolic-bp": 160,
    "bp-treated": True,
    "statin": False,
    "diabetes": True,
    "smoker": False,
    "egfr": 90,
    "bmi": 35,
}
MESA: Mapping[str, Any] = {
    "age": 60,
    "sex": "male",
    "race": "white",
    "diabetes": False,
    "smoker": False,
    "total-cholesterol": 200,
    "hdl": 50,
    "lipid-treated": False,
    "systolic-bp": 130,
    "bp-treated": False,
    "family-mi": False,
    "agatston": 100,
}

PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "plco-m2012": PLCO,
    "brock": BROCK,
    "mayo": MAYO,
    "pce": PCE,
    "prevent": PREVENT,
    "mesa-chd": MESA,
}


def given(person: Mapping[str, Any], source: Any = "caller", **more: Any) -> dict[str, InputValue]:
    """A person's inputs by name."""
    return {name: input_value(name, value, source=source, **more) for name, value in person.items()}
