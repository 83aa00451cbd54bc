"""What a risk model is: a formula and everything that decides whether it may be used.

A model refuses before it computes: inputs that contradict each other, people it was not made
for, values outside of its range, and inputs that are missing. Nothing is imputed and nothing
is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fhir_ext.errors import OutcomeIssue, UnprocessableError
from fhir_ext.resources.codes import RISK_MODEL, Coding
from fhir_ext.results import InputValue, RiskPrediction, RiskScore
from operations.risk_score.derive import SOURCES, resolve
from operations.risk_score.inputs import INPUTS, Value

Values = Mapping[str, Value]
Qualitative = Literal["negligible", "low", "moderate", "high", "certain"]


class MissingInputs(UnprocessableError):
    """Inputs that a model needs and nobody gave; one issue each.

    Attributes:
        names: the missing inputs, in the model's order.
    """

    default_code = "missing-input"

    def __init__(
        self,
        model: RiskModel,
        names: Sequence[str],
        accepted: Mapping[str, Sequence[Coding]] | None = None,
    ) -> None:
        self.names = tuple(names)
        super().__init__(
            f"{model.code}: inputs are missing: {', '.join(self.names)}",
            issues=[_missing_issue(model, name, (accepted or {}).get(name, ())) for name in names],
        )


@dataclass(frozen=True, slots=True)
class Range:
    """For which values of an input a model was derived.

    Attributes:
        low: lowest value, inclusive.
        high: highest value; inclusive unless `below`.
        below: `high` itself is outside.
        outside: what is done with a value outside.
        source: who says so.
    """

    low: float
    high: float
    outside: Literal["refuse", "flag"]
    source: str
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value and (value < self.high if self.below else value <= self.high)

    @property
    def text(self) -> str:
        return f"{self.low:g} to {'below ' if self.below else ''}{self.high:g}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold of a publication.

    Attributes:
        percent: at and above it the publication acts.
        source: the threshold and who set it, in words.
    """

    percent: float
    source: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that a model predicts.

    Attributes:
        code: code in the CodeSystem `risk-outcome`.
        years: horizon; None where the publication has none.
        threshold: None where the publication has none.
    """

    code: str
    years: float | None = None
    threshold: Threshold | None = None


def _no_flags(_values: Values) -> tuple[str, ...]:
    return ()


def _no_refusal(_values: Values) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class RiskModel:
    """A published model and how it may be used.

    Attributes:
        code: code in the CodeSystem `risk-model`.
        version: version of our implementation.
        citation: the publication.
        required: inputs without which there is no score, in the order of the publication.
        optional: inputs that change the formula when given.
        outcomes: what it predicts; `evaluate` gives a probability for each, in this order.
        evaluate: the formula, on the values of `required` and `optional`.
        ranges: for which values it was derived.
        codes: accepted codes of an input, where they are fewer than the input has.
        refuse: why the model is not for this person, or None; sees values that may be
            incomplete.
        flags: what a reader must know about a score.
    """

    code: str
    version: str
    citation: str
    required: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    evaluate: Callable[[Values], tuple[float, ...]]
    optional: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refuse: Callable[[Values], str | None] = _no_refusal
    flags: Callable[[Values], tuple[str, ...]] = _no_flags

    @property
    def title(self) -> str:
        """Name for people."""
        return RISK_MODEL.coding(self.code).display

    @property
    def purpose(self) -> str:
        """What it predicts and for whom."""
        return next(item.definition for item in RISK_MODEL.codes if item.code == self.code)

    @property
    def reads(self) -> tuple[str, ...]:
        """Every input that the model can use, also those from which others follow."""
        own = (*self.required, *self.optional)
        return (*own, *dict.fromkeys(s for n in own for s in SOURCES.get(n, ()) if s not in own))

    def accepts(self, name: str) -> str:
        """What a value of an input may be, in words."""
        if name in self.codes:
            return f"code: {' | '.join(self.codes[name])}"
        return INPUTS[name].accepts

    def missing(self, given: Mapping[str, InputValue]) -> tuple[str, ...]:
        """Inputs that the model needs and that do not follow from what is given."""
        values = resolve(self.required, given).values
        return tuple(name for name in self.required if name not in values)

    def compute(
        self,
        inputs: Mapping[str, InputValue],
        as_of: str,
        *,
        accepted: Mapping[str, Sequence[Coding]] | None = None,
        flags: Sequence[str] = (),
    ) -> RiskScore:
        """The score of one person.

        Args:
            inputs: what is known, by name; what the model does not read is ignored.
            as_of: FHIR date the score is for.
            accepted: codes by which an input is found in a chart, told when it is missing.
            flags: further sentences that a reader must know, such as how an input was found.

        Raises:
            MissingInputs: an input is missing.
            UnprocessableError: `not-applicable`, the model is not for this person;
                `out-of-range`, outside of the range for which the model holds;
                `contradicting-inputs`.
        """
        found = resolve((*self.required, *self.optional), inputs)
        values, used = found.values, found.used
        _raise(found.issues)
        self._check_applicable(values)
        missing = tuple(name for name in self.required if name not in values)
        if missing:
            raise MissingInputs(self, missing, accepted)
        probabilities = self.evaluate(values)
        return RiskScore(
            model=self.code,
            title=self.title,
            version=self.version,
            citation=self.citation,
            as_of=as_of,
            inputs=used,
            predictions=tuple(
                _prediction(outcome, 100.0 * p)
                for outcome, p in zip(self.outcomes, probabilities, strict=True)
            ),
            flags=(*self._range_flags(values), *self.flags(values), *_preliminary(used), *flags),
        )

    def _check_applicable(self, values: Values) -> None:
        issues = []
        for name, accepted in self.codes.items():
            if name in values and values[name] not in accepted:
                text = (
                    f"{name}: {self.title} was published for {', '.join(accepted)} only; "
                    "no other group is guessed"
                )
                issues.append(OutcomeIssue("business-rule", "not-applicable", text))
        for name, span in self.ranges.items():
            if span.outside == "refuse" and name in values and float(values[name]) not in span:
                text = f"{name}: {self.title} holds from {span.text}{_unit(name)}, {span.source}"
                issues.append(OutcomeIssue("business-rule", "out-of-range", text))
        reason = self.refuse(values)
        if reason:
            issues.append(OutcomeIssue("business-rule", "not-applicable", reason))
        _raise(issues)

    def _range_flags(self, values: Values) -> tuple[str, ...]:
        return tuple(
            f"{name} is outside of {span.text}{_unit(name)}, {span.source}."
            for name, span in self.ranges.items()
            if span.outside == "flag" and name in values and float(values[name]) not in span
        )


def _unit(name: str) -> str:
    unit = INPUTS[name].unit
    return f" {unit}" if unit else ""


def _raise(issues: Sequence[OutcomeIssue]) -> None:
    if issues:
        text = "; ".join(issue.diagnostics for issue in issues)
        raise UnprocessableError(text, code=issues[0].detail, issues=issues)


def _prediction(outcome: Outcome, percent: float) -> RiskPrediction:
    threshold = outcome.threshold
    if threshold is None:
        return RiskPrediction(outcome.code, percent, outcome.years)
    return RiskPrediction(
        outcome.code,
        percent,
        outcome.years,
        qualitative(percent, threshold.percent),
        f"{'at or above' if percent >= threshold.percent else 'below'} {threshold.source}",
    )


def qualitative(percent: float, threshold: float) -> Qualitative:
    """HL7 `risk-probability` of a probability whose publication has one threshold.

    HL7 defines low as possible but unlikely, moderate as a reasonable likelihood, high as
    more likely to occur than not. Below the threshold is therefore low, at and above it
    moderate, and only above 50 % high. negligible and certain are never said.
    """
    if percent < threshold:
        return "low"
    return "high" if percent > 50.0 else "moderate"


def _preliminary(used: Sequence[InputValue]) -> tuple[str, ...]:
    names = [item.name for item in used if item.preliminary]
    if not names:
        return ()
    return (f"Rests on preliminary findings that no human has confirmed: {', '.join(names)}.",)


def _missing_issue(model: RiskModel, name: str, accepted: Sequence[Coding]) -> OutcomeIssue:
    item = INPUTS[name]
    parts = [f"{name} is missing: {item.definition}", f"Accepted: {model.accepts(name)}."]
    sources = [source for source in SOURCES.get(name, ()) if source not in model.required]
    if sources:
        parts.append(f"It may follow from {' or '.join(sources)}.")
    if accepted:
        shown = ", ".join(f"{coding.system}|{coding.code} {coding.display}" for coding in accepted)
        parts.append(f"In a chart it is found by {shown}.")
    has_name = f"part.where(name = 'name').value = '{name}'"
    where = f"Parameters.parameter.where(name = 'input' and {has_name})"
    return OutcomeIssue("required", "missing-input", " ".join(parts), expression=where)
