"""The body of `$review`, read strictly: what is not defined is refused, with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from fhir_ext.errors import BadRequestError, OutcomeIssue
from fhir_ext.resources.codes import REVIEW_OUTCOME, UCUM
from fhir_ext.resources.review import Outcome

Json = dict[str, Any]

_TARGET: Final = re.compile(r"Observation/([A-Za-z0-9.-]{1,64})")

#: More numbers than any panel has, and longer than any reason.
MOST_CHANGES: Final = 500
LONGEST_TEXT: Final = 2000

_CODING_KEYS: Final = frozenset({"system", "version", "code", "display", "userSelected"})
_QUANTITY_KEYS: Final = frozenset({"value", "unit", "system", "code"})


@dataclass(frozen=True, slots=True)
class Change:
    """One number or category that the reviewer gives, or one place that is none.

    Attributes:
        target: id of the Observation.
        value: in `unit`; None unless it is a number.
        unit: UCUM code.
        place: FHIRPath of the change in the request.
        category: (system, code); None unless it is a category.
        struck: the place that the model found is none.
    """

    target: str
    value: float | None
    unit: str
    place: str
    category: tuple[str, str] | None = None
    struck: bool = False


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """A well-formed request; whether its targets fit the Task is not looked at here."""

    outcome: Outcome
    reason: Json | None = None
    changes: tuple[Change, ...] = ()


@dataclass(slots=True)
class _Reader:
    """Collects everything that is wrong, so that a caller sees it at once."""

    issues: list[OutcomeIssue] = field(default_factory=list)

    def wrong(self, place: str, text: str, code: str = "invalid") -> None:
        self.issues.append(OutcomeIssue(code, "review-parameter", text, expression=place))


def read_request(body: object) -> ReviewRequest:
    """The request of a Parameters resource.

    Raises:
        BadRequestError: with one issue for each thing that is wrong and its FHIRPath.
    """
    reader = _Reader()
    outcome = reason = None
    changes: list[Change] = []
    for place, name, parameter in _parameters(body, reader):
        if name == "outcome" and outcome is None:
            outcome = _outcome(parameter, place, reader)
        elif name == "reason" and reason is None:
            reason = _reason(parameter, place, reader)
        elif name == "change" and len(changes) < MOST_CHANGES:
            change = _change(parameter, place, reader)
            changes += [change] if change else []
        elif name in ("outcome", "reason", "change"):
            reader.wrong(place, f"parameter {name} is given too often")
        else:
            reader.wrong(f"{place}.name", "no such parameter")
    _fit_together(outcome, reason, changes, reader)
    if reader.issues or outcome is None:
        raise BadRequestError("the parameters are not valid", issues=reader.issues)
    return ReviewRequest(outcome, reason, tuple(changes))


def require_empty(body: object) -> None:
    """That an operation without parameters got none.

    Raises:
        BadRequestError: it got some.
    """
    reader = _Reader()
    if body is not None:
        for place, _name, _parameter in _parameters(body, reader):
            reader.wrong(place, "this operation has no parameters")
    if reader.issues:
        raise BadRequestError("the parameters are not valid", issues=reader.issues)


def _parameters(body: object, reader: _Reader) -> Iterator[tuple[str, str, Json]]:
    """(FHIRPath, name, parameter) of each parameter."""
    if not isinstance(body, dict) or body.get("resourceType") != "Parameters":
        reader.wrong("Parameters", "the body must be a Parameters resource", "structure")
        return
    for key in body:
        if key not in ("resourceType", "id", "meta", "parameter"):
            reader.wrong("Parameters", "only parameter may be given", "structure")
    yield from _listed(body.get("parameter", []), "Parameters.parameter", reader)


def _listed(found: object, place: str, reader: _Reader) -> Iterator[tuple[str, str, Json]]:
    if not isinstance(found, list):
        reader.wrong(place, "must be a list", "structure")
        return
    for number, item in enumerate(found):
        where = f"{place}[{number}]"
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            yield where, item["name"], item
        else:
            reader.wrong(where, "must be an object with a name", "structure")


def _value(parameter: Json, key: str, place: str, reader: _Reader) -> Any:
    """The one value of a parameter, which must have the given type."""
    others = [name for name in parameter if name not in ("name", key)]
    if others or key not in parameter:
        reader.wrong(place, f"must have {key} and nothing else", "structure")
        return None
    return parameter[key]


def _outcome(parameter: Json, place: str, reader: _Reader) -> Outcome | None:
    value = _value(parameter, "valueCode", place, reader)
    if value is None:
        return None
    if not isinstance(value, str) or value not in REVIEW_OUTCOME:
        known = ", ".join(item.code for item in REVIEW_OUTCOME.codes)
        reader.wrong(f"{place}.value", f"must be one of {known}", "code-invalid")
        return None
    return cast("Outcome", value)


def _reason(parameter: Json, place: str, reader: _Reader) -> Json | None:
    value = _value(parameter, "valueCodeableConcept", place, reader)
    if value is None:
        return None
    place = f"{place}.value"
    if not isinstance(value, dict) or set(value) - {"coding", "text"}:
        reader.wrong(place, "must be a CodeableConcept of coding and text", "structure")
        return None
    text, codings = value.get("text"), value.get("coding", [])
    if text is not None and (
        not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT
    ):
        reader.wrong(f"{place}.text", f"must be text of at most {LONGEST_TEXT} characters")
    if not isinstance(codings, list) or not all(map(_is_coding, codings)):
        reader.wrong(f"{place}.coding", "must be Codings with a code", "structure")
    elif not codings and text is None:
        reader.wrong(place, "must have a coding or a text", "required")
    return cast("Json", value)


def _is_coding(coding: object) -> bool:
    return (
        isinstance(coding, dict)
        and set(coding) <= _CODING_KEYS
        and isinstance(coding.get("code"), str)
        and bool(coding["code"])
        and all(isinstance(coding.get(key, ""), str) for key in ("system", "version", "display"))
        and isinstance(coding.get("userSelected", False), bool)
    )


def _change(parameter: Json, place: str, reader: _Reader) -> Change | None:
    if set(parameter) != {"name", "part"}:
        reader.wrong(place, "must have the parts target and value and nothing else", "structure")
        return None
    parts: dict[str, tuple[str, Json]] = {}
    for where, name, part in _listed(parameter["part"], f"{place}.part", reader):
        if name not in ("target", *_VALUES) or name in parts:
            reader.wrong(where, "must be one target and one value")
        parts[name] = (where, part)
    given = [name for name in _VALUES if name in parts]
    if not given or "target" not in parts:
        missing = "target" if "target" not in parts else "value"
        reader.wrong(f"{place}.part", f"part {missing} is missing", "required")
        return None
    if len(given) > 1:
        reader.wrong(f"{place}.part", "must be one of value, category and status")
    if len(parts) != 2:
        return None
    target = _target(parts["target"][1], parts["target"][0], reader)
    where, part = parts[given[0]]
    change = _READ[given[0]](part, where, reader, place)
    return None if target is None or change is None else replace(change, target=target)


def _number_change(part: Json, where: str, reader: _Reader, place: str) -> Change | None:
    quantity = _quantity(part, where, reader)
    return None if quantity is None else Change("", *quantity, place)


def _category_change(part: Json, where: str, reader: _Reader, place: str) -> Change | None:
    value = _value(part, "valueCoding", where, reader)
    if value is None:
        return None
    if not _is_coding(value) or not value.get("system"):
        reader.wrong(f"{where}.value", "must be a Coding with system and code", "structure")
        return None
    return Change("", None, "", place, category=(value["system"], value["code"]))


def _status_change(part: Json, where: str, reader: _Reader, place: str) -> Change | None:
    value = _value(part, "valueCode", where, reader)
    if value is None:
        return None
    if value != "entered-in-error":
        reader.wrong(f"{where}.value", "must be entered-in-error", "code-invalid")
        return None
    return Change("", None, "", place, struck=True)


#: What a change gives, by the name of its part.
_READ: Final[Mapping[str, Callable[[Json, str, _Reader, str], Change | None]]] = {
    "value": _number_change,
    "category": _category_change,
    "status": _status_change,
}
_VALUES: Final = tuple(_READ)


def _target(part: Json, place: str, reader: _Reader) -> str | None:
    value = _value(part, "valueReference", place, reader)
    if value is None:
        return None
    reference = value.get("reference") if isinstance(value, dict) else None
    found = _TARGET.fullmatch(reference) if isinstance(reference, str) else None
    if found is None:
        reader.wrong(f"{place}.value", "must be a relative reference to an Observation")
        return None
    return found[1]


def _quantity(part: Json, place: str, reader: _Reader) -> tuple[float, str] | None:
    value = _value(part, "valueQuantity", place, reader)
    if value is None:
        return None
    place = f"{place}.value"
    if not isinstance(value, dict) or set(value) - _QUANTITY_KEYS:
        reader.wrong(place, "must be a Quantity of value, unit, system and code", "structure")
        return None
    number, unit = value.get("value"), value.get("code")
    if isinstance(number, bool) or not isinstance(number, int | float) or not _finite(number):
        reader.wrong(f"{place}.value", "must be a number")
        return None
    if value.get("system") != UCUM or not isinstance(unit, str) or not unit:
        reader.wrong(place, f"must have a code of the system {UCUM}", "code-invalid")
        return None
    return float(number), unit


def _finite(number: float) -> bool:
    """Whether a number can stand in a 64-bit float; Python's integers have no end."""
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def _fit_together(
    outcome: Outcome | None, reason: Json | None, changes: list[Change], reader: _Reader
) -> None:
    """Rules between parameters; silent where a part of them is wrong by itself."""
    if reader.issues:
        return
    if outcome is None:
        reader.wrong("Parameters", "parameter outcome is missing", "required")
    if outcome in ("modify", "reject") and reason is None:
        reader.wrong("Parameters", f"{outcome} needs a reason", "required")
    if outcome == "accept" and reason is not None:
        reader.wrong("Parameters", "accept takes no reason")
    if outcome == "modify" and not changes:
        reader.wrong("Parameters", "modify needs a change", "required")
    if outcome in ("accept", "reject") and changes:
        reader.wrong(changes[0].place, f"{outcome} takes no change")
    seen: Mapping[str, Change] = {}
    for change in changes:
        if change.target in seen:
            reader.wrong(change.place, "the target is changed twice", "duplicate")
        seen = {**seen, change.target: change}
