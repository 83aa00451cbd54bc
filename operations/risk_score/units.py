"""Units of the inputs: UCUM to the unit in which the models read a number.

Equal spellings cost a look-up. Anything else is converted by ucumvert (UCUM on pint), which
is imported at the first such unit (about a second); the factor of each pair is kept.

Amounts of substance become masses for cholesterol only, by the factor of the PREVENT
equations (`InputDefinition.molar`): UCUM knows no molar masses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from fhir_ext.errors import UnprocessableError

if TYPE_CHECKING:
    from operations.risk_score.inputs import InputDefinition

#: Other spellings of the units that the models read, also those that are text, not UCUM.
SPELLINGS: Final[Mapping[str, frozenset[str]]] = {
    "a": frozenset({"a", "year", "years", "yr", "y"}),
    "kg/m2": frozenset({"kg/m2", "kg/m^2", "kg.m-2"}),
    "{cigarettes}/d": frozenset({"{cigarettes}/d", "{cigs}/d", "{cig}/d", "/d", "1/d"}),
    "mm": frozenset({"mm"}),
    "mg/dL": frozenset({"mg/dL", "mg/dl"}),
    "mm[Hg]": frozenset({"mm[Hg]", "mmHg", "mm Hg"}),
    "mL/min/{1.73_m2}": frozenset(
        {
            "mL/min/{1.73_m2}",
            "mL/min/{1.73m2}",
            "mL/min/1.73m2",
            "mL/min/1.73_m2",
            "mL/min/1.73 m2",
            "mL/min/1.73m^2",
        }
    ),
    "1": frozenset({"1", "{score}", "{Agatston}", "{Agatston score}"}),
}

#: The unit of amounts of substance that `molar` speaks of.
MOLAR_UNIT: Final = "mmol/L"

#: A unit is short; a longer text is not parsed. Nor are exponents of four digits and more:
#: pint would compute them as whole numbers.
_LONGEST: Final = 40
_LARGE_NUMBER: Final = re.compile(r"\d{4}")
_ANNOTATION: Final = re.compile(r"\{([^{}]*)\}")


def in_unit(number: float, unit: str, item: InputDefinition) -> float:
    """A number of a caller or a chart in the unit in which the models read the input.

    Args:
        unit: UCUM unit of `number`, or one of the spellings of `SPELLINGS`.

    Raises:
        UnprocessableError: `unit-not-accepted`: no UCUM unit, of another dimension, or an
            annotation that says something else is counted.
    """
    canonical = item.unit or "1"
    if unit in SPELLINGS[canonical]:
        return number
    if len(unit) > _LONGEST:
        raise _unusable(item)
    _check_annotations(unit, item)
    factor = _factor(unit, canonical)
    if factor is None and item.molar is not None:
        molar = 1.0 if unit == MOLAR_UNIT else _factor(unit, MOLAR_UNIT)
        factor = None if molar is None else molar / item.molar
    if factor is None:
        raise _unusable(item)
    # Twelve digits: 3.2 g/L is 320 mg/dL and not a hair outside of a range that ends there.
    return float(f"{number * factor:.12g}")


def _check_annotations(unit: str, item: InputDefinition) -> None:
    said = [text.lower() for text in _ANNOTATION.findall(unit)]
    words = item.annotations
    known = not words or all(any(word in text for word in words) for text in said)
    if not known or (item.annotated and not said):
        raise _unusable(item)


def _unusable(item: InputDefinition) -> UnprocessableError:
    return UnprocessableError(
        f"{item.name}: the unit cannot be converted to {item.unit or '1'}", code="unit-not-accepted"
    )


@lru_cache(maxsize=512)
def _factor(unit: str, canonical: str) -> float | None:
    """What a number in `unit` is multiplied by; None where there is no such factor."""
    plain = _plain(unit)
    if _LARGE_NUMBER.search(plain):
        return None
    return _convert(plain, _plain(canonical))


def _plain(unit: str) -> str:
    """A unit without annotations, which have no meaning in UCUM (section 6)."""
    plain = _ANNOTATION.sub("", unit)
    if plain.endswith("/"):
        plain = plain[:-1]
    return plain or "1"


def _convert(unit: str, canonical: str) -> float | None:
    if unit == canonical:
        return 1.0
    from lark.exceptions import LarkError
    from pint.errors import PintError

    registry = _registry()
    target = "dimensionless" if canonical == "1" else registry.from_ucum(canonical).units
    try:
        parsed = registry.from_ucum(unit)
        one, two = (float((parsed * n).to(target).magnitude) for n in (1, 2))
    except (LarkError, PintError, AttributeError, ArithmeticError):
        # AttributeError: ucumvert returns bare tokens for what is only a number.
        return None
    # Scales with an offset or a logarithm have no factor.
    usable = math.isfinite(one) and one > 0 and math.isclose(two, 2 * one, rel_tol=1e-12)
    return one if usable else None


@lru_cache(maxsize=1)
def _registry() -> Any:
    from ucumvert import PintUcumRegistry  # type: ignore[import-untyped]

    return PintUcumRegistry()


def prepare() -> None:
    """Import and build what conversions need, so that no request waits for it (about 1 s)."""
    _factor("kPa", "mm[Hg]")
