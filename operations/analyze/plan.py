"""Step 5 of a study's way: which services look at which series, and why not at the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from models.gates.expressions import matched_part
from models.lifecycle import Assignment
from models.manifest.inputs import Images
from operations.analyze.rules import Rule, Rules

Json = dict[str, Any]

#: What a job is: one stack, or all images of a kind that a study has. The names are those of
#: `inputs.images`.
JobKind = Literal["stack", "mammograms", "radiographs", "segmented-radiographs"]
#: What all images of a study are shown for.
_OF_STUDY: Mapping[Images, JobKind] = {
    "mammograms": "mammograms",
    "radiographs": "radiographs",
    "segmented-radiographs": "segmented-radiographs",
}

#: Days of a mean Gregorian year.
YEAR_DAYS = 365.2425

#: Modality (0008,0060) of segmentations.
SEGMENTATION = "SEG"
#: The study holds no segmentation of the series.
NO_SEGMENTATION = "no-segmentation"
#: What drew a segmentation was recalled.
SEGMENTATION_RECALLED = "segmentation-recalled"
#: A reviewer rejected what drew a segmentation said of the study.
SEGMENTATION_REJECTED = "segmentation-rejected"


@dataclass(frozen=True, slots=True)
class VersionRef:
    """One model version that looks at a job's images.

    Attributes:
        service, version: which.
        role: `shadow` results stay in our own database; the others go into the record.
    """

    service: str
    version: str
    role: Literal["active", "canary", "shadow"] = "active"


@dataclass(frozen=True, slots=True)
class SeriesRef:
    """A series that is read beside a job's own: a SEG, or further images of the study."""

    series_instance_uid: str
    instance_count: int


@dataclass(frozen=True, slots=True)
class SeriesJob:
    """Images that are fetched once and shown to `versions`.

    Attributes:
        series_instance_uid, instance_count: the series; of several the first one.
        versions: who looks at it.
        further: what else is read, for those whose manifest asks for it.
        kind: whether it is one stack, or all images of a kind that the study has.
    """

    series_instance_uid: str
    instance_count: int
    versions: tuple[VersionRef, ...]
    further: tuple[SeriesRef, ...] = ()
    kind: JobKind = "stack"

    @property
    def whole_study(self) -> bool:
        """Whether all series together are shown, and not one stack."""
        return self.kind != "stack"


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
    assigned: Mapping[str, Assignment],
    images: Callable[[str, str], Images],
) -> Plan:
    """Apply the rules to an ImagingStudy.

    Args:
        rules: the site's rules.
        imaging_study: R4 ImagingStudy with its series.
        birth_date: Patient.birthDate, possibly only a year or a month.
        programs: ids of the Groups that the patient belongs to.
        assigned: installed services, and which of their versions look at this study.
        images: what a version is shown, by service and version.
    """
    age = age_years(birth_date, imaging_study.get("started"))
    listed = imaging_study.get("series", [])
    segments = tuple(
        _reference(series)
        for series in listed
        if series.get("modality", {}).get("code") == SEGMENTATION
    )
    stacks: list[SeriesJob] = []
    of_study: dict[tuple[JobKind, VersionRef], list[SeriesRef]] = {}
    refused: list[NotApplied] = []
    for series in listed:
        wanted: list[VersionRef] = []
        for rule in rules.services:
            reason = _why_not(rule, series, age, programs, assigned)
            if reason is not None:
                refused.append(NotApplied(series["uid"], rule.service, *reason))
                continue
            for version in _versions(rule.service, assigned[rule.service]):
                shown = images(version.service, version.version)
                if shown.startswith("segmented-") and not segments:
                    missing = NotApplied(series["uid"], rule.service, NO_SEGMENTATION, "none")
                    refused.append(missing)
                elif (kind := _OF_STUDY.get(shown)) is not None:
                    of_study.setdefault((kind, version), []).append(_reference(series))
                else:
                    wanted.append(version)
        if wanted:
            main = _reference(series)
            shown_segments = any(images(v.service, v.version) == "segmented-volume" for v in wanted)
            stacks.append(
                SeriesJob(
                    main.series_instance_uid,
                    main.instance_count,
                    tuple(wanted),
                    segments if shown_segments else (),
                )
            )
    return Plan((*stacks, *_of_study(of_study, segments)), tuple(dict.fromkeys(refused)))


def _versions(service: str, assignment: Assignment) -> tuple[VersionRef, ...]:
    shadows = tuple(VersionRef(service, version, "shadow") for version in assignment.shadows)
    if assignment.writes is None:
        return shadows
    role: Literal["active", "canary"] = "canary" if assignment.canary else "active"
    return (VersionRef(service, assignment.writes, role), *shadows)


def _of_study(
    wanted: Mapping[tuple[JobKind, VersionRef], list[SeriesRef]], segments: tuple[SeriesRef, ...]
) -> tuple[SeriesJob, ...]:
    """One job for all versions that look at the same images."""
    groups: dict[tuple[JobKind, tuple[SeriesRef, ...]], list[VersionRef]] = {}
    for (kind, version), series in wanted.items():
        ordered = tuple(sorted(series, key=lambda item: item.series_instance_uid))
        groups.setdefault((kind, ordered), []).append(version)
    return tuple(
        SeriesJob(
            first.series_instance_uid,
            first.instance_count,
            tuple(versions),
            (*others, *(segments if kind == "segmented-radiographs" else ())),
            kind,
        )
        for (kind, (first, *others)), versions in groups.items()
    )


def _reference(series: Json) -> SeriesRef:
    return SeriesRef(series["uid"], int(series.get("numberOfInstances", 0)))


def _why_not(
    rule: Rule,
    series: Json,
    age: float | None,
    programs: frozenset[str],
    assigned: Mapping[str, Assignment],
) -> tuple[str, str] | None:
    """(reason code, what was seen) of the first condition that does not hold."""
    modality = series.get("modality", {}).get("code", "")
    if modality not in rule.modality:
        return "modality", modality or "none"
    assignment = assigned.get(rule.service)
    if assignment is None:
        return "model-not-installed", rule.service
    if assignment.writes is None and not assignment.shadows:
        return "model-not-active", rule.service
    if (site := _body_site(rule, series)) is not None:
        return "body-part", site
    description = matched_part(series.get("description", ""))
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
