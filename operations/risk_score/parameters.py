"""What a caller asks of `$risk-score`, read strictly: what is not defined is refused.

A request that is not of the shape of the OperationDefinition is 400; values that are of the
right shape and cannot be used (an unknown input, a unit of another dimension) are 422. Every
issue says where in the caller's own Parameters it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final, Literal

import orjson

from fhir_ext.errors import BadRequestError, OutcomeIssue, UnprocessableError
from fhir_ext.results import InputValue
from operations.risk_score.catalogue import MODELS
from operations.risk_score.inputs import INPUTS, caller_inputs

Json = dict[str, Any]
Level = Literal["instance", "type"]

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_PATIENT: Final = re.compile(r"Patient/([A-Za-z0-9\-.]{1,64})")

#: Somewhere it is tomorrow already.
_AHEAD: Final = timedelta(days=1)

#: Query parameters of a GET that are not of the operation, and the values that they may have.
_FORMATS: Final = frozenset({"json", "application/json", "application/fhir+json"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was understood.

    Attributes:
        models: codes of models that exist, each once.
        given: inputs of the caller, by name.
        as_of: date that the score is for.
        persist: whether it is kept.
        allow_preliminary: whether preliminary imaging findings may be used.
        subject: id of the Patient that the type level names.
    """

    models: tuple[str, ...]
    given: Mapping[str, InputValue]
    as_of: date
    persist: bool = False
    allow_preliminary: bool = False
    subject: str | None = None


@dataclass(slots=True)
class _Draft:
    models: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    issues: list[OutcomeIssue] = field(default_factory=list)

    def add(self, name: str, value: object, where: str) -> None:
        """Note one parameter that has a value.

        Args:
            where: FHIRPath, or the name of the query parameter.
        """
        try:
            parsed = _PARSERS[name](value)
        except ValueError as error:
            self.wrong(where, f"{name}: {error}")
            return
        if name == "model":
            self.models.append(parsed)
        elif name in self.values:
            self.wrong(where, f"{name}: given more than once")
        else:
            self.values[name] = parsed

    def wrong(self, where: str | None, text: str, code: str = "invalid") -> None:
        self.issues.append(OutcomeIssue(code, "bad-request", text, expression=where))

    def finish(self, given: Callable[[], Mapping[str, InputValue]], today: date) -> Asked:
        """What is asked for.

        Raises:
            BadRequestError: something was noted as wrong, or no model is named.
            UnprocessableError: a model does not exist, or an input cannot be used.
        """
        if not self.models and not self.issues:
            self.wrong("Parameters.parameter", "model: needed at least once", "required")
        as_of = self.values.get("asOf", today)
        if as_of > today + _AHEAD:
            self.wrong("Parameters.parameter.where(name = 'asOf')", "asOf: lies in the future")
        if self.issues:
            text = "; ".join(issue.diagnostics for issue in self.issues)
            raise BadRequestError(text, issues=self.issues)
        models = tuple(dict.fromkeys(self.models))
        _check_models(models)
        return Asked(
            models=models,
            given=given(),
            as_of=as_of,
            persist=self.values.get("persist", False),
            allow_preliminary=self.values.get("allowPreliminary", False),
            subject=self.values.get("subject"),
        )


def read_body(body: bytes) -> Json:
    """The Parameters resource of a POST.

    Raises:
        BadRequestError: no JSON, or no Parameters.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _malformed("the body is not JSON") from error
    if not isinstance(found, dict) or found.get("resourceType") != "Parameters":
        raise _malformed("the body is no Parameters resource", "Parameters")
    if found.keys() - {"resourceType", "id", "meta", "language", "parameter"}:
        raise _malformed("Parameters has elements that it should not have", "Parameters")
    if not isinstance(found.get("parameter", []), list):
        raise _malformed("Parameters.parameter is no list", "Parameters.parameter")
    return found


def needs_conversion(resource: Json) -> bool:
    """Whether an input has a unit that is not written as the models read it.

    Converting it takes milliseconds, and the first time a second.
    """
    for parameter in resource.get("parameter", ()):
        parts = parameter.get("part") if isinstance(parameter, dict) else None
        name, quantity = None, None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                name = part.get("valueCode", name)
                quantity = part.get("valueQuantity", quantity)
        item = INPUTS.get(name) if isinstance(name, str) else None
        if item is not None and isinstance(quantity, dict) and quantity.get("code") != item.unit:
            return True
    return False


def parse_parameters(resource: Json, level: Level, today: date) -> Asked:
    """What the Parameters of a POST ask for.

    Args:
        resource: of `read_body`.
        level: `instance` for a Patient, `type` for RiskAssessment.
        today: the default of `asOf`.

    Raises:
        BadRequestError: not as the OperationDefinition has them.
        UnprocessableError: `unknown-model`, or what `caller_inputs` raises.
    """
    draft = _Draft()
    for index, parameter in enumerate(resource.get("parameter", ())):
        _note(draft, parameter, f"Parameters.parameter[{index}]", level)
    if draft.values.get("persist") and level == "type" and "subject" not in draft.values:
        draft.wrong("Parameters.parameter", "subject: needed to persist", "required")
    return draft.finish(lambda: caller_inputs(resource), today)


def parse_query(pairs: Sequence[tuple[str, str]], today: date) -> Asked:
    """The query of a GET on a Patient, which never writes anything.

    Raises:
        BadRequestError: a parameter that a GET does not have, or a value that it may not have.
        UnprocessableError: `unknown-model`.
    """
    draft = _Draft()
    for name, text in pairs:
        if name == "_format":
            if text.partition(";")[0] not in _FORMATS:
                draft.wrong(name, "_format: only JSON is answered")
        elif name == "persist":
            if text != "false":
                draft.wrong(name, "persist: a GET keeps nothing; use POST", "not-supported")
        elif name in ("model", "asOf"):
            draft.add(name, text, name)
        elif name == "allowPreliminary":
            draft.add(name, {"true": True, "false": False}.get(text), name)
        elif name in ("input", "subject"):
            draft.wrong(name, f"{name}: not on GET; use POST", "not-supported")
        else:
            draft.wrong(None, "a query parameter that this operation does not have")
    return draft.finish(dict, today)


def _note(draft: _Draft, parameter: object, where: str, level: Level) -> None:
    if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
        draft.wrong(where, "a parameter without a name")
        return
    name = parameter["name"]
    if name == "input":
        if not isinstance(parameter.get("part"), list) or parameter.keys() - {"name", "part"}:
            draft.wrong(where, "input: has parts and no value")
        return
    element = _ELEMENTS.get(name)
    if element is None or (name == "subject" and level == "instance"):
        draft.wrong(where, "a parameter that this operation does not have")
    elif parameter.keys() != {"name", element}:
        draft.wrong(where, f"{name}: needs {element} and nothing else")
    else:
        draft.add(name, parameter[element], f"{where}.value")


def _check_models(models: Sequence[str]) -> None:
    unknown = [code for code in models if code not in MODELS]
    if not unknown:
        return
    text = f"there is no such risk model; there are {', '.join(MODELS)}"
    where = "Parameters.parameter.where(name = 'model')"
    issue = OutcomeIssue("code-invalid", "unknown-model", text, expression=where)
    raise UnprocessableError(text, code="unknown-model", issues=[issue])


def _code(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("needs a code")
    return value


def _whole_date(value: object) -> date:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError("needs a date with year, month and day")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such day") from None


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("needs true or false")
    return value


def _patient(value: object) -> str:
    reference = value.get("reference") if isinstance(value, dict) else None
    found = _PATIENT.fullmatch(reference) if isinstance(reference, str) else None
    if found is None:
        raise ValueError("needs a relative reference to a Patient")
    return found.group(1)


_ELEMENTS: Final[Mapping[str, str]] = {
    "model": "valueCode",
    "asOf": "valueDate",
    "persist": "valueBoolean",
    "allowPreliminary": "valueBoolean",
    "subject": "valueReference",
}
_PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "model": _code,
    "asOf": _whole_date,
    "persist": _truth,
    "allowPreliminary": _truth,
    "subject": _patient,
}


def _malformed(text: str, where: str | None = None) -> BadRequestError:
    issue = OutcomeIssue("structure", "bad-request", text, expression=where)
    return BadRequestError(text, issues=[issue])
