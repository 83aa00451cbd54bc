"""What the status page shows, as data: the shape of `/status.json`.

No names, no patient identifiers, no free text from images. Instants are ISO 8601 in UTC,
durations are seconds. A field ending in `words` is for people; the code beside it is stable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fhir_ext.status.checks import HealthState

#: What became of reading the numbers of one result:
#: `none` there are none to read, `read`, `missing` HAPI has no such panel, `unreadable` HAPI
#: did not give them, `skipped` an older result whose numbers are reached by its link.
NumbersState = Literal["none", "read", "missing", "unreadable", "skipped"]


@dataclass(frozen=True, slots=True)
class QueueView:
    """What waits to be worked on.

    Attributes:
        depth: studies that could be worked on now.
        oldest_seconds: how long the oldest of them waits; None when there is none.
        delayed: studies put back for later.
        ok: whether the oldest waits no longer than is normal.
    """

    depth: int
    oldest_seconds: float | None
    delayed: int
    ok: bool


@dataclass(frozen=True, slots=True)
class ReasonView:
    """Why something was refused or not applied: the rule, what was found, what is needed."""

    rule: str
    words: str
    seen: str
    needed: str


@dataclass(frozen=True, slots=True)
class CellView:
    """One result in one region: a number with its UCUM unit, or the code of a refusal.

    Attributes:
        value: the number; of a place that was found its score; None without one.
        text: category or class for people; empty of a number.
        status: FHIR R4 Observation.status, which says whether a human has looked.
        observation: URL of the Observation in HAPI.
    """

    value: float | None
    unit: str
    reason: str
    reason_words: str
    status: str
    observation: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class MeasurementView:
    """One measurement, classification or place; `regions` by code of `fhir_ext.results.Region`."""

    name: str
    words: str
    regions: dict[str, CellView]

    @property
    def withheld_everywhere(self) -> CellView | None:
        """The cell that speaks for all regions when all are withheld for one reason."""
        cells = list(self.regions.values())
        alike = all(
            cell.value is None and not cell.text and cell.reason == cells[0].reason
            for cell in cells
        )
        return cells[0] if cells and alike else None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What one service said of one series.

    Attributes:
        status: `done`, `refused`, `not-applied` or `failed`.
        panel: URL of the panel Observation; empty without one.
        review: FHIR R4 Observation.status of the panel; empty while it is not known.
    """

    service: str
    series_instance_uid: str
    status: str
    reasons: list[ReasonView]
    panel_id: str
    panel: str
    review: str
    review_words: str
    numbers: NumbersState
    measurements: list[MeasurementView]

    @property
    def has_numbers(self) -> bool:
        """Whether any number or category stands; the reasons say it all where none does."""
        return any(
            cell.value is not None or cell.text
            for item in self.measurements
            for cell in item.regions.values()
        )

    @property
    def regions(self) -> list[str]:
        """Codes of all regions that any measurement has, in the order of their appearance."""
        return list(dict.fromkeys(name for item in self.measurements for name in item.regions))


@dataclass(frozen=True, slots=True)
class StudyView:
    """Where one study stands: its newest run, and what was ever said of its series.

    Attributes:
        run: workflow id of the newest run.
        imaging_study: URL of the ImagingStudy in HAPI.
        state: `queued`, `running`, `waiting`, `done`, `parked`, `resumed`, `nothing-to-do`.
        step: the last step that was finished or tried.
        since: when it came into this state.
        seconds: from its entry into the queue until it was finished, or until now.
        step_seconds: time of each step; `fetch` and `infer` are parts of `analyze`,
            `store-dicom` and `write-fhir` run side by side within `publish`.
        runs: how many runs of the study are known, for example because it was incomplete.
        command: what a human types to resume it; empty unless it is parked.
    """

    run: str
    study_instance_uid: str
    imaging_study_id: str
    imaging_study: str
    state: str
    state_words: str
    step: str
    reason: str
    reason_words: str
    detail: str
    queued_at: str
    finished_at: str
    since: str
    seconds: float
    step_seconds: dict[str, float]
    runs: int
    command: str
    services: list[ServiceView]

    @property
    def counts(self) -> dict[str, int]:
        """How many services ended in which status."""
        statuses = [service.status for service in self.services]
        return {name: statuses.count(name) for name in dict.fromkeys(statuses)}

    @property
    def not_applied(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[str]]:
        """Series that a service was not applied to, by service and (words, seen) of the reasons."""
        found: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
        for service in self.services:
            if service.status == "not-applied":
                reasons = tuple((reason.words, reason.seen) for reason in service.reasons)
                found.setdefault((service.service, reasons), []).append(service.series_instance_uid)
        return found

    @property
    def withheld_for(self) -> list[str]:
        """Why numbers of applied services are withheld, each reason once."""
        applied = (service for service in self.services if service.status != "not-applied")
        return list(dict.fromkeys(r.words for service in applied for r in service.reasons))


@dataclass(frozen=True, slots=True)
class UnmatchedView:
    """A study of the archive that is not in HAPI, why, and what a human can do."""

    study_instance_uid: str
    reason: str
    reason_words: str
    since: str
    command: str


@dataclass(frozen=True, slots=True)
class AlertView:
    """A change that monitoring found in a model version, and the command that shows it.

    Attributes:
        kind: code in the CodeSystem `model-alert`.
        findings: sentences; counts and statistics over many results.
        issue: URL of the DetectedIssue.
    """

    service: str
    version: str
    kind: str
    kind_words: str
    severity: str
    findings: list[str]
    since: str
    issue: str
    command: str


@dataclass(frozen=True, slots=True)
class StatusView:
    """The whole page.

    Attributes:
        ok: every part works, the queue moves, and everything could be read.
        problems: sentences about what could not be read; the rest of the page stands.
        parked: studies whose newest run waits for a human, also those older than `studies`.
        unmatched: the worklist: no single Patient matches, or the study cannot be read.
        arriving: studies of the archive that still grow or are about to be announced.
        more: whether there are more studies than are shown.
        alerts: model versions that lately drifted.
    """

    time: str
    ok: bool
    problems: list[str]
    health: dict[str, HealthState]
    queue: QueueView | None
    parked: list[StudyView]
    unmatched: list[UnmatchedView]
    arriving: int
    studies: list[StudyView]
    more: bool
    links: dict[str, str]
    alerts: list[AlertView] = field(default_factory=list)
