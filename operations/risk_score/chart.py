"""What a chart says about the inputs of the risk models: resources in, inputs out.

Pure functions. For each input the newest usable value in its look-back window is taken, from
resources that stand: final, amended or corrected Observations, confirmed Conditions, medications
in use. A preliminary result is taken only when the caller allows it, only from imaging, and is
marked. What was found and cannot be used is told as a note. Nothing is concluded from absence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from fhir_ext.errors import OutcomeIssue, UnprocessableError
from fhir_ext.results import InputValue
from operations.risk_score.chart_codes import (
    NODULE_INPUTS,
    PACK_YEARS,
    ChartTable,
    chart_table,
)
from operations.risk_score.chart_nodules import read_nodule
from operations.risk_score.chart_readers import READERS, Chart
from operations.risk_score.chart_time import (
    order,
)
from operations.risk_score.found import Found, Problem
from operations.risk_score.inputs import input_value

Json = dict[str, Any]

#: A pack, as pack-years count.
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
    chart = Chart(resources, as_of, allow_preliminary)
    wanted = list(dict.fromkeys(names))
    inputs: dict[str, InputValue] = {}
    notes: list[Note] = []
    races: tuple[InputValue, ...] = ()
    for name in wanted:
        found = [item for rule in table.of((name,)) for item in READERS[rule.take](rule, chart)]
        usable, problems = _newest(found)
        if usable:
            inputs[name] = usable[0]
        if name == "race":
            races = tuple(usable)
        notes += problems
    if nodule := [name for name in wanted if name in NODULE_INPUTS]:
        seen = chart.observations(table.nodule.codes)
        for item in read_nodule(table.nodule, seen, as_of, allow_preliminary):
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
