"""What all rules have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fhir_ext.results import Refusal
from models.gates.subject import Facet, Subject

NOT_STATED = "not stated"
_SEEN_LENGTH = 64
#: Decimal strings such as 5.0 and measured 4.9999 must meet the same bound.
SLACK = 1e-3

Unknown = Literal["refuse", "accept"]
Word = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[Word, ...], Field(min_length=1)]


class GateBase(BaseModel):
    """One rule of a manifest's `gates`.

    Attributes:
        applies_to: names of outputs, or `all`.
        because: the reason in words, for people who read the manifest.
        set_aside: of several images of a study, those that the rule refuses are not looked
            at; without it they refuse the study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: What the subject must have.
    needs: ClassVar[Facet] = "header"
    #: Codes of the refusals; empty: the name of the rule.
    reasons: ClassVar[tuple[str, ...]] = ()
    #: Values that the rule accepts are in `allow`, and nothing else is accepted.
    closed: ClassVar[bool] = False

    applies_to: Literal["all"] | Words = "all"
    because: str = ""
    set_aside: bool = False

    def covers(self, output: str) -> bool:
        return self.applies_to == "all" or output in self.applies_to

    def check(self, subject: Subject) -> Refusal | None:
        """None when the subject is accepted."""
        raise NotImplementedError


class AllowGate(GateBase):
    """One header value that must be in `allow`; what `unknown` says holds where it is silent."""

    closed: ClassVar[bool] = True

    allow: Words

    def judge(self, rule: str, seen: str | None, unknown: Unknown = "refuse") -> Refusal | None:
        if seen in self.allow or (not seen and unknown == "accept"):
            return None
        return Refusal(rule, shown(seen), ", ".join(self.allow))


class Bounded(BaseModel):
    """A closed range; at least one bound; `unknown` decides when nothing is stated."""

    min: float | None = None
    max: float | None = None
    unknown: Unknown = "refuse"

    @model_validator(mode="after")
    def _bounded(self) -> Bounded:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self

    def holds(self, value: float | None) -> bool:
        if value is None:
            return self.unknown == "accept"
        above = self.min is None or value >= self.min - SLACK
        below = self.max is None or value <= self.max + SLACK
        return above and below

    def needed(self, unit: str) -> str:
        low = None if self.min is None else f"at least {self.min:g} {unit}"
        high = None if self.max is None else f"at most {self.max:g} {unit}"
        return " and ".join(part for part in (low, high) if part)

    def judge(self, rule: str, value: float | None, unit: str) -> Refusal | None:
        if self.holds(value):
            return None
        seen = NOT_STATED if value is None else f"{value:g} {unit}"
        return Refusal(rule, seen, self.needed(unit))


def shown(value: str | None) -> str:
    """A header value for a refusal: printable, short, never empty."""
    text = "".join(char for char in (value or "") if char.isprintable()).strip()
    return text[:_SEEN_LENGTH] or NOT_STATED


def told(values: tuple[str, ...], known: frozenset[str]) -> str:
    """Coded header values for a refusal: words of the standard only, whatever is there."""
    return " and ".join(item if item in known else "another value" for item in values) or NOT_STATED
