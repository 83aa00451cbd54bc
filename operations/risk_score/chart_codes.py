"""Where each input is found in a chart: `chart_codes.yaml`, read once and checked.

The table is data. This module knows the shapes that it may have; `operations.risk_score.chart`
knows how each of them is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, Literal

import yaml

from fhir_ext.resources.codes import Coding
from operations.risk_score.inputs import INPUTS, Value

Json = dict[str, Any]
Source = Literal["chart", "imaging"]

#: What a table may name besides the inputs: inputs follow from it.
PACK_YEARS: Final = "pack-years"

#: Resource types that a rule `from: Medication` looks at.
MEDICATION_TYPES: Final = ("MedicationRequest", "MedicationStatement")

#: Inputs that are read from one nodule Observation.
NODULE_INPUTS: Final = (
    "nodule-diameter",
    "nodule-type",
    "upper-lobe",
    "nodule-count",
    "spiculated",
)


class Take(StrEnum):
    """How a value is read from a resource."""

    AGE = "age"
    GENDER = "gender"
    RACE = "race"
    #: Quantity (or integer) of an Observation or of one of its components.
    QUANTITY = "quantity"
    #: Coded value of an Observation, by the table's `values`.
    CODED = "coded"
    PACK_YEARS = "pack-years"
    #: Number of an Observation of both lungs against `at_least`.
    EMPHYSEMA = "emphysema"
    #: A confirmed Condition.
    CONDITION = "condition"
    #: A medication in use.
    MEDICATION = "medication"
    #: A condition of a relative.
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True)
class CodeSet:
    """Codes that mean one thing.

    Attributes:
        exact: (system, code).
        prefixes: (system, first characters), for systems whose codes nest.
        shown: what a reader is told; a published value set is named by its OID.
    """

    exact: frozenset[tuple[str, str]] = frozenset()
    prefixes: tuple[tuple[str, str], ...] = ()
    shown: tuple[Coding, ...] = ()

    def __contains__(self, concept: object) -> bool:
        """Whether a CodeableConcept has one of the codes."""
        return any(self.has(coding) for coding in codings(concept))

    def has(self, coding: Json) -> bool:
        """Whether a Coding is one of the codes."""
        system, code = coding.get("system"), coding.get("code")
        if not isinstance(system, str) or not isinstance(code, str):
            return False
        return (system, code) in self.exact or any(
            system == wanted and code.startswith(start) for wanted, start in self.prefixes
        )

    def tokens(self) -> list[str]:
        """The exact codes as FHIR search tokens, in a fixed order."""
        return sorted(f"{system}|{code}" for system, code in self.exact)


@dataclass(frozen=True, slots=True)
class Rule:
    """One place where an input is found.

    Attributes:
        name: the input.
        resource: `from` of the table.
        take: how its value is read.
        codes: what the resource, or a component, is coded as.
        panels: codes of Observations that hold it as a component.
        values: input value to the codes that mean it (CODED, RACE).
        ethnicities: the same for the ethnicity (RACE).
        source: `chart` or `imaging`.
        years: look-back window; None for any time.
        active: a Condition must not be over.
        min_years_ago: a Condition must have begun so long ago.
        value: what a found Condition says.
        relatives: which relatives count; all without.
        at_least: from where on an Observation says yes.
    """

    name: str
    resource: str
    take: Take
    codes: CodeSet = field(default_factory=CodeSet)
    panels: CodeSet = field(default_factory=CodeSet)
    values: tuple[tuple[Value, CodeSet], ...] = ()
    ethnicities: tuple[tuple[str, CodeSet], ...] = ()
    source: Source = "chart"
    years: int | None = None
    active: bool = False
    min_years_ago: int = 0
    value: bool = True
    relatives: CodeSet | None = None
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class NoduleRule:
    """How the nodule inputs are read from one Observation.

    Attributes:
        codes: what a nodule Observation is coded as.
        diameter: component codes of the longest diameter, the preferred first.
        facets: input to (value, codes that say it).
        years: look-back window.
    """

    codes: CodeSet
    diameter: tuple[CodeSet, ...]
    facets: Mapping[str, tuple[tuple[Value, CodeSet], ...]]
    years: int


@dataclass(frozen=True, slots=True)
class ChartTable:
    """The whole table."""

    rules: Mapping[str, tuple[Rule, ...]]
    nodule: NoduleRule

    def of(self, names: Iterable[str]) -> Iterator[Rule]:
        """Rules of some inputs, in their order."""
        for name in names:
            yield from self.rules.get(name, ())

    def accepted(self, name: str) -> Sequence[Coding]:
        """What a reader is told about where an input is found; empty where it is not."""
        if name in NODULE_INPUTS:
            return self._accepted_nodule(name)
        return tuple(
            coding
            for rule in self.rules.get(name, ())
            for coding in (*rule.codes.shown, *_values_shown(rule))
        )

    def _accepted_nodule(self, name: str) -> Sequence[Coding]:
        if name == "nodule-diameter":
            parts = [codes.shown for codes in self.nodule.diameter]
        else:
            parts = [codes.shown for _value, codes in self.nodule.facets.get(name, ())]
        return (*self.nodule.codes.shown, *(coding for part in parts for coding in part))

    def imaging_inputs(self, concept: Json) -> frozenset[str]:
        """Inputs that an imaging Observation with this code may give."""
        found = {
            rule.name
            for rules in self.rules.values()
            for rule in rules
            if rule.source == "imaging" and concept in rule.codes
        }
        if concept in self.nodule.codes:
            found.update(NODULE_INPUTS)
        return frozenset(found)

    def imaging_tokens(self) -> list[str]:
        """Search tokens of every imaging Observation that a model may read."""
        found = set(self.nodule.codes.tokens())
        for rules in self.rules.values():
            for rule in rules:
                if rule.source == "imaging":
                    found.update(rule.codes.tokens())
        return sorted(found)


def codings(concept: object) -> list[Json]:
    """The codings of a CodeableConcept; empty for what is none."""
    found = concept.get("coding") if isinstance(concept, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def meant(values: Iterable[tuple[Value, CodeSet]], concept: object) -> Value | None:
    """The value whose codes a CodeableConcept has."""
    return next((value for value, codes in values if concept in codes), None)


@lru_cache(maxsize=1)
def chart_table() -> ChartTable:
    """The table of `chart_codes.yaml`.

    Raises:
        ValueError: it names what does not exist.
    """
    text = resources.files(__package__).joinpath("chart_codes.yaml").read_text("utf-8")
    return _Reader(yaml.safe_load(text)).table()


class _Reader:
    """Turns the parsed YAML into the table; every name must be known."""

    def __init__(self, data: Json) -> None:
        self._data = data
        self._systems: Mapping[str, str] = data["systems"]
        self._sets = {name: self._published(item) for name, item in data["code_sets"].items()}

    def table(self) -> ChartTable:
        rules = {
            name: tuple(self._rule(name, item) for item in items)
            for name, items in self._data["inputs"].items()
        }
        unknown = set(rules) - set(INPUTS) - {PACK_YEARS}
        if unknown:
            raise ValueError(f"chart_codes.yaml: no such inputs: {', '.join(sorted(unknown))}")
        return ChartTable(MappingProxyType(rules), self._nodule(self._data["nodule"]))

    def _rule(self, name: str, item: Json) -> Rule:
        relatives = item.get("relatives")
        sets: Mapping[Value, Sequence[str]] = item.get("value_sets", {})
        values = item.get("values") or item.get("races") or {}
        return Rule(
            name=name,
            resource=item["from"],
            take=Take(item["take"]),
            codes=self._codes(item.get("codes"), item.get("prefixes"), item.get("sets", ())),
            panels=self._codes(item.get("panels")),
            values=tuple(
                (value, self._codes(codes, sets=sets.get(value, ())))
                for value, codes in values.items()
            ),
            ethnicities=tuple(
                (value, self._codes(codes)) for value, codes in item.get("ethnicities", {}).items()
            ),
            source=item.get("source", "chart"),
            years=item.get("years"),
            active=item.get("clinical") == "active",
            min_years_ago=item.get("min_years_ago", 0),
            value=item.get("value", True),
            relatives=self._unnamed(relatives) if relatives else None,
            at_least=float(item.get("at_least", 0)),
        )

    def _nodule(self, item: Json) -> NoduleRule:
        return NoduleRule(
            codes=self._codes(item["codes"]),
            diameter=tuple(
                self._codes({system: {code: display}})
                for system, shown in item["diameter"].items()
                for code, display in shown.items()
            ),
            facets={
                name: tuple((value, self._codes(codes)) for value, codes in item[name].items())
                for name in ("nodule-type", "upper-lobe", "spiculated")
            },
            years=item["years"],
        )

    def _codes(
        self,
        codes: Mapping[str, Mapping[str, str]] | None = None,
        prefixes: Mapping[str, Mapping[str, str]] | None = None,
        sets: Sequence[str] = (),
    ) -> CodeSet:
        exact = self._shown(codes)
        nested = self._shown(prefixes)
        added = [self._sets[name] for name in sets]
        return CodeSet(
            frozenset((c.system, c.code) for c in exact).union(*(one.exact for one in added)),
            tuple((c.system, c.code) for c in nested),
            (*exact, *nested, *(coding for one in added for coding in one.shown)),
        )

    def _shown(self, codes: Mapping[str, Mapping[str, str]] | None) -> list[Coding]:
        return [
            Coding(self._systems[system], str(code), display)
            for system, items in (codes or {}).items()
            for code, display in items.items()
        ]

    def _published(self, item: Json) -> CodeSet:
        """A published value set, which is shown by its OID rather than by its codes."""
        system = self._systems[item["system"]]
        shown = Coding("urn:ietf:rfc3986", f"urn:oid:{item['value_set']}", item["title"])
        return CodeSet(frozenset((system, code) for code in item["codes"]), (), (shown,))

    def _unnamed(self, codes: Mapping[str, Sequence[str]]) -> CodeSet:
        return CodeSet(
            frozenset((self._systems[s], code) for s, items in codes.items() for code in items)
        )


def _values_shown(rule: Rule) -> Iterator[Coding]:
    for _value, codes in (*rule.values, *rule.ethnicities):
        yield from codes.shown
