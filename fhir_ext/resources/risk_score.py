"""RiskAssessment of a risk score: the probability, and every input it was computed from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Any, Final, Literal

from fhir_ext.resources import codes
from fhir_ext.resources.codes import LocalSystem, concept, profile
from fhir_ext.results import InputValue, RiskPrediction, RiskScore

Json = dict[str, Any]

#: R4 needs a subject; a score of values that somebody typed in has none that we know.
NOT_IDENTIFIED: Final[Mapping[str, str]] = MappingProxyType({"display": "not identified"})

#: Digits of `probabilityDecimal`, which is in percent.
_DIGITS: Final = 4

_UNIT_TEXT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "a": "years",
        "mm[Hg]": "mm Hg",
        "{cigarettes}/d": "cigarettes a day",
        "mL/min/{1.73_m2}": "mL/min/1.73 m2",
        "1": "",
    }
)
_TITLE: Final = MappingProxyType({item.code: item.display for item in codes.RISK_INPUT.codes})


def _concepts(system: LocalSystem) -> Mapping[str, Json]:
    return {item.code: concept(system.coding(item.code)) for item in system.codes}


_OUTCOME: Final = _concepts(codes.RISK_OUTCOME)
_QUALITATIVE: Final = {code: concept(item) for code, item in codes.RISK_PROBABILITY.items()}


def risk_score_assessment(
    score: RiskScore,
    subject: Json | None,
    *,
    resource_id: str | None = None,
    identifier: Json | None = None,
    status: Literal["registered", "preliminary", "final", "amended"] | None = None,
    performer: Json | None = None,
) -> Json:
    """A RiskAssessment (R4) of the profile `risk-score`.

    The horizon is `whenPeriod`, from the date of the score: an R4 `whenRange` in years may be
    read as an age. `mitigation` stays empty: no advice that the publication does not give.

    Args:
        subject: Reference to the patient; None for values of nobody in particular.
        resource_id: id, for a score that is kept.
        identifier: Identifier, for a score that is kept.
        status: R4 status; by default `final`, and `preliminary` when an input is.
        performer: Reference to the Device or person that computed it.

    Returns:
        JSON; parts of it are shared with other results and must not be changed in place.

    Raises:
        KeyError: model or outcome has no code.
        ValueError: `score.as_of` is not a whole date.
    """
    preliminary = any(item.preliminary for item in score.inputs)
    resource: Json = {"resourceType": "RiskAssessment"}
    if resource_id is not None:
        resource["id"] = resource_id
    resource["meta"] = {"profile": [profile("risk-score")]}
    resource["extension"] = [_input_extension(item) for item in score.inputs]
    if identifier is not None:
        resource["identifier"] = [identifier]
    resource["status"] = status or ("preliminary" if preliminary else "final")
    resource["method"] = concept(
        codes.RISK_MODEL.coding(score.model),
        text=f"{score.title}, {score.model} {score.version}; {score.citation}",
    )
    resource["code"] = _OUTCOME[score.predictions[0].outcome]
    resource["subject"] = dict(NOT_IDENTIFIED) if subject is None else subject
    resource["occurrenceDateTime"] = score.as_of
    if performer is not None:
        resource["performer"] = performer
    basis = dict.fromkeys(item.reference for item in score.inputs if item.reference)
    if basis:
        resource["basis"] = [{"reference": reference} for reference in basis]
    resource["prediction"] = [_prediction(item, score) for item in score.predictions]
    resource["note"] = [{"text": text} for text in (*map(input_text, score.inputs), *score.flags)]
    return resource


def risk_score_text(score: RiskScore) -> str:
    """A score in sentences, one a line."""
    lines = [f"{score.title} ({score.citation}), {score.as_of}"]
    for item in score.predictions:
        outcome = codes.RISK_OUTCOME.coding(item.outcome).display
        horizon = f" within {item.years:g} years" if item.years is not None else ""
        threshold = f", {item.threshold}" if item.threshold else ""
        lines.append(f"{outcome}{horizon}: {item.percent:.2f} %{threshold}")
    lines += [f"  {input_text(item)}" for item in score.inputs]
    return "\n".join([*lines, *score.flags])


def input_text(item: InputValue) -> str:
    """One input in words: `Systolic blood pressure: 120 mm Hg, given by caller`."""
    parts = [f"{_TITLE[item.name]}: {_value_text(item)}"]
    if item.date:
        parts.append(item.date)
    if item.source == "caller":
        parts.append("given by caller")
    else:
        parts.append(f"from {item.reference or f'the {item.source}'}")
    if item.preliminary:
        parts.append("preliminary")
    return ", ".join(parts)


def _value_text(item: InputValue) -> str:
    if isinstance(item.value, bool):
        return "yes" if item.value else "no"
    if isinstance(item.value, str):
        return item.value
    unit = _UNIT_TEXT.get(item.unit or "", item.unit or "")
    return f"{item.value:.6g} {unit}".rstrip()


def _prediction(item: RiskPrediction, score: RiskScore) -> Json:
    found: Json = {
        "outcome": _OUTCOME[item.outcome],
        "probabilityDecimal": round(item.percent, _DIGITS),
    }
    if item.qualitative is not None:
        found["qualitativeRisk"] = _QUALITATIVE[item.qualitative]
    if item.years is not None:
        found["whenPeriod"] = {"start": score.as_of, "end": _later(score.as_of, item.years)}
    threshold = f"{item.threshold[0].upper()}{item.threshold[1:]}." if item.threshold else None
    rationale = [text for text in (threshold, *score.flags) if text]
    if rationale:
        found["rationale"] = " ".join(rationale)
    return found


def _later(day: str, years: float) -> str:
    """The date a whole number of years later; 29 February becomes 28 February."""
    start = date.fromisoformat(day)
    year = start.year + int(years)
    try:
        return start.replace(year=year).isoformat()
    except ValueError:
        return start.replace(year=year, day=28).isoformat()


def _input_extension(item: InputValue) -> Json:
    parts = [
        {"url": "name", "valueCode": item.name},
        {"url": "value", **_value(item)},
        {"url": "source", "valueCode": item.source},
    ]
    if item.date:
        parts.append({"url": "date", "valueDateTime": item.date})
    if item.reference:
        parts.append({"url": "reference", "valueReference": {"reference": item.reference}})
    if item.preliminary:
        parts.append({"url": "preliminary", "valueBoolean": True})
    return {"url": codes.RISK_INPUT_EXTENSION, "extension": parts}


def _value(item: InputValue) -> Json:
    if isinstance(item.value, bool):
        return {"valueBoolean": item.value}
    if isinstance(item.value, str):
        return {"valueCode": item.value}
    if item.unit is None:
        return {"valueInteger": int(item.value)}
    quantity: Json = {"value": item.value, "system": codes.UCUM, "code": item.unit}
    text = _UNIT_TEXT.get(item.unit, item.unit)
    if text:
        quantity["unit"] = text
    return {"valueQuantity": quantity}
