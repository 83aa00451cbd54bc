"""What was found for an input in one resource, before it is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fhir_ext.resources.codes import UCUM
from operations.risk_score.inputs import Value

if TYPE_CHECKING:
    from operations.risk_score.chart_codes import Rule, Source

Json = dict[str, Any]

#: Observation.status of what stands.
_STANDING: Final = frozenset({"final", "amended", "corrected"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a recorded value cannot be used; a part of a sentence, without patient data."""

    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """A recorded value.

    Attributes:
        name: the input.
        value: as recorded, in `unit`.
        when: FHIR date or dateTime it speaks of.
        reference: the resource.
    """

    name: str
    value: Value | Problem
    unit: str | None
    when: str | None
    reference: str | None
    source: Source
    preliminary: bool = False

    @classmethod
    def of(
        cls,
        rule: Rule,
        resource: Json,
        value: Value | Problem,
        unit: str | None = None,
        when: str | None = None,
    ) -> Found:
        """What a rule found in a resource."""
        return cls(
            name=rule.name,
            value=value,
            unit=unit,
            when=when,
            reference=reference_of(resource),
            source=rule.source,
            preliminary=resource.get("status") == "preliminary",
        )


def reference_of(resource: Json) -> str | None:
    """`Type/id` of a resource."""
    if "id" not in resource:
        return None
    return f"{resource['resourceType']}/{resource['id']}"


def stands(observation: Json, source: Source, allow_preliminary: bool) -> bool:
    """Whether an Observation may be used.

    Args:
        source: only imaging findings are ever used before they are final.
        allow_preliminary: whether the caller allows that.
    """
    status = observation.get("status")
    if status == "preliminary":
        return allow_preliminary and source == "imaging"
    return status in _STANDING


def number_of(element: Json) -> tuple[float | Problem | None, str | None]:
    """Number and UCUM unit of value[x] of an Observation or component.

    Returns:
        The number or why it cannot be used, None without a value; and the unit.
    """
    if "valueInteger" in element:
        return _finite(element["valueInteger"]), "1"
    quantity = element.get("valueQuantity")
    if not isinstance(quantity, dict) or "value" not in quantity:
        return None, None
    if "comparator" in quantity:
        return Problem("a value with a comparator is not a number"), None
    unit = quantity.get("code")
    if quantity.get("system", UCUM) != UCUM or not isinstance(unit, str) or not unit:
        return Problem("a value has no UCUM unit"), None
    return _finite(quantity["value"]), unit


def _finite(value: object) -> float | Problem:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return Problem("a value is not a number")
    return float(value)
