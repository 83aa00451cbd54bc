"""What every version said becomes a sample, by which its monitoring is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError

from fhir_ext.errors import NotFoundError, SettingsError
from fhir_ext.logs import get_logger, incident
from fhir_ext.results import SeriesSource, ServiceResult
from fhir_ext.store.sample_tables import COUNT, TOP_SCORE, ModelSample
from fhir_ext.store.samples import SampleStore
from fhir_ext.telemetry import Metrics
from models.manifest import Detections
from models.registry import Registry
from operations.analyze.infer import SeriesOutcome
from operations.analyze.plan import SeriesJob

log = get_logger(__name__)

#: Hex digits of a digest that stands for UIDs.
DIGEST_DIGITS: Final = 32

_result = TypeAdapter(ServiceResult)


def record_work(
    store: SampleStore,
    metrics: Metrics,
    registry: Registry,
    jobs: Sequence[SeriesJob],
    outcomes: Sequence[tuple[SeriesOutcome, datetime]],
) -> None:
    """Keep and count what was said of one study; a repeat keeps the same rows.

    Monitoring is for people: a database that cannot take the samples must not fail the step.

    Args:
        jobs, outcomes: what was planned, and in the same order what became of it and when.
    """
    samples: list[ModelSample] = []
    for job, (outcome, at) in zip(jobs, outcomes, strict=True):
        samples += samples_of(job, outcome, registry, at)
        for failure in outcome.failures:
            metrics.model_result(failure.service, failure.version, failure.role, "failed")
    for sample in samples:
        metrics.model_result(
            sample.service,
            sample.version,
            sample.role,
            sample.status,
            sample.rules,
            sample.latency_seconds,
        )
        metrics.model_inputs(sample.service, sample.version, sample.mix)
    try:
        store.record(samples)
    except SQLAlchemyError as error:
        incident(log, "samples-failed", error)


def samples_of(
    job: SeriesJob, outcome: SeriesOutcome, registry: Registry, at: datetime
) -> list[ModelSample]:
    """A sample of each result, of versions that write and of shadows.

    Args:
        job: what was planned; it names the role of each version.
        outcome: what became of it.
        registry: tells which outputs are counts of detections.
        at: when the results were made.
    """
    roles = {(version.service, version.version): str(version.role) for version in job.versions}
    found = []
    for shadow, results in ((False, outcome.results), (True, outcome.shadows)):
        for result in results:
            role = "shadow" if shadow else roles.get((result.service, result.model.version))
            sample = sample_of(
                result,
                role or "active",
                at,
                pair=digest(result.study_instance_uid, outcome.series_instance_uid),
                searched=_searched(registry, result),
            )
            sample.mix = dict(outcome.facts)
            sample.latency_seconds = outcome.latency.get(result.inference_key)
            found.append(sample)
    return found


def sample_of(
    result: ServiceResult, role: str, at: datetime, *, pair: str, searched: Iterable[str] = ()
) -> ModelSample:
    """One sample, without what is known of the images.

    Args:
        pair: the same for versions that saw the same images.
        searched: names of detections, for which none found is a count of 0.
    """
    numbers = {f"{m.name}/{m.region}": m.value for m in result.measurements if m.value is not None}
    if result.status == "done":
        numbers |= _counts(result, searched)
    return ModelSample(
        inference_key=result.inference_key,
        role=role,
        pair=pair,
        service=result.service,
        version=result.model.version,
        settings_hash=result.model.settings_hash,
        at=at,
        status=result.status,
        rules=sorted({refusal.rule for refusal in result.refusals}),
        numbers=numbers,
        categories={
            f"{item.name}/{item.region}": item.chosen
            for item in result.classifications
            if item.chosen is not None
        },
        result=_without_uids(result) if role == "shadow" else None,
    )


def digest(*uids: str) -> str:
    """What stands for UIDs: the same for the same, and nobody reads them from it."""
    return hashlib.sha256("\n".join(uids).encode()).hexdigest()[:DIGEST_DIGITS]


def _counts(result: ServiceResult, searched: Iterable[str]) -> dict[str, float]:
    """Places found and highest score, by name of the output."""
    names = sorted({*searched, *(item.name for item in result.detections)})
    found: dict[str, float] = {}
    for name in names:
        scores = [item.score for item in result.detections if item.name == name]
        found[f"{name}/{COUNT}"] = float(len(scores))
        if scores:
            found[f"{name}/{TOP_SCORE}"] = max(scores)
    return found


def _searched(registry: Registry, result: ServiceResult) -> tuple[str, ...]:
    try:
        manifest = registry.manifest(result.service, result.model.version)
    except (NotFoundError, SettingsError):
        # Taken off the disk since it ran; what it found has a name anyhow.
        return ()
    return tuple(item.name for item in manifest.outputs if isinstance(item, Detections))


def _without_uids(result: ServiceResult) -> dict[str, Any]:
    """A result as JSON in which digests stand for UIDs."""

    def hidden(uid: str | None) -> str | None:
        return digest(uid) if uid else uid

    def source(item: SeriesSource) -> SeriesSource:
        instances = tuple(digest(uid) for uid in item.sop_instance_uids)
        return SeriesSource(digest(item.series_instance_uid), instances)

    main = source(SeriesSource(result.series_instance_uid, result.sop_instance_uids))
    kept: dict[str, Any] = _result.dump_python(
        replace(
            result,
            study_instance_uid=digest(result.study_instance_uid),
            series_instance_uid=main.series_instance_uid,
            sop_instance_uids=main.sop_instance_uids,
            further=tuple(source(item) for item in result.further),
            frame_of_reference_uid=hidden(result.frame_of_reference_uid) or "",
            seg_instance_uid=hidden(result.seg_instance_uid),
            seg_series_instance_uid=hidden(result.seg_series_instance_uid),
        ),
        mode="json",
    )
    return kept
