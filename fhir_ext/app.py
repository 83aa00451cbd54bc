"""The HTTP side: hooks, status page, health, metrics. Stateless; fetches no pixels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fhir_ext import __version__
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.outcome import BodyLimit, SecurityHeaders, install_error_handlers
from fhir_ext.settings import Settings
from fhir_ext.status.routes import status_router
from fhir_ext.status.service import StatusDeps
from fhir_ext.store.engine import create_store_engine
from fhir_ext.store.repository import Repository
from fhir_ext.telemetry import Metrics
from subscriptions.health import health_checks, queue_state
from subscriptions.intake.routes import hook_router
from subscriptions.queue import WorkQueue


def create_app(settings: Settings) -> FastAPI:
    """The application of one installation.

    Args:
        settings: read by the caller; nothing is read from the environment here.
    """
    repository = Repository(create_store_engine(settings.database.url))
    queue = WorkQueue(settings.database.url)
    fhir = FhirClient(settings.fhir)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="fhir-ext", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    install_error_handlers(app)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(BodyLimit, max_bytes=settings.limits.body_bytes)
    secret = settings.intake.hook_secret.get_secret_value()
    app.include_router(hook_router(queue, secret))
    deps = StatusDeps(
        repository=repository,
        fhir=fhir,
        queue_waiting=lambda: queue_state(queue),
        checks=health_checks(settings, repository, fhir),
        links={"FHIR server": settings.fhir.base_url, "DICOMweb": settings.archive.qido_url},
        fhir_url=settings.fhir.base_url,
    )
    app.include_router(status_router(deps))

    @app.get("/metrics", include_in_schema=False)
    def metrics_page() -> Response:
        state = queue_state(queue)
        metrics.queue(state.depth, state.oldest_seconds)
        metrics.parked(repository.count_runs().get("parked", 0))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app
