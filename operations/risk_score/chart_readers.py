"""How each kind of rule reads its value from the resources of a chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, Final

from fhir_ext.resources.reading import read_member
from fhir_ext.results import Region
from operations.risk_score.chart_codes import (
    MEDICATION_TYPES,
    CodeSet,
    Rule,
    Take,
    codings,
    meant,
)
from operations.risk_score.chart_time import age_at, began, ended, observed, prescribed, time_span
from operations.risk_score.found import Found, Problem, number_of, stands
from operations.risk_score.inputs import Value

Json = dict[str, Any]

_SYSTEM_RACE: Final = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race"
_SYSTEM_ETHNICITY: Final = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity"

#: Condition.clinicalStatus of what is not over (R4 condition-clinical).
_ACTIVE: Final = frozenset({"active", "recurrence", "relapse"})

#: MedicationRequest.intent of what is more than a plan or proposal.
_ORDERED: Final = frozenset(
    {"order", "original-order", "reflex-order", "filler-order", "instance-order"}
)

#: FamilyMemberHistory.status of what was answered.
_ANSWERED: Final = frozenset({"completed", "partial"})

#: Units of pack-years: US Core's, and the `1` of the mCODE example.
_PACK_YEAR_UNITS: Final = frozenset({"{pack-years}", "{pack-year}", "{packyears}", "1"})


class Chart:
    """The resources of one patient, and the question that is asked of them.

    Args:
        resources: in any order.
        as_of: the date the score is for.
        allow_preliminary: whether preliminary imaging findings may be used.
    """

    def __init__(
        self, resources: Iterable[Json], as_of: date, allow_preliminary: bool = False
    ) -> None:
        self.as_of, self.allow_preliminary = as_of, allow_preliminary
        self._by_type: dict[str, list[Json]] = {}
        self._by_code: dict[tuple[str, str], list[Json]] = {}
        for resource in resources:
            kind = str(resource.get("resourceType"))
            self._by_type.setdefault(kind, []).append(resource)
            if kind == "Observation":
                for coding in codings(resource.get("code")):
                    key = (str(coding.get("system")), str(coding.get("code")))
                    self._by_code.setdefault(key, []).append(resource)

    def of(self, *types: str) -> Iterator[Json]:
        """Resources of some types."""
        for name in types:
            yield from self._by_type.get(name, ())

    def observations(self, *sets: CodeSet) -> list[Json]:
        """Observations with one of the exact codes, each once."""
        found = {
            id(resource): resource
            for codes in sets
            for key in codes.exact
            for resource in self._by_code.get(key, ())
        }
        return list(found.values())


# Patient


def _age(rule: Rule, chart: Chart) -> Iterator[Found]:
    for patient in chart.of("Patient"):
        age = age_at(patient.get("birthDate"), chart.as_of)
        if age is not None:
            yield Found.of(rule, patient, age)
        elif "birthDate" in patient:
            yield Found.of(rule, patient, Problem("the birth date leaves the age open"))


def _gender(rule: Rule, chart: Chart) -> Iterator[Found]:
    for patient in chart.of("Patient"):
        if patient.get("gender") in ("male", "female"):
            yield Found.of(rule, patient, patient["gender"])


def _race(rule: Rule, chart: Chart) -> Iterator[Found]:
    for patient in chart.of("Patient"):
        ethnicity = _said(patient, _SYSTEM_ETHNICITY)
        yield from (
            Found.of(rule, patient, value)
            for value, codes in rule.ethnicities
            if any(codes.has(coding) for coding in ethnicity)
        )
        if any(codes.has(coding) for _, codes in rule.ethnicities for coding in ethnicity):
            continue
        said = _said(patient, _SYSTEM_RACE, "ombCategory")
        if len({coding.get("code") for coding in said}) > 1:
            yield Found.of(rule, patient, Problem("several races are recorded"))
            continue
        every = _said(patient, _SYSTEM_RACE)
        for value, codes in rule.values:
            if any(codes.has(coding) for coding in every):
                yield Found.of(rule, patient, value)


def _said(patient: Json, url: str, *parts: str) -> list[Json]:
    """Codings of a US Core race or ethnicity extension, of some parts or all."""
    return [
        part["valueCoding"]
        for extension in patient.get("extension", ())
        if extension.get("url") == url
        for part in extension.get("extension", ())
        if isinstance(part.get("valueCoding"), dict) and part.get("url") in (parts or _RACE_PARTS)
    ]


_RACE_PARTS: Final = ("ombCategory", "detailed")


# Observation


def _observations(rule: Rule, chart: Chart) -> Iterator[Json]:
    for resource in chart.observations(rule.codes, rule.panels):
        if stands(resource, rule.source, chart.allow_preliminary) and _in_time(
            observed(resource), rule, chart
        ):
            yield resource


def _in_time(when: str | None, rule: Rule, chart: Chart) -> bool:
    days = time_span(when)
    return days is not None and days.within(chart.as_of, rule.years)


def _quantity(rule: Rule, chart: Chart) -> Iterator[Found]:
    for resource in _observations(rule, chart):
        elements = [resource] if resource.get("code") in rule.codes else []
        elements += [c for c in resource.get("component", ()) if c.get("code") in rule.codes]
        for element in elements:
            value, unit = number_of(element)
            if value is not None:
                yield Found.of(rule, resource, value, unit, observed(resource))


def _coded(rule: Rule, chart: Chart) -> Iterator[Found]:
    for resource in _observations(rule, chart):
        concept = resource.get("valueCodeableConcept")
        value = meant(rule.values, concept)
        if value is not None:
            yield Found.of(rule, resource, value, None, observed(resource))
        elif concept:
            problem = Problem("the recorded code says nothing that a model has a term for")
            yield Found.of(rule, resource, problem, None, observed(resource))


def _pack_years(rule: Rule, chart: Chart) -> Iterator[Found]:
    for resource in _observations(rule, chart):
        value, unit = number_of(resource)
        if isinstance(value, float) and unit is not None:
            usable = unit.lower() in _PACK_YEAR_UNITS and 0 <= value <= 500
            value = value if usable else Problem("the value or its unit cannot be used")
        if value is not None:
            yield Found.of(rule, resource, value, unit, observed(resource))


def _emphysema(rule: Rule, chart: Chart) -> Iterator[Found]:
    """Emphysema from the low attenuation area of both lungs."""
    for resource in _observations(rule, chart):
        member = read_member(resource)
        if member is None or member.region is not Region.LUNGS or member.value is None:
            continue
        said = member.value >= rule.at_least if member.unit == "%" else None
        value: Value | Problem = Problem("the unit is not percent") if said is None else said
        yield Found.of(rule, resource, value, None, observed(resource))


# Condition, medication, family


def _condition(rule: Rule, chart: Chart) -> Iterator[Found]:
    for resource in chart.of("Condition"):
        if resource.get("code") not in rule.codes or not _confirmed(resource):
            continue
        when = began(resource)
        days = time_span(when)
        if days is not None and days.first > chart.as_of:
            continue
        if rule.active and not _lasts(resource, chart.as_of):
            continue
        if rule.min_years_ago and not _long_ago(when, rule.min_years_ago, chart.as_of):
            text = f"a diagnosis counts {rule.min_years_ago} years after it was made"
            yield Found.of(rule, resource, Problem(text), None, when)
            continue
        yield Found.of(rule, resource, rule.value, None, when)


def _confirmed(condition: Json) -> bool:
    """Without a verification status, or confirmed; what is suspected or refuted is not used."""
    status = {coding.get("code") for coding in codings(condition.get("verificationStatus"))}
    return not status or "confirmed" in status


def _lasts(condition: Json, as_of: date) -> bool:
    over = time_span(ended(condition))
    if over is not None:
        return over.first > as_of
    status = {coding.get("code") for coding in codings(condition.get("clinicalStatus"))}
    abated = any(key.startswith("abatement") for key in condition)
    return bool(status & _ACTIVE) if status else not abated


def _long_ago(when: str | None, years: int, as_of: date) -> bool:
    days = time_span(when)
    # The end of the window `within` is its beginning here: not younger than that.
    return days is not None and not days.within(as_of, years)


def _medication(rule: Rule, chart: Chart) -> Iterator[Found]:
    medications = {f"Medication/{m['id']}": m.get("code") for m in chart.of("Medication")}
    for resource in chart.of(*MEDICATION_TYPES):
        if not _in_use(resource):
            continue
        concept = resource.get("medicationCodeableConcept")
        if concept is None:
            named = str((resource.get("medicationReference") or {}).get("reference", ""))
            concept = medications.get(named) or _contained(resource, named)
        days = time_span(prescribed(resource))
        if concept in rule.codes and (days is None or days.first <= chart.as_of):
            yield Found.of(rule, resource, True, None, prescribed(resource))


def _in_use(resource: Json) -> bool:
    if resource.get("status") != "active" or resource.get("doNotPerform") is True:
        return False
    return resource["resourceType"] != "MedicationRequest" or resource.get("intent") in _ORDERED


def _contained(resource: Json, reference: str) -> Json | None:
    for item in resource.get("contained", ()):
        if reference == f"#{item.get('id')}":
            code: Json | None = item.get("code")
            return code
    return None


def _relative(rule: Rule, chart: Chart) -> Iterator[Found]:
    for resource in chart.of("FamilyMemberHistory"):
        if resource.get("status") not in _ANSWERED:
            continue
        if rule.relatives is not None and resource.get("relationship") not in rule.relatives:
            continue
        days = time_span(resource.get("date"))
        if days is not None and days.first > chart.as_of:
            continue
        if any(item.get("code") in rule.codes for item in resource.get("condition", ())):
            yield Found.of(rule, resource, True, None, resource.get("date"))


READERS: Final[Mapping[Take, Callable[[Rule, Chart], Iterator[Found]]]] = {
    Take.AGE: _age,
    Take.GENDER: _gender,
    Take.RACE: _race,
    Take.QUANTITY: _quantity,
    Take.CODED: _coded,
    Take.PACK_YEARS: _pack_years,
    Take.EMPHYSEMA: _emphysema,
    Take.CONDITION: _condition,
    Take.MEDICATION: _medication,
    Take.RELATIVE: _relative,
}
