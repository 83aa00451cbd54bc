"""The durable workflow of one study: its steps, what is retried, and what becomes a Task.

    prepare ─▶ analyze (per series) ─▶ publish ─▶ done
       │            │                     │
       └ incomplete: put back with a delay, as a new queue entry
                    └ upstream down: durable wait, same step again, then a Task
                    └ a model's server down: the others are published, then put back
                    └ refused data: a coded result, not an error

Every step runs at least once and is idempotent. A step hands on JSON only; pixels stay in
the process that fetched them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS
from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.logs import event, get_logger, incident, study_ref
from fhir_ext.resources.ids import result_id
from fhir_ext.settings import IntakeSettings
from fhir_ext.store.repository import Repository, now
from fhir_ext.store.samples import SampleStore
from fhir_ext.store.tables import ServiceOutcome
from fhir_ext.telemetry import Metrics, step_span
from operations.analyze.infer import SeriesOutcome, VersionFailure
from operations.analyze.plan import SeriesJob
from operations.analyze.prepare import Prepared
from operations.analyze.service import AnalyzeService
from subscriptions.queue import (
    STUDY_WORKFLOW,
    StudyMessage,
    enqueue_options,
)
from subscriptions.samples import record_work
from subscriptions.tries import LONGEST_WAIT, RECOVERY_ATTEMPTS, try_once, waits

log = get_logger(__name__)

Json = dict[str, Any]

#: Longest pause between two looks at an incomplete study.
LONGEST_INCOMPLETE_WAIT = timedelta(minutes=5)

_prepared = TypeAdapter(Prepared)
_job = TypeAdapter(SeriesJob)
_outcome = TypeAdapter(SeriesOutcome)


class _Parked(Exception):
    """Inside the workflow only: a step gave up; the study becomes a Task."""

    def __init__(self, step: str, code: str, message: str) -> None:
        super().__init__(code)
        self.step, self.code, self.message = step, code, message


@dataclass(frozen=True, slots=True)
class StudyWorkflow:
    """The workflow bound to its services; one per worker process."""

    analyze: AnalyzeService
    repository: Repository
    intake: IntakeSettings
    metrics: Metrics

    def register(self) -> None:
        """Make the workflow known to DBOS; before `DBOS.launch`."""

        @DBOS.workflow(name=STUDY_WORKFLOW, max_recovery_attempts=RECOVERY_ATTEMPTS)
        def analyze_study(message: Json) -> str:
            return self.run(StudyMessage(**message))

    def run(self, message: StudyMessage) -> str:
        """One pass over a study; the returned word is the state of its run."""
        try:
            return self._pass(message)
        except _Parked as parked:
            self._step(
                message, "park", self._park, message, parked.step, parked.code, parked.message
            )
            return "parked"

    def _pass(self, message: StudyMessage) -> str:
        raw = self._step(message, "prepare", self._prepare, message)
        prepared = _prepared.validate_python(raw)
        if prepared.kind == "incomplete":
            return self._put_back(
                message,
                _Parked("prepare", prepared.reason, prepared.detail),
                waits(self.intake.incomplete_retry, LONGEST_INCOMPLETE_WAIT, message.attempt),
                self.intake.incomplete_give_up,
            )
        outcomes: list[Json] = []
        if prepared.kind == "work":
            outcomes = [
                self._step(message, "analyze", self._analyze, prepared, job)
                for job in prepared.jobs
            ]
            self._step(message, "publish", self._publish, message, raw, outcomes)
        if failures := writing_failures(outcomes):
            self._step(message, "record", self._record, message, raw, outcomes)
            parked = _Parked("analyze", failures[0].code, told(failures))
            if not all(failure.again for failure in failures):
                raise parked
            return self._put_back(
                message,
                parked,
                waits(self.intake.upstream_retry, LONGEST_WAIT, message.attempt),
                self.intake.upstream_give_up,
            )
        self._step(message, "finish", self._finish, message, raw, outcomes)
        return "done" if prepared.kind == "work" else "nothing-to-do"

    # Steps: plain functions of JSON to JSON

    def _prepare(self, message: StudyMessage) -> Json:
        self._note(
            message, state="running", started_at=now(), queued_at=_instant(message.queued_at)
        )
        prepared = self.analyze.prepare(message.imaging_study_id)
        uid = prepared.study_instance_uid
        self._note(message, state="running", study_instance_uid=uid)
        series = len(prepared.jobs)
        event(log, "study-prepared", study=study_ref(uid), kind=prepared.kind, series=series)
        return _dump(_prepared, prepared)

    def _analyze(self, prepared: Prepared, job: SeriesJob) -> Json:
        outcome = self.analyze.analyze(prepared.study_instance_uid, job, urgent=prepared.urgent)
        return {
            **_dump(_outcome, outcome),
            "issued": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

    def _publish(self, message: StudyMessage, raw: Json, outcomes: list[Json]) -> Json:
        prepared = _prepared.validate_python(raw)
        issued = max(_instant(outcome["issued"]) for outcome in outcomes)
        results = [result for outcome in outcomes for result in _outcome_of(outcome).results]
        timing = self.analyze.publish(prepared, results, issued, trace_id_of(message.carrier))
        for channel in ("fhir", "dicom"):
            self.metrics.delivery(channel, "delivered")
        event(log, "study-published", study=study_ref(prepared.study_instance_uid))
        return timing

    def _finish(self, message: StudyMessage, raw: Json, outcomes: list[Json]) -> None:
        prepared = _prepared.validate_python(raw)
        self._record(message, raw, outcomes)
        self.analyze.close_parked_task(message.imaging_study_id)
        worked = prepared.kind == "work"
        self._note(
            message,
            state="done" if worked else "nothing-to-do",
            version_read=prepared.version,
            reason=prepared.reason or None,
            detail=prepared.detail or None,
            finished_at=now(),
        )
        self.metrics.study("done" if worked else "nothing-to-do")

    def _record(self, message: StudyMessage, raw: Json, outcomes: list[Json]) -> None:
        """Rows and counts of what every service said of every series."""
        prepared = _prepared.validate_python(raw)
        for row in outcome_rows(message.workflow_id, prepared, outcomes):
            self.repository.record_outcome(row)
            self.metrics.outcome(row.service, row.status, [r["rule"] for r in row.reasons])
        record_work(
            SampleStore(self.repository.engine),
            self.metrics,
            self.analyze.analyzer.registry,
            prepared.jobs,
            [(_outcome_of(outcome), _instant(outcome["issued"])) for outcome in outcomes],
        )

    def _park(self, message: StudyMessage, step: str, code: str, text: str) -> None:
        self.analyze.write_parked_task(message.imaging_study_id, step, code, text)
        self._note(message, state="parked", step=step, reason=code, detail=text, finished_at=now())
        self.metrics.study("parked")
        event(log, "study-parked", step=step, code=code, attempt=message.attempt)

    # What surrounds the steps

    def _put_back(
        self,
        message: StudyMessage,
        why: _Parked,
        waiting: tuple[timedelta, timedelta],
        give_up: timedelta,
    ) -> str:
        """Come back to a study later, without holding a place in the worker.

        Args:
            why: what is raised once it has waited for `give_up`.
            waiting: the pause from now on, and the sum of those before.
        """
        delay, waited = waiting
        if waited >= give_up:
            raise why
        following = replace(message, attempt=message.attempt + 1)
        DBOS.enqueue_workflow_with_options(enqueue_options(following, delay), following.as_json())
        self._step(message, "wait", self._waiting, message, why.step, why.code, why.message)
        return "waiting"

    def _waiting(self, message: StudyMessage, step: str, reason: str, detail: str) -> None:
        self._note(message, state="waiting", reason=reason, detail=detail)
        self.metrics.retry(step, reason)

    def _step(
        self, message: StudyMessage, name: str, function: Callable[..., Any], *args: Any
    ) -> Any:
        """Run one step durably; while a server is down, wait durably and run it again."""
        delay, waited = self.intake.upstream_retry, timedelta()
        while True:
            answer = DBOS.run_step({"name": name}, self._guarded, message, name, function, args)
            if answer["outcome"] == "done":
                return answer["value"]
            if answer["outcome"] == "park" or waited >= self.intake.upstream_give_up:
                raise _Parked(name, answer["code"], answer["message"])
            DBOS.sleep(delay.total_seconds())
            waited += delay
            delay = min(delay * 2, LONGEST_WAIT)

    def _guarded(
        self, message: StudyMessage, name: str, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Json:
        """One try of a step as a value: done, try again, or give up. Never an exception."""

        def traced() -> Any:
            with step_span(name, message.carrier):
                return function(*args)

        begin = time.perf_counter()
        answer = try_once(name, self.metrics, traced)
        if answer["outcome"] == "retry":
            self._note(message, state="waiting", step=name, reason=answer["code"])
        if answer["outcome"] == "done":
            seconds = {name: time.perf_counter() - begin}
            if isinstance(answer["value"], dict):
                seconds |= answer["value"].get("seconds", {})
            # What parked is the step to tell of, and it has told itself.
            told_step = {} if name == "park" else {"step": name}
            self._note(message, seconds=seconds, **told_step)
        return answer

    def _note(
        self,
        message: StudyMessage,
        *,
        seconds: Mapping[str, float] | None = None,
        version_read: str | None = None,
        **values: Any,
    ) -> None:
        """Keep the row of this run up to date for the status page.

        The row is for people; a database that cannot take it must not fail the step.
        """
        try:
            self._write_row(message, seconds, version_read, values)
        except SQLAlchemyError as error:
            incident(log, "run-row-failed", error)

    def _write_row(
        self,
        message: StudyMessage,
        seconds: Mapping[str, float] | None,
        version_read: str | None,
        values: Mapping[str, Any],
    ) -> None:
        row = self.repository.run(message.workflow_id)
        kept = row.model_dump() if row else {"queued_at": _instant(message.queued_at)}
        merged = {**kept, **values, "version": version_read or kept.get("version", message.version)}
        if seconds is not None:
            times = dict(merged.get("step_seconds") or {})
            for name, value in seconds.items():
                times[name] = round(times.get(name, 0.0) + value, 4)
            merged["step_seconds"] = times
        if values.get("state") == "running":
            merged["reason"] = None
        for key in ("workflow_id", "imaging_study_id"):
            merged.pop(key, None)
        self.repository.record_run(
            message.workflow_id, message.imaging_study_id, merged.pop("version"), **merged
        )


def writing_failures(outcomes: list[Json]) -> list[VersionFailure]:
    """Versions that should have written a result and gave nothing; what lasts comes first."""
    found = dict.fromkeys(
        failure
        for raw in outcomes
        for failure in _outcome_of(raw).failures
        if failure.role != "shadow"
    )
    return sorted(found, key=lambda failure: failure.again)


def told(failures: list[VersionFailure]) -> str:
    """What a human reads of them: a code alone does not say which model it is."""
    return "; ".join(f"{item.service} {item.version}: {item.message}" for item in failures)


def trace_id_of(carrier: Mapping[str, str]) -> str | None:
    """Trace id of a W3C `traceparent`: version, trace id, span id, flags."""
    parts = carrier.get("traceparent", "").split("-")
    return parts[1] if len(parts) == 4 else None


def outcome_rows(
    workflow_id: str, prepared: Prepared, outcomes: list[Json]
) -> list[ServiceOutcome]:
    """Rows for the status page: one per service and series, applied or not."""
    rows = [
        _row(
            workflow_id,
            prepared,
            item.series_instance_uid,
            item.service,
            "not-applied",
            [{"rule": item.reason, "seen": item.seen, "needed": ""}],
        )
        for item in prepared.not_applied
    ]
    for raw in outcomes:
        outcome = _outcome_of(raw)
        for result in outcome.results:
            row = _row(
                workflow_id,
                prepared,
                outcome.series_instance_uid,
                result.service,
                result.status,
                [
                    {"rule": r.rule, "seen": r.seen, "needed": r.needed}
                    for r in sorted(result.refusals, key=lambda r: (r.rule, r.seen))
                ],
            )
            row.inference_key = result.inference_key
            row.panel_id = result_id(result.inference_key, "panel")
            rows.append(row)
        rows += [
            _row(
                workflow_id,
                prepared,
                outcome.series_instance_uid,
                failure.service,
                "failed",
                [{"rule": failure.code, "seen": failure.message, "needed": ""}],
            )
            for failure in outcome.failures
            if failure.role != "shadow"
        ]
    return rows


def _row(
    workflow_id: str,
    prepared: Prepared,
    series_instance_uid: str,
    service: str,
    status: str,
    reasons: list[dict[str, str]],
) -> ServiceOutcome:
    return ServiceOutcome(
        imaging_study_id=prepared.imaging_study_id,
        series_instance_uid=series_instance_uid,
        service=service,
        study_instance_uid=prepared.study_instance_uid,
        workflow_id=workflow_id,
        status=status,
        reasons=reasons,
        updated_at=now(),
    )


def _dump(adapter: TypeAdapter[Any], value: Any) -> Json:
    dumped: Json = adapter.dump_python(value, mode="json")
    return dumped


def _outcome_of(raw: Json) -> SeriesOutcome:
    """What an `analyze` step handed on, without the instant that it added."""
    kept = {name: value for name, value in raw.items() if name != "issued"}
    return _outcome.validate_python(kept)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
