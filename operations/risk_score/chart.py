"""What a chart says about the inputs of the risk models: resources in, inputs out.

Pure functions. For each input the newest usable value in its look-back window is taken, from
resources that stand: final, amended or corrected Observations, confirmed Conditions, medications
in use. A preliminary result is taken only when the caller allows it, only from imaging, and is
marked. What was found and cannot be used is told as a note. Nothing is concluded from absence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from fhir_ext.errors import OutcomeIssue, UnprocessableError
from fhir_ext.resources.reading import read_member
from fhir_ext.results import InputValue, Region
from operations.risk_score.chart_codes import (
    MEDICATION_TYPES,
    NODULE_INPUTS,
    PACK_YEARS,
    ChartTable,
    Rule,
    Take,
    chart_table,
    codings,
    meant,
)
from operations.risk_score.chart_nodules import read_nodule
from operations.risk_score.chart_time import (
    age_at,
    began,
    ended,
    observed,
    order,
    prescribed,
    span,
)
from operations.risk_score.found import Found, Problem, number_of, stands
from operations.risk_score.inputs import Value, input_value

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

CIGARETTES_PER_PACK: Final = 20


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was found for an input and cannot be used; no patient data."""

    name: str
    text: str

    @property
    def issue(self) -> OutcomeIssue:
        return OutcomeIssue(
            "informational", "unusable-value", f"In the chart, {self.text}", severity="information"
        )


@dataclass(frozen=True, slots=True)
class ChartReading:
    """What a chart says.

    Attributes:
        inputs: by name.
        races: other codes that say the same of `race`, for models that have no term for the
            first.
        notes: what was found and cannot be used.
    """

    inputs: Mapping[str, InputValue]
    races: tuple[InputValue, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class _Chart:
    """The resources of one patient, and the question that is asked of them."""

    by_type: Mapping[str, list[Json]]
    as_of: date
    allow_preliminary: bool

    def of(self, *types: str) -> Iterator[Json]:
        for name in types:
            yield from self.by_type.get(name, ())


def read_chart(
    resources: Iterable[Json],
    names: Iterable[str],
    as_of: date,
    *,
    allow_preliminary: bool = False,
    table: ChartTable | None = None,
) -> ChartReading:
    """The inputs that the resources of one patient give.

    Args:
        resources: of one patient, in any order; what no rule speaks of is ignored.
        names: inputs that are asked for.
        as_of: the date the score is for; nothing later is looked at.
        allow_preliminary: whether preliminary imaging findings may be used.
    """
    table = table or chart_table()
    chart = _Chart(_by_type(resources), as_of, allow_preliminary)
    wanted = list(dict.fromkeys(names))
    inputs: dict[str, InputValue] = {}
    notes: list[Note] = []
    races: tuple[InputValue, ...] = ()
    for name in wanted:
        found = [item for rule in table.of((name,)) for item in _READERS[rule.take](rule, chart)]
        usable, problems = _newest(found)
        if usable:
            inputs[name] = usable[0]
        if name == "race":
            races = tuple(usable)
        notes += problems
    if nodule := [name for name in wanted if name in NODULE_INPUTS]:
        observations = chart.of("Observation")
        for item in read_nodule(table.nodule, observations, as_of, allow_preliminary):
            if item.name in nodule:
                _add(item, inputs, notes)
    return ChartReading(inputs, races, tuple(notes))


def years_from_pack_years(
    pack_years: InputValue | None, cigarettes_per_day: InputValue | None
) -> InputValue | None:
    """Years smoked, which is what pack-years are made of: packs a day times years.

    A pack has 20 cigarettes. None where one of the two is not known.
    """
    if pack_years is None or cigarettes_per_day is None or not cigarettes_per_day.value:
        return None
    years = float(pack_years.value) * CIGARETTES_PER_PACK / float(cigarettes_per_day.value)
    return input_value(
        "years-smoked",
        years,
        source=pack_years.source,
        date=pack_years.date,
        reference=pack_years.reference,
    )


def _newest(found: list[Found]) -> tuple[list[InputValue], list[Note]]:
    """Usable values, the one to take first, and why newer ones cannot be used."""
    ranked = sorted(found, key=_age_of, reverse=True)
    ranked.sort(key=lambda item: item.source != "chart")
    usable: list[InputValue] = []
    notes: list[Note] = []
    for item in ranked:
        try:
            usable.append(_value(item))
        except UnprocessableError as error:
            if not usable:
                notes.append(Note(item.name, error.message))
    return usable, list(dict.fromkeys(notes))


def _age_of(item: Found) -> tuple[Any, str]:
    return order(item.when), item.reference or ""


def _add(item: Found, inputs: dict[str, InputValue], notes: list[Note]) -> None:
    try:
        inputs[item.name] = _value(item)
    except UnprocessableError as error:
        notes.append(Note(item.name, error.message))


def _value(item: Found) -> InputValue:
    if isinstance(item.value, Problem):
        raise UnprocessableError(f"{item.name}: {item.value.text}", code="unusable-value")
    if item.name == PACK_YEARS:
        return InputValue(PACK_YEARS, item.value, "{pack-years}", item.source, item.when,
                          item.reference)  # fmt: skip
    return input_value(
        item.name,
        item.value,
        item.unit,
        source=item.source,
        date=item.when,
        reference=item.reference,
        preliminary=item.preliminary,
    )


def _by_type(resources: Iterable[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for resource in resources:
        found.setdefault(str(resource.get("resourceType")), []).append(resource)
    return found


# Patient


def _age(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for patient in chart.of("Patient"):
        age = age_at(patient.get("birthDate"), chart.as_of)
        if age is not None:
            yield Found.of(rule, patient, age)
        elif "birthDate" in patient:
            yield Found.of(rule, patient, Problem("the birth date leaves the age open"))


def _gender(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for patient in chart.of("Patient"):
        if patient.get("gender") in ("male", "female"):
            yield Found.of(rule, patient, patient["gender"])


def _race(rule: Rule, chart: _Chart) -> Iterator[Found]:
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


def _observations(rule: Rule, chart: _Chart) -> Iterator[Json]:
    for resource in chart.of("Observation"):
        code = resource.get("code")
        if code not in rule.codes and code not in rule.panels:
            continue
        if stands(resource, rule.source, chart.allow_preliminary) and _in_time(
            observed(resource), rule, chart
        ):
            yield resource


def _in_time(when: str | None, rule: Rule, chart: _Chart) -> bool:
    days = span(when)
    return days is not None and days.within(chart.as_of, rule.years)


def _quantity(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for resource in _observations(rule, chart):
        elements = [resource] if resource.get("code") in rule.codes else []
        elements += [c for c in resource.get("component", ()) if c.get("code") in rule.codes]
        for element in elements:
            value, unit = number_of(element)
            if value is not None:
                yield Found.of(rule, resource, value, unit, observed(resource))


def _coded(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for resource in _observations(rule, chart):
        concept = resource.get("valueCodeableConcept")
        value = meant(rule.values, concept)
        if value is not None:
            yield Found.of(rule, resource, value, None, observed(resource))
        elif concept:
            problem = Problem("the recorded code says nothing that a model has a term for")
            yield Found.of(rule, resource, problem, None, observed(resource))


def _pack_years(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for resource in _observations(rule, chart):
        value, unit = number_of(resource)
        if isinstance(value, float) and unit is not None:
            usable = unit.lower() in _PACK_YEAR_UNITS and 0 <= value <= 500
            value = value if usable else Problem("the value or its unit cannot be used")
        if value is not None:
            yield Found.of(rule, resource, value, unit, observed(resource))


def _emphysema(rule: Rule, chart: _Chart) -> Iterator[Found]:
    """Emphysema from the low attenuation area of both lungs."""
    for resource in _observations(rule, chart):
        member = read_member(resource)
        if member is None or member.region is not Region.LUNGS or member.value is None:
            continue
        said = member.value >= rule.at_least if member.unit == "%" else None
        value: Value | Problem = Problem("the unit is not percent") if said is None else said
        yield Found.of(rule, resource, value, None, observed(resource))


# Condition, medication, family


def _condition(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for resource in chart.of("Condition"):
        if resource.get("code") not in rule.codes or not _confirmed(resource):
            continue
        when = began(resource)
        days = span(when)
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
    over = span(ended(condition))
    if over is not None:
        return over.first > as_of
    status = {coding.get("code") for coding in codings(condition.get("clinicalStatus"))}
    abated = any(key.startswith("abatement") for key in condition)
    return bool(status & _ACTIVE) if status else not abated


def _long_ago(when: str | None, years: int, as_of: date) -> bool:
    days = span(when)
    # The end of the window `within` is its beginning here: not younger than that.
    return days is not None and not days.within(as_of, years)


def _medication(rule: Rule, chart: _Chart) -> Iterator[Found]:
    medications = {f"Medication/{m['id']}": m.get("code") for m in chart.of("Medication")}
    for resource in chart.of(*MEDICATION_TYPES):
        if not _in_use(resource):
            continue
        concept = resource.get("medicationCodeableConcept")
        if concept is None:
            named = str((resource.get("medicationReference") or {}).get("reference", ""))
            concept = medications.get(named) or _contained(resource, named)
        days = span(prescribed(resource))
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


def _relative(rule: Rule, chart: _Chart) -> Iterator[Found]:
    for resource in chart.of("FamilyMemberHistory"):
        if resource.get("status") not in _ANSWERED:
            continue
        if rule.relatives is not None and resource.get("relationship") not in rule.relatives:
            continue
        days = span(resource.get("date"))
        if days is not None and days.first > chart.as_of:
            continue
        if any(item.get("code") in rule.codes for item in resource.get("condition", ())):
            yield Found.of(rule, resource, True, None, resource.get("date"))


_READERS: Final[Mapping[Take, Callable[[Rule, _Chart], Iterator[Found]]]] = {
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
