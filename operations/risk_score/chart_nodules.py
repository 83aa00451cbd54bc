"""The nodule inputs: all of one score are read from one nodule of one study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from fhir_ext.errors import UnprocessableError
from fhir_ext.resources.codes import TRACKING_UID
from operations.risk_score.chart_codes import NoduleRule, codings
from operations.risk_score.chart_time import observed, order, time_span
from operations.risk_score.found import Found, Problem, number_of, reference_of, stands
from operations.risk_score.inputs import INPUTS, Value
from operations.risk_score.units import in_unit

Json = dict[str, Any]


def read_nodule(
    rule: NoduleRule, observations: Iterable[Json], as_of: date, allow_preliminary: bool
) -> Iterator[Found]:
    """What is recorded of the nodule with the longest diameter in the newest study.

    The number of nodules is that of the Observations of this study; an Observation that names
    no study counts for nothing but itself, so there is no number then.
    """
    nodules = _newest_study(
        [
            item
            for item in observations
            if item.get("code") in rule.codes
            and stands(item, "imaging", allow_preliminary)
            and (days := time_span(observed(item))) is not None
            and days.within(as_of, rule.years)
        ]
    )
    if not nodules:
        return
    chosen = _largest(rule, nodules)
    if chosen is None:
        problem = Problem("several nodules are recorded without a longest diameter")
        yield _found("nodule-diameter", nodules[0], problem)
    else:
        value, unit = _diameter(rule, chosen)
        if value is not None:
            yield _found("nodule-diameter", chosen, value, unit)
        for name, facets in rule.facets.items():
            said = {value for value, codes in facets if any(map(codes.has, _said(chosen)))}
            if said:
                several = Problem("the nodule is recorded in several ways")
                yield _found(name, chosen, said.pop() if len(said) == 1 else several)
    if _study(nodules[0]) is not None:
        yield _found("nodule-count", chosen or nodules[0], _count(nodules))


def _newest_study(nodules: list[Json]) -> list[Json]:
    if not nodules:
        return []
    newest = max(nodules, key=lambda item: (order(observed(item)), str(item.get("id"))))
    study = _study(newest)
    if study is None:
        return [newest]
    return [item for item in nodules if _study(item) == study]


def _study(nodule: Json) -> str | None:
    """`ImagingStudy/id` that a nodule was seen in."""
    for item in nodule.get("derivedFrom", ()):
        reference = str(item.get("reference", "")).partition("/_history/")[0]
        if reference.startswith("ImagingStudy/"):
            return reference
    return None


def _count(nodules: list[Json]) -> int:
    """Different nodules: several Observations may speak of one, by its tracking UID."""
    return len({_tracking(item) or reference_of(item) for item in nodules})


def _tracking(nodule: Json) -> str | None:
    for component in nodule.get("component", ()):
        for coding in codings(component.get("code")):
            if (coding.get("system"), coding.get("code")) == (
                TRACKING_UID.system,
                TRACKING_UID.code,
            ):
                return str(component.get("valueString"))
    return None


def _largest(rule: NoduleRule, nodules: list[Json]) -> Json | None:
    """The nodule with the longest diameter; None when several leave that open."""
    measured = [(size, item) for item in nodules if (size := _millimetres(rule, item)) is not None]
    if measured:
        return max(measured, key=lambda pair: (pair[0], str(pair[1].get("id"))))[1]
    return nodules[0] if len(nodules) == 1 else None


def _millimetres(rule: NoduleRule, nodule: Json) -> float | None:
    value, unit = _diameter(rule, nodule)
    if not isinstance(value, float) or unit is None:
        return None
    try:
        return in_unit(value, unit, INPUTS["nodule-diameter"])
    except UnprocessableError:
        return None


def _diameter(rule: NoduleRule, nodule: Json) -> tuple[float | Problem | None, str | None]:
    for codes in rule.diameter:
        for component in nodule.get("component", ()):
            if component.get("code") in codes:
                value, unit = number_of(component)
                if value is not None:
                    return value, unit
    return None, None


def _said(nodule: Json) -> list[Json]:
    """Every coding that says something about the nodule: site, value, coded components."""
    concepts = [nodule.get("bodySite"), nodule.get("valueCodeableConcept")]
    concepts += [item.get("valueCodeableConcept") for item in nodule.get("component", ())]
    return [coding for concept in concepts for coding in codings(concept)]


def _found(name: str, nodule: Json, value: Value | Problem, unit: str | None = None) -> Found:
    return Found(
        name=name,
        value=value,
        unit=unit,
        when=observed(nodule),
        reference=reference_of(nodule),
        source="imaging",
        preliminary=nodule.get("status") == "preliminary",
    )
