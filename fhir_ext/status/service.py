"""What the status page shows: read from our tables, from HAPI, and by checks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import FhirExtError
from fhir_ext.resources.reading import PanelReading
from fhir_ext.status import words
from fhir_ext.status.checks import CHECK_LIMIT, Check, HealthMonitor, HealthState
from fhir_ext.status.numbers import Numbers, NumbersReader
from fhir_ext.status.views import (
    AlertView,
    CellView,
    MeasurementView,
    QueueView,
    ReasonView,
    ServiceView,
    StatusView,
    StudyView,
    UnmatchedView,
)
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.sample_tables import ModelAlert
from fhir_ext.store.samples import SampleStore
from fhir_ext.store.tables import ArchiveStudy, ServiceOutcome, StudyRun

__all__ = ["HealthState", "QueueState", "StatusDeps", "StatusService"]

#: Panels read from HAPI for one page; the numbers of older results are reached by their links.
MOST_PANELS: Final = 60

#: Runs read for each study shown: a study that waited has several.
RUNS_PER_STUDY: Final = 4

#: A queue whose oldest study waits longer (s) needs attention (docs/operations.md).
OLDEST_LIMIT: Final = 600.0

#: For how long an alert about a model version is shown.
ALERTS_SHOWN: Final = timedelta(days=7)

#: States of `ArchiveStudy` that nothing but a human or a new instance changes.
STUCK: Final = ("unmatched", "failed")


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits to be worked on.

    Attributes:
        depth: studies that could be worked on now.
        oldest_seconds: how long the oldest of them waits; None when there is none.
        delayed: studies put back for later.
    """

    depth: int
    oldest_seconds: float | None
    delayed: int


@dataclass(frozen=True)
class StatusDeps:
    """What the status routes need.

    Attributes:
        repository: our tables.
        fhir: HAPI, for the numbers.
        queue_waiting: state of the queue.
        checks: name of a part to its check.
        links: name to URL of what a person may want to open.
        fhir_url: base of the links to resources, as people reach it.
        check_limit: longest wait (s) for all checks together.
    """

    repository: Repository
    fhir: FhirClient
    queue_waiting: Callable[[], QueueState]
    checks: Mapping[str, Check]
    links: Mapping[str, str]
    fhir_url: str
    check_limit: float = CHECK_LIMIT


class StatusService:
    """Puts the page together; one per application, safe to share between threads."""

    def __init__(self, deps: StatusDeps) -> None:
        self._deps = deps
        self._monitor = HealthMonitor(deps.checks, deps.check_limit)
        self._numbers = NumbersReader(deps.fhir)

    def health(self) -> dict[str, HealthState]:
        """Every part's state, within the monitor's limit."""
        return self._monitor.states()

    def overview(self, limit: int = 50) -> StatusView:
        """Everything on the page. What cannot be read is named in `problems`, not raised.

        Args:
            limit: newest studies to show; also the longest worklist and list of parked work.
        """
        health = self.health()
        view = StatusView(
            time=_iso(now()),
            ok=all(state.ok for state in health.values()),
            problems=[],
            health=health,
            queue=None,
            parked=[],
            unmatched=[],
            arriving=0,
            studies=[],
            more=False,
            links=dict(self._deps.links),
        )
        try:
            view = self._with_rows(view, limit)
        except SQLAlchemyError:
            problem = "The database does not answer: no studies can be shown."
            view = replace(view, problems=[*view.problems, problem])
        view = self._with_numbers(self._with_queue(view))
        moving = view.queue is not None and view.queue.ok
        return replace(view, ok=view.ok and moving and not view.problems)

    def _with_rows(self, view: StatusView, limit: int) -> StatusView:
        repository = self._deps.repository
        recent = _by_study(repository.runs(limit=limit * RUNS_PER_STUDY))
        # Parked work stays in sight, however many studies came after it.
        parked = _by_study(
            [*repository.runs("parked", limit=limit), *(r for rs in recent.values() for r in rs)]
        )
        shown = list(recent.values())[:limit]
        stuck = repository.archive_studies(*STUCK, limit=limit)
        return replace(
            view,
            studies=[self._study(runs) for runs in shown],
            more=len(recent) > limit,
            parked=[self._study(runs) for runs in parked.values() if runs[0].state == "parked"],
            unmatched=[_unmatched(study) for study in stuck],
            arriving=len(repository.archive_studies("settling")),
            alerts=[
                self._alert(alert)
                for alert in SampleStore(repository.engine).alerts(now() - ALERTS_SHOWN)
            ],
        )

    def _with_queue(self, view: StatusView) -> StatusView:
        try:
            state = self._deps.queue_waiting()
        except (SQLAlchemyError, FhirExtError):
            return replace(view, problems=[*view.problems, "The queue cannot be read."])
        ok = state.oldest_seconds is None or state.oldest_seconds <= OLDEST_LIMIT
        queue = QueueView(state.depth, state.oldest_seconds, state.delayed, ok)
        return replace(view, queue=queue)

    def _with_numbers(self, view: StatusView) -> StatusView:
        panel_ids = [s.panel_id for study in view.studies for s in study.services if s.panel_id]
        wanted = panel_ids[:MOST_PANELS]
        numbers = self._numbers.read(wanted)
        problems = list(view.problems)
        if numbers.problem:
            problems.append(f"Numbers cannot be read: {numbers.problem}.")
        studies = [
            replace(
                study,
                services=[
                    self._measured(service, numbers) if service.panel_id in wanted else service
                    for service in study.services
                ],
            )
            for study in view.studies
        ]
        return replace(view, studies=studies, problems=problems)

    def _study(self, runs: Sequence[StudyRun]) -> StudyView:
        """One study from its runs, newest first."""
        newest = runs[0]
        uid = next((run.study_instance_uid for run in runs if run.study_instance_uid), "")
        outcomes = [
            outcome
            for outcome in (self._deps.repository.outcomes(uid) if uid else ())
            if outcome.imaging_study_id == newest.imaging_study_id
        ]
        return StudyView(
            run=newest.workflow_id,
            study_instance_uid=uid,
            imaging_study_id=newest.imaging_study_id,
            imaging_study=self._url("ImagingStudy", newest.imaging_study_id),
            state=newest.state,
            state_words=words.STATE_WORDS.get(newest.state, newest.state),
            step=newest.step,
            reason=newest.reason or "",
            reason_words=words.reason_words(newest.reason),
            detail=newest.detail or "",
            queued_at=_iso(newest.queued_at),
            finished_at=_iso(newest.finished_at),
            since=_iso(_since(newest)),
            seconds=max(0.0, ((newest.finished_at or now()) - newest.queued_at).total_seconds()),
            # A row that was written by its key columns alone has none.
            step_seconds=dict(newest.step_seconds or {}),
            runs=len(runs),
            command=_command("tasks resume", newest.workflow_id)
            if newest.state == "parked"
            else "",
            services=[self._service(outcome) for outcome in _ordered(outcomes)],
        )

    def _service(self, outcome: ServiceOutcome) -> ServiceView:
        say = words.not_applied_words if outcome.status == "not-applied" else words.refusal_words
        return ServiceView(
            service=outcome.service,
            series_instance_uid=outcome.series_instance_uid,
            status=outcome.status,
            reasons=[
                ReasonView(
                    rule=reason.get("rule", ""),
                    words=say(reason.get("rule", "")),
                    seen=reason.get("seen", ""),
                    needed=reason.get("needed", ""),
                )
                for reason in outcome.reasons
            ],
            panel_id=outcome.panel_id or "",
            panel=self._url("Observation", outcome.panel_id) if outcome.panel_id else "",
            review="",
            review_words="",
            numbers="skipped" if outcome.panel_id else "none",
            measurements=[],
        )

    def _measured(self, service: ServiceView, numbers: Numbers) -> ServiceView:
        if service.panel_id not in numbers.panels:
            return replace(service, numbers="unreadable")
        panel = numbers.panels[service.panel_id]
        if panel is None:
            return replace(service, numbers="missing")
        return replace(
            service,
            numbers="read",
            review=panel.status,
            review_words=words.REVIEW_WORDS.get(panel.status, panel.status),
            measurements=self._measurements(panel),
        )

    def _measurements(self, panel: PanelReading) -> list[MeasurementView]:
        rows: dict[str, MeasurementView] = {}
        places = 0
        for member in panel.members:
            key, said = member.name, words.output_words(member.name)
            if member.kind == "detection":
                places += 1
                key, said = f"{key} {places}", f"{said} {places}"
            row = rows.setdefault(key, MeasurementView(key, said, {}))
            row.regions[str(member.region)] = CellView(
                value=member.value,
                unit=member.unit,
                reason=member.reason,
                reason_words=words.refusal_words(member.reason),
                status=member.status,
                observation=self._url("Observation", member.observation_id),
                text=member.category_text,
            )
        return list(rows.values())

    def _alert(self, alert: ModelAlert) -> AlertView:
        return AlertView(
            service=alert.service,
            version=alert.version,
            kind=alert.kind,
            kind_words=words.alert_words(alert.kind),
            severity=alert.severity,
            findings=[str(finding["text"]) for finding in alert.findings],
            since=_iso(alert.at),
            issue=self._url("DetectedIssue", alert.id),
            command=f"{_command('model drift', alert.service)} {shlex.quote(alert.version)}",
        )

    def _url(self, resource_type: str, resource_id: str) -> str:
        return f"{self._deps.fhir_url.rstrip('/')}/{resource_type}/{quote(resource_id, safe='')}"


def _by_study(runs: Sequence[StudyRun]) -> dict[str, list[StudyRun]]:
    """Runs of each ImagingStudy, newest first; studies in the order of their newest run.

    The runs of a study that was put back keep the time of its first entry into the queue;
    when each began tells them apart.
    """
    unique = {run.workflow_id: run for run in runs}.values()
    newest_first = sorted(unique, key=lambda run: (run.queued_at, _begun(run)), reverse=True)
    studies: dict[str, list[StudyRun]] = {}
    for run in newest_first:
        studies.setdefault(run.imaging_study_id, []).append(run)
    return studies


def _begun(run: StudyRun) -> datetime:
    return run.started_at or run.queued_at


def _since(run: StudyRun) -> datetime:
    if run.state == "running":
        return _begun(run)
    return run.finished_at or run.queued_at


def _ordered(outcomes: Sequence[ServiceOutcome]) -> list[ServiceOutcome]:
    """What has numbers first, what was not applied last."""
    order = {"done": 0, "refused": 1, "failed": 2}
    return sorted(
        outcomes,
        key=lambda item: (order.get(item.status, 3), item.service, item.series_instance_uid),
    )


def _unmatched(study: ArchiveStudy) -> UnmatchedView:
    uid = study.study_instance_uid
    link = f"{_command('patients link', uid)} Patient/ID"
    return UnmatchedView(
        study_instance_uid=uid,
        reason=study.reason or "",
        reason_words=words.unmatched_words(study.reason or ""),
        since=_iso(study.changed_at),
        command=link if study.state == "unmatched" else "",
    )


def _command(verb: str, argument: str) -> str:
    """A command to copy; the argument came from outside and must stay one argument."""
    return f"fhir-ext {verb} {shlex.quote(argument)}"


def _iso(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""
