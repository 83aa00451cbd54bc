"""FHIR dates, also partial ones, against the date that a score is for."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

Json = dict[str, Any]

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?(?:T.*)?")


@dataclass(frozen=True, slots=True)
class Span:
    """The days that a FHIR date or dateTime may mean, both inclusive."""

    first: date
    last: date

    def within(self, as_of: date, years: int | None) -> bool:
        """Whether it may lie at or before a date, and not too long before it.

        Args:
            as_of: the date the score is for.
            years: look-back window; None for any time.
        """
        if self.first > as_of:
            return False
        return years is None or self.last >= years_before(as_of, years)


def time_span(text: object) -> Span | None:
    """The days of a FHIR R4 date, dateTime or instant, in its own zone; None for anything else."""
    if not isinstance(text, str) or not (found := _DATE.fullmatch(text)):
        return None
    year, month, day = (int(part) if part else None for part in found.groups())
    try:
        first = date(year or 0, month or 1, day or 1)
        last_month = month or 12
        last_day = day or calendar.monthrange(first.year, last_month)[1]
        return Span(first, date(first.year, last_month, last_day))
    except ValueError:
        return None


def order(text: object) -> datetime:
    """Sorts dates of any precision; a day without a time is its beginning in UTC."""
    days = time_span(text)
    if days is None or not isinstance(text, str):
        return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.combine(days.first, time(), UTC)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def years_before(day: date, years: int) -> date:
    """The same day so many years earlier; 28 February stands for 29."""
    year = max(day.year - years, 1)
    try:
        return day.replace(year=year)
    except ValueError:
        return day.replace(year=year, day=28)


def age_at(birth: object, as_of: date) -> int | None:
    """Completed years, when every day that the birth date may mean gives the same."""
    days = time_span(birth)
    if days is None or days.last > as_of:
        return None
    ages = {_completed(day, as_of) for day in (days.first, days.last)}
    return ages.pop() if len(ages) == 1 else None


def _completed(birth: date, as_of: date) -> int:
    before = (as_of.month, as_of.day) < (birth.month, birth.day)
    return as_of.year - birth.year - before


def observed(resource: Json) -> str | None:
    """When an Observation speaks of: its effective time, else when it was issued."""
    period = resource.get("effectivePeriod") or {}
    return _first(
        resource.get("effectiveDateTime"),
        resource.get("effectiveInstant"),
        period.get("end"),
        period.get("start"),
        resource.get("issued"),
    )


def began(resource: Json) -> str | None:
    """When a Condition began, else when it was recorded."""
    period = resource.get("onsetPeriod") or {}
    return _first(resource.get("onsetDateTime"), period.get("start"), resource.get("recordedDate"))


def ended(resource: Json) -> str | None:
    """When a Condition ended, where the chart says a date."""
    period = resource.get("abatementPeriod") or {}
    return _first(resource.get("abatementDateTime"), period.get("end"))


def prescribed(resource: Json) -> str | None:
    """Since when a medication is ordered or taken."""
    period = resource.get("effectivePeriod") or {}
    return _first(
        resource.get("authoredOn"),
        resource.get("effectiveDateTime"),
        period.get("start"),
        resource.get("dateAsserted"),
    )


def _first(*values: object) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)
