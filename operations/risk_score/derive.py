"""What follows from an input by the meaning of the words, and what contradicts another.

Nothing is estimated here: a current smoker has quit 0 years ago and has ever smoked, and that
is all. A value of the caller goes before one of the chart, and the chart's before imaging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fhir_ext.errors import OutcomeIssue
from fhir_ext.results import InputValue
from operations.risk_score.inputs import Value


@dataclass(frozen=True, slots=True)
class Rule:
    """`target` is known once `source` has one of the values of `gives`."""

    target: str
    source: str
    gives: Mapping[Value, Value]


RULES: Final[tuple[Rule, ...]] = (
    Rule("smoker", "smoking-status", {"current": True, "former": False, "never": False}),
    Rule("ever-smoker", "smoking-status", {"current": True, "former": True, "never": False}),
    Rule("ever-smoker", "smoker", {True: True}),
    Rule("smoking-status", "smoker", {True: "current"}),
    Rule("smoking-status", "ever-smoker", {False: "never"}),
    Rule("years-quit", "smoking-status", {"current": 0.0}),
    Rule("years-quit", "smoker", {True: 0.0}),
)

#: Inputs from which an input may follow.
SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    target: tuple(rule.source for rule in RULES if rule.target == target)
    for target in dict.fromkeys(rule.target for rule in RULES)
}

_RANK: Final = {"caller": 0, "chart": 1, "imaging": 2}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The values of a model's inputs and what they were taken from.

    Attributes:
        values: by name, only what is known.
        used: the given inputs that they were taken from, in the model's order.
        issues: what contradicts what.
    """

    values: dict[str, Value]
    used: tuple[InputValue, ...]
    issues: tuple[OutcomeIssue, ...]


def resolve(names: Sequence[str], given: Mapping[str, InputValue]) -> Resolved:
    """Values of the named inputs, given or following from what is given; no others matter."""
    read = (*names, *(source for name in names for source in SOURCES.get(name, ())))
    known = {name: given[name] for name in read if name in given}
    issues = _drop_contradicted(known)
    values: dict[str, Value] = {}
    used: dict[str, InputValue] = {}
    for name in names:
        item = known.get(name)
        if item is not None:
            values[name] = item.value
            used[name] = item
        elif name in SOURCES:
            _follow(name, known, values, used)
    issues += _impossible(values)
    return Resolved(values, tuple(used.values()), tuple(issues))


def _follow(
    name: str,
    known: Mapping[str, InputValue],
    values: dict[str, Value],
    used: dict[str, InputValue],
) -> None:
    for rule in RULES:
        source = known.get(rule.source)
        if rule.target == name and source is not None and source.value in rule.gives:
            values[name] = rule.gives[source.value]
            used.setdefault(rule.source, source)
            return


def _drop_contradicted(known: dict[str, InputValue]) -> list[OutcomeIssue]:
    """Take out what contradicts a value that goes before it; of equal rank, it is an issue."""
    issues = []
    for rule in RULES:
        target, source = known.get(rule.target), known.get(rule.source)
        if target is None or source is None or source.value not in rule.gives:
            continue
        if rule.gives[source.value] == target.value:
            continue
        if _RANK[target.source] == _RANK[source.source]:
            issues.append(_contradiction(rule.target, rule.source))
        else:
            weaker = max((target, source), key=lambda item: _RANK[item.source])
            del known[weaker.name]
    return issues


def _impossible(values: Mapping[str, Value]) -> list[OutcomeIssue]:
    issues = []
    age, smoked, quit_ = (_number(values, n) for n in ("age", "years-smoked", "years-quit"))
    if age is not None and (smoked or 0.0) + (quit_ or 0.0) > age:
        issues.append(_contradiction("years-smoked and years-quit", "age"))
    total, hdl = _number(values, "total-cholesterol"), _number(values, "hdl")
    if total is not None and hdl is not None and hdl > total:
        issues.append(_contradiction("hdl", "total-cholesterol"))
    return issues


def _number(values: Mapping[str, Value], name: str) -> float | None:
    return float(values[name]) if name in values else None


def _contradiction(one: str, other: str) -> OutcomeIssue:
    return OutcomeIssue("business-rule", "contradicting-inputs", f"{one} contradicts {other}")
