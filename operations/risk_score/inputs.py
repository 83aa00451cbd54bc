"""The inputs of the risk models: one catalogue of names, the same in every model.

A value enters by `caller_inputs` (Parameters of `$risk-score`), by `parse_text` (command line)
or by `input_value` (what was read from a chart); each checks kind, unit and bounds, and
converts to the unit in which the models read it. Bounds here only keep out what no body can
show; the ranges for which a model was derived are the model's (`model.Range`).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from fhir_ext.errors import OutcomeIssue, UnprocessableError
from fhir_ext.resources.codes import RISK_INPUT, UCUM
from fhir_ext.results import InputValue
from operations.risk_score.units import in_unit

Json = dict[str, Any]
Kind = Literal["quantity", "integer", "boolean", "code"]
Value = float | bool | str


@dataclass(frozen=True, slots=True)
class InputDefinition:
    """One input.

    Attributes:
        name: code in the CodeSystem `risk-input`.
        kind: what a value is; a `quantity` has `unit`, a `code` has `codes`.
        title, definition: for people, as the CodeSystem has them.
        unit: UCUM unit in which the models read it.
        low, high: bounds of what a body can show, both inclusive, in `unit`.
        codes: every code that some model accepts.
        annotations: words of which a UCUM annotation of a given unit must hold one; any
            will do where there are none. UCUM gives annotations no meaning, but `{packs}/d`
            is not `{cigarettes}/d`.
        annotated: a given unit must have such an annotation.
        molar: mmol/L per mg/dL, where amounts of substance are accepted too.
    """

    name: str
    kind: Kind
    title: str
    definition: str
    unit: str | None = None
    low: float = -math.inf
    high: float = math.inf
    codes: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    annotated: bool = False
    molar: float | None = None

    @property
    def accepts(self) -> str:
        """What a value may be, in words."""
        match self.kind:
            case "boolean":
                return "boolean"
            case "code":
                return f"code: {' | '.join(self.codes)}"
            case "integer":
                return f"integer from {self.low:g} to {self.high:g}"
            case _:
                return f"quantity from {self.low:g} to {self.high:g} {self.unit}"


#: mmol/L per mg/dL of cholesterol, as the PREVENT equations write it (Khan 2024).
CHOLESTEROL_MOLAR: Final = 0.02586


def _quantity(name: str, unit: str, low: float, high: float, **more: Any) -> InputDefinition:
    return _described(name, "quantity", unit=unit, low=low, high=high, **more)


def _integer(name: str, low: int, high: int) -> InputDefinition:
    return _described(name, "integer", low=low, high=high)


def _boolean(name: str) -> InputDefinition:
    return _described(name, "boolean")


def _code(name: str, *codes: str) -> InputDefinition:
    return _described(name, "code", codes=codes)


def _described(name: str, kind: Kind, **more: Any) -> InputDefinition:
    said = next(item for item in RISK_INPUT.codes if item.code == name)
    return InputDefinition(name, kind, said.display, said.definition, **more)


_DEFINITIONS: Final = (
    _quantity("age", "a", 0, 120),
    _code("sex", "male", "female"),
    _code("race", "white", "black", "asian", "hispanic", "aian", "nhpi", "chinese"),
    _integer("education", 1, 6),
    _quantity("bmi", "kg/m2", 8, 150),
    _boolean("copd"),
    _boolean("personal-cancer"),
    _boolean("family-lung-cancer"),
    _code("smoking-status", "current", "former", "never"),
    _boolean("ever-smoker"),
    _boolean("smoker"),
    _quantity("cigarettes-per-day", "{cigarettes}/d", 0, 200, annotations=("cig",)),
    _quantity("years-smoked", "a", 0, 110),
    _quantity("years-quit", "a", 0, 110),
    _boolean("emphysema"),
    _quantity("nodule-diameter", "mm", 0.1, 300),
    _code("nodule-type", "solid", "part-solid", "ground-glass"),
    _boolean("upper-lobe"),
    _integer("nodule-count", 1, 1000),
    _boolean("spiculated"),
    _boolean("prior-extrathoracic-cancer"),
    _quantity("total-cholesterol", "mg/dL", 20, 2000, molar=CHOLESTEROL_MOLAR),
    _quantity("hdl", "mg/dL", 1, 300, molar=CHOLESTEROL_MOLAR),
    _quantity("systolic-bp", "mm[Hg]", 30, 350),
    _boolean("bp-treated"),
    _boolean("lipid-treated"),
    _boolean("statin"),
    _boolean("diabetes"),
    _quantity("egfr", "mL/min/{1.73_m2}", 1, 250, annotations=("1.73",), annotated=True),
    _boolean("family-mi"),
    _quantity("agatston", "1", 0, 30000, annotations=("agatston", "score")),
)
INPUTS: Final[Mapping[str, InputDefinition]] = MappingProxyType(
    {item.name: item for item in _DEFINITIONS}
)


def definition(name: str) -> InputDefinition:
    """The definition of an input.

    Raises:
        UnprocessableError: `unknown-input`.
    """
    found = INPUTS.get(name)
    if found is None:
        raise UnprocessableError("there is no input of that name", code="unknown-input")
    return found


def input_value(
    name: str,
    value: Value,
    unit: str | None = None,
    *,
    source: Literal["caller", "chart", "imaging"],
    date: str | None = None,
    reference: str | None = None,
    preliminary: bool = False,
) -> InputValue:
    """One checked input, in the unit in which the models read it.

    Args:
        value: number, truth or code, as the input is defined.
        unit: UCUM unit of `value`; None when it already is the input's own.
        date: FHIR R4 date or dateTime of what was read.
        reference: what it was read from.
        preliminary: that is a preliminary AI result.

    Raises:
        UnprocessableError: `unknown-input`, `invalid-input` (kind or code),
            `unit-not-accepted` (unknown, or of another dimension), `out-of-range` (no body
            can show it).
    """
    item = definition(name)
    checked = _checked(item, value, unit)
    return InputValue(name, checked, item.unit, source, date, reference, preliminary)


def caller_inputs(parameters: Json) -> dict[str, InputValue]:
    """Every `input` of a Parameters resource of `$risk-score`, by name.

    Raises:
        UnprocessableError: all that is wrong, one issue each, with its FHIRPath.
    """
    return _collect(
        (f"Parameters.parameter[{index}]", parse_parameter, parameter)
        for index, parameter in enumerate(parameters.get("parameter") or ())
        if isinstance(parameter, dict) and parameter.get("name") == "input"
    )


def _collect(
    items: Iterable[tuple[str, Callable[[Any], InputValue], Any]],
) -> dict[str, InputValue]:
    """Read every item, and tell of all that cannot be read at once."""
    found: dict[str, InputValue] = {}
    issues: list[OutcomeIssue] = []
    for where, parse, item in items:
        try:
            value = parse(item)
            if value.name in found:
                raise _invalid(f"{value.name}: given more than once")
        except UnprocessableError as error:
            issues.append(OutcomeIssue("value", error.code, error.message, expression=where))
        else:
            found[value.name] = value
    if issues:
        raise UnprocessableError(
            "; ".join(issue.diagnostics for issue in issues), code=issues[0].detail, issues=issues
        )
    return found


def parse_parameter(parameter: Json) -> InputValue:
    """One `input` parameter: parts `name` (code) and `value` (value[x]).

    Raises:
        UnprocessableError: as `input_value`.
    """
    parts = parameter.get("part")
    named: dict[str, Json] = {}
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, dict) or part.get("name") not in ("name", "value"):
            raise _invalid("an input has the parts name and value and no other")
        if part["name"] in named:
            raise _invalid("an input has each of its parts once")
        named[part["name"]] = part
    if len(named) != 2:
        raise _invalid("an input needs the parts name and value")
    name = named["name"].get("valueCode", named["name"].get("valueString"))
    if not isinstance(name, str):
        raise _invalid("the name of an input is a code")
    return parse_caller_value(name, named["value"])


def parse_caller_value(name: str, element: Json) -> InputValue:
    """The value[x] of a caller: Quantity, integer, decimal, boolean or code.

    A bare number is taken in the input's own unit; a Quantity says its unit in UCUM.

    Args:
        element: an element with exactly one value[x], as a part of Parameters.

    Raises:
        UnprocessableError: as `input_value`.
    """
    item = definition(name)
    keys = [key for key in element if key.startswith("value")]
    if len(keys) != 1 or keys[0] not in _ACCEPTED[item.kind]:
        raise _invalid(f"{name}: needs one value: {item.accepts}")
    given = element[keys[0]]
    if keys[0] == "valueQuantity":
        number, unit = _quantity_parts(name, given)
        return input_value(name, number, unit, source="caller")
    return input_value(name, given, source="caller")


def parse_text(text: str) -> InputValue:
    """`NAME=VALUE` of the command line: `age=50`, `total-cholesterol=5.2 mmol/L`, `sex=male`.

    Raises:
        UnprocessableError: as `input_value`.
    """
    name, separator, said = (part.strip() for part in text.partition("="))
    if not separator:
        raise _invalid("an input is written NAME=VALUE")
    item = definition(name)
    if item.kind == "code":
        return input_value(name, said.lower(), source="caller")
    if item.kind == "boolean":
        truth = _TRUTH.get(said.lower())
        if truth is None:
            raise _invalid(f"{name}: needs true or false")
        return input_value(name, truth, source="caller")
    number, _, unit = said.partition(" ")
    try:
        value = float(number)
    except ValueError:
        raise _invalid(f"{name}: needs {item.accepts}") from None
    return input_value(name, value, unit.strip() or None, source="caller")


def parse_texts(texts: Sequence[str]) -> dict[str, InputValue]:
    """Several `NAME=VALUE` by name.

    Raises:
        UnprocessableError: all that is wrong, one issue each.
    """
    return _collect((f"argument {i + 1}", parse_text, text) for i, text in enumerate(texts))


def parse_as_of(text: str) -> str:
    """The date a score is for: a whole FHIR date (`2026-11-24`).

    Raises:
        UnprocessableError: `invalid-input`.
    """
    try:
        if len(text) != 10:
            raise ValueError
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise _invalid("the date of a score is written YYYY-MM-DD") from None


_TRUTH: Final = {"true": True, "yes": True, "false": False, "no": False}

_NUMBERS: Final = ("valueQuantity", "valueInteger", "valueDecimal", "valuePositiveInt")
_ACCEPTED: Final[Mapping[Kind, Sequence[str]]] = {
    "quantity": _NUMBERS,
    "integer": _NUMBERS,
    "boolean": ("valueBoolean",),
    "code": ("valueCode",),
}


def _quantity_parts(name: str, quantity: Any) -> tuple[Any, str]:
    if not isinstance(quantity, dict) or "value" not in quantity:
        raise _invalid(f"{name}: the Quantity has no value")
    if "comparator" in quantity:
        raise _invalid(f"{name}: a Quantity with a comparator is not a number")
    if quantity.get("system", UCUM) != UCUM:
        raise UnprocessableError(f"{name}: the unit must be a UCUM unit", code="unit-not-accepted")
    unit = quantity.get("code", quantity.get("unit"))
    if not isinstance(unit, str) or not unit:
        raise UnprocessableError(f"{name}: the Quantity has no unit", code="unit-not-accepted")
    return quantity["value"], unit


def _checked(item: InputDefinition, value: object, unit: str | None) -> Value:
    if item.kind == "boolean":
        if not isinstance(value, bool):
            raise _invalid(f"{item.name}: needs {item.accepts}")
        return value
    if item.kind == "code":
        if not isinstance(value, str) or value not in item.codes:
            raise _invalid(f"{item.name}: needs {item.accepts}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"{item.name}: needs {item.accepts}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if unit is not None:
        number = in_unit(number, unit, item)
    if item.kind == "integer" and not number.is_integer():
        raise _invalid(f"{item.name}: needs {item.accepts}")
    # Written so that NaN is refused too.
    if not item.low <= number <= item.high:
        raise UnprocessableError(
            f"{item.name}: outside of what is possible, {item.accepts}", code="out-of-range"
        )
    return number


def _invalid(message: str) -> UnprocessableError:
    return UnprocessableError(message, code="invalid-input")
