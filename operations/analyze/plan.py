"""Step 5 of a study's way: which services look at which series, and why not at the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from operations.analyze.rules import Rule, Rules

Json = dict[str, Any]

#: Days of a mean Gregorian year.
YEAR_DAYS = 365.2425


@dataclass(frozen=True, slots=True)
class SeriesJob:
    """One series that is fetched once and shown to `services`."""

    series_instance_uid: str
    instance_count: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotApplied:
    """A service that does not look at a series.

    Attributes:
        reason: code in the CodeSystem `not-applied-reason`.
        seen: what was found; no patient data beyond an age in whole years.
    """

    series_instance_uid: str
    service: str
    reason: str
    seen: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done for one version of a study."""

    jobs: tuple[SeriesJob, ...]
    not_applied: tuple[NotApplied, ...]


def make_plan(
    rules: Rules,
    imaging_study: Json,
    *,
    birth_date: str | None,
    programs: frozenset[str],
    installed: Sequence[str],
) -> Plan:
    """Apply the rules to an ImagingStudy.

    Args:
        rules: the site's rules.
        imaging_study: R4 ImagingStudy with its series.
        birth_date: Patient.birthDate, possibly only a year or a month.
        programs: ids of the Groups that the patient belongs to.
        installed: services whose model is installed.
    """
    age = age_years(birth_date, imaging_study.get("started"))
    jobs: list[SeriesJob] = []
    refused: list[NotApplied] = []
    for series in imaging_study.get("series", []):
        wanted: list[str] = []
        for rule in rules.services:
            reason = _why_not(rule, series, age, programs, installed)
            if reason is None:
                wanted.append(rule.service)
            else:
                refused.append(NotApplied(series["uid"], rule.service, *reason))
        if wanted:
            count = int(series.get("numberOfInstances", 0))
            jobs.append(SeriesJob(series["uid"], count, tuple(wanted)))
    return Plan(tuple(jobs), tuple(refused))


def _why_not(
    rule: Rule,
    series: Json,
    age: float | None,
    programs: frozenset[str],
    installed: Sequence[str],
) -> tuple[str, str] | None:
    """(reason code, what was seen) of the first condition that does not hold."""
    modality = series.get("modality", {}).get("code", "")
    if modality not in rule.modality:
        return "modality", modality or "none"
    if rule.service not in installed:
        return "model-not-installed", rule.service
    if (site := _body_site(rule, series)) is not None:
        return "body-part", site
    description = series.get("description", "")
    for pattern in rule.exclude_description:
        if re.search(pattern, description, re.IGNORECASE):
            # The description is free text and may name a patient; the pattern is ours.
            return "description", f"matches {pattern}"
    instances = int(series.get("numberOfInstances", 0))
    if instances < rule.min_instances:
        return "too-few-instances", str(instances)
    if (wrong_age := _wrong_age(rule, age)) is not None:
        return "age", wrong_age
    if rule.program and rule.program not in programs:
        return "program", "not a member"
    return None


def _body_site(rule: Rule, series: Json) -> str | None:
    if not rule.body_site:
        return None
    code = series.get("bodySite", {}).get("code")
    if code is None:
        return None if rule.body_site_unknown == "apply" else "unknown"
    return None if code in rule.body_site else code


def _wrong_age(rule: Rule, age: float | None) -> str | None:
    if rule.min_age_years is None and rule.max_age_years is None:
        return None
    if age is None:
        return None if rule.age_unknown == "apply" else "unknown"
    low = rule.min_age_years is not None and age < rule.min_age_years
    high = rule.max_age_years is not None and age >= rule.max_age_years + 1
    return f"{int(age)} years" if low or high else None


def age_years(birth_date: str | None, started: str | None) -> float | None:
    """Age in years at the start of a study; None when either is unknown.

    A birth date known only to the month or year counts from its first day (FHIR R4 `date`
    has all three precisions).
    """
    if not birth_date or not started:
        return None
    parts = [int(part) for part in birth_date.split("-")] + [1, 1]
    born = date(parts[0], parts[1], parts[2])
    at = (
        datetime.fromisoformat(started).date()
        if len(started) >= 10
        else date(int(started[:4]), 1, 1)
    )
    return (at - born).days / YEAR_DAYS
