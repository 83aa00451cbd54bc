"""The worker process: runs the queue, and the leader's loops."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import SettingsError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources.task import parked_chore_task
from fhir_ext.settings import Settings
from fhir_ext.store.engine import create_store_engine, queue_url
from fhir_ext.store.repository import Repository
from fhir_ext.store.samples import SampleStore
from fhir_ext.telemetry import Metrics
from models.runtime.budget import PixelBudget
from models.runtime.host import Host
from models.runtime.lane import BatchRan
from operations.analyze.rules import load_rules
from operations.analyze.service import AnalyzeService
from operations.model_drift.service import DriftService
from operations.model_registry.recall import RECALL, Recaller
from operations.review.service import CORRECT_SR
from operations.risk_score.rescore import Rescorer
from subscriptions.audit import AccessEventWriter
from subscriptions.chores import Chores, Handler
from subscriptions.hooks import HOOKS
from subscriptions.intake.bridge import ArchiveBridge
from subscriptions.intake.subscription import ensure_subscription
from subscriptions.intake.sweep import sweep
from subscriptions.leader import (
    Leader,
    Loop,
    delete_finished,
    delete_written_audit,
    park_crashed,
    park_crashed_chores,
    take_over_dead_workers,
)
from subscriptions.models import WorkerModels
from subscriptions.monitoring import Monitor, monitoring_handlers
from subscriptions.queue import (
    APPLICATION,
    AUDIT,
    AUDIT_QUEUE,
    CHORE_QUEUE,
    STUDY_QUEUE,
    WORKFLOW_VERSION,
    WorkQueue,
)
from subscriptions.recall import REJECT_RECALLED, RecallVersion, RejectRecalled, watch_recalls
from subscriptions.rescore import RESCORE, Rescore, sweep_findings
from subscriptions.review import CorrectSr, follow_reviews
from subscriptions.workflow import StudyWorkflow

log = get_logger(__name__)


#: Nobody waits for a chore, so its queue is looked at less often than that of studies.
CHORE_POLL_SECONDS = 0.25


def executor_id(settings: Settings) -> str:
    """Stable id of this worker.

    Raises:
        SettingsError: on Postgres, where several workers share the queue, none was given.
    """
    if settings.worker.executor_id:
        return settings.worker.executor_id
    if settings.database.url.startswith("sqlite"):
        return "local"
    raise SettingsError("set worker.executor_id: on Postgres each worker needs its own, stable id")


@contextmanager
def running_queue(settings: Settings, workflow: StudyWorkflow, chores: Chores) -> Iterator[None]:
    """Launch DBOS for this process and stop it at the end."""
    engine = create_store_engine(queue_url(settings.database.url))
    config = DBOSConfig(
        name=APPLICATION,
        system_database_engine=engine,
        executor_id=executor_id(settings),
        application_version=WORKFLOW_VERSION,
        serializer=DBOSPortableJSONSerializer(),
        run_migrations=False,
        log_level="WARNING",
        notification_listener_polling_interval_sec=1.0,
    )
    DBOS(config=config)
    workflow.register()
    chores.register()
    DBOS.launch()
    DBOS.register_queue(
        STUDY_QUEUE,
        worker_concurrency=settings.worker.concurrency,
        # One study at a time: a newer version waits for the older one to finish.
        partition_concurrency=1,
        polling_interval_sec=settings.worker.queue_poll_interval.total_seconds(),
        on_conflict="always_update",
    )
    for name in (CHORE_QUEUE, AUDIT_QUEUE):
        DBOS.register_queue(
            name,
            worker_concurrency=settings.worker.chores,
            polling_interval_sec=CHORE_POLL_SECONDS,
            on_conflict="always_update",
        )
    try:
        yield
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=5)
        engine.dispose()


def chore_handlers(
    settings: Settings,
    fhir: FhirClient,
    archive: DicomWebClient,
    queue: WorkQueue,
    models: WorkerModels,
) -> dict[str, Handler]:
    """What this worker can do besides studies, by name."""
    audit = AccessEventWriter(fhir, settings.server.fhir_base)
    return {
        AUDIT: audit,
        **models.handlers(fhir, audit),
        CORRECT_SR: CorrectSr(fhir, archive),
        RECALL: RecallVersion(Recaller(fhir), queue),
        REJECT_RECALLED: RejectRecalled(fhir, archive),
        RESCORE: Rescore(Rescorer(fhir)),
    }


def _count_batch(metrics: Metrics, ran: BatchRan) -> None:
    metrics.model_batch(
        ran.service,
        ran.version,
        ran.device,
        items=ran.items,
        busy_seconds=ran.busy_seconds,
        waited_seconds=ran.waited_seconds,
        failed=ran.failed,
    )


@contextmanager
def running_worker(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """Everything a worker process does, for as long as the context is open.

    Raises:
        SettingsError: rules or executor id are wrong.
    """
    repository = Repository(create_store_engine(settings.database.url))
    fhir, archive = FhirClient(settings.fhir), DicomWebClient(settings.archive, settings.limits)
    queue = WorkQueue(settings.database.url)
    host = Host.from_settings(settings, lambda ran: _count_batch(metrics, ran))
    models = WorkerModels.build(settings, repository, queue, host, fhir)
    rules = load_rules(settings.worker.rules_file)
    analyze = AnalyzeService.build(
        fhir,
        archive,
        models.registry,
        rules,
        settings.limits,
        models.states,
        PixelBudget(settings.models.pixel_bytes),
    )
    workflow = StudyWorkflow(analyze, repository, settings.intake, metrics)
    samples = SampleStore(repository.engine)
    drift = DriftService(samples, repository, settings.monitoring)
    monitor = Monitor(drift, models.registry, queue, metrics)
    chores = Chores(
        {
            **chore_handlers(settings, fhir, archive, queue, models),
            **monitoring_handlers(settings, fhir, samples),
        },
        queue.park_chore,
        lambda name, key, code, text, when: fhir.put(
            parked_chore_task(name, key, code, text, when)
        ),
        settings.intake,
        metrics,
    )
    bridge = ArchiveBridge.build(settings, fhir, archive, repository)
    models.prepare()
    # The same for highdicom, which takes a second to import and builds every SR.
    importlib.import_module("fhir_ext.dicom.sr")
    minute = timedelta(minutes=1)
    ttl, holder = settings.worker.lease_ttl, executor_id(settings)
    intake = settings.intake
    loops = [
        *(
            Loop(name, timedelta(seconds=15), partial(ensure_subscription, fhir, intake, hook))
            for name, hook in HOOKS.items()
        ),
        Loop(
            "sweep",
            intake.sweep_interval,
            lambda: sweep(fhir, queue, repository, intake.sweep_overlap),
        ),
        Loop(
            "reviews",
            intake.sweep_interval,
            lambda: follow_reviews(fhir, queue, repository, intake.sweep_overlap),
        ),
        Loop(
            "sweep-findings",
            intake.sweep_interval,
            lambda: sweep_findings(fhir, queue, repository, intake.sweep_overlap),
        ),
        Loop("publish-models", minute, lambda: models.publish(fhir)),
        Loop("recalls", intake.sweep_interval, lambda: watch_recalls(fhir, queue)),
        Loop("take-over", ttl / 2, lambda: take_over_dead_workers(repository, holder, ttl)),
        Loop("park-crashed", timedelta(seconds=10), lambda: park_crashed(repository, analyze)),
        Loop(
            "park-crashed-chores",
            timedelta(seconds=10),
            lambda: park_crashed_chores(fhir, queue),
        ),
        Loop("monitoring", settings.monitoring.interval, monitor.look),
        Loop("forget-audit", minute, delete_written_audit),
        Loop(
            "retention", 10 * minute, lambda: delete_finished(repository, settings.worker.retention)
        ),
    ]
    if settings.bridge.enabled:
        loops.append(Loop("bridge", settings.bridge.poll_interval, bridge.poll))
    leader = Leader(repository, holder, ttl, loops)
    with running_queue(settings, workflow, chores):
        leader.start()
        event(log, "worker-ready")
        try:
            yield
        finally:
            leader.stop()
            queue.close()
            host.close()
