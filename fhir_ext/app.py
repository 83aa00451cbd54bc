"""The HTTP side: gateway, hooks, status page, health, metrics. Stateless; fetches no pixels."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from fhir_ext import __version__
from fhir_ext.audit.journal import AccessJournal
from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.discovery import issuer_endpoints, issuer_lists, smart_configuration
from fhir_ext.auth.grant import Grant
from fhir_ext.auth.issuer_document import IssuerDocument
from fhir_ext.auth.verify import build_verifier
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import NotFoundError, SettingsError, UnauthorizedError
from fhir_ext.gateway.door import Door, DoorParts
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.policy import Policy
from fhir_ext.gateway.public import PublicPages
from fhir_ext.gateway.throttle import Throttle
from fhir_ext.gateway.upstream import Upstream
from fhir_ext.issuer.addresses import is_loopback
from fhir_ext.outcome import BodyLimit, SecurityHeaders, install_error_handlers
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import Settings
from fhir_ext.status.login import StatusLogin
from fhir_ext.status.routes import status_router
from fhir_ext.status.service import StatusDeps
from fhir_ext.store.engine import create_store_engine
from fhir_ext.store.repository import Repository
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.model_registry.build import without_networks
from operations.model_registry.routes import Callers, model_router
from operations.review.definitions import DEFINITIONS as REVIEW
from operations.review.routes import review_router
from operations.review.service import ReviewService
from operations.risk_score import units
from operations.risk_score.definition import DEFINITION as RISK_SCORE
from operations.risk_score.routes import risk_score_router
from operations.risk_score.service import RiskScoreService
from subscriptions.health import chore_state, health_checks, queue_state
from subscriptions.intake.routes import hook_router
from subscriptions.queue import AUDIT, WorkQueue

MOUNT = "/fhir"


class Site(FastAPI):
    """The application, with the gateway in front of its routes.

    A read takes HAPI less than a millisecond, so what is under `/fhir` does not pass through
    the routing and the middleware that the pages need.
    """

    door: Door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path == MOUNT or path.startswith(f"{MOUNT}/"):
            await self.door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The application of one installation.

    Args:
        settings: read by the caller; nothing is read from the environment here.

    Raises:
        SettingsError: a role is mapped to a persona that does not exist, or a development
            issuer is trusted on an address that others reach.
    """
    repository = Repository(create_store_engine(settings.database.url))
    queue = WorkQueue(settings.database.url)
    fhir = FhirClient(settings.fhir)
    upstream = Upstream(settings.fhir, settings.gateway.connections)
    journal = AccessJournal(
        settings.audit,
        lambda key, records: queue.enqueue_chore(AUDIT, key, {"records": records}),
    )
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        journal.start()
        # The first conversion of a unit reads UCUM, which takes a second.
        threading.Thread(target=units.prepare, name="units", daemon=True).start()
        yield
        journal.close()
        await upstream.close()
        queue.close()

    app = Site(
        title="fhir-ext", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    install_error_handlers(app)
    if password := settings.server.status_password:
        app.add_middleware(StatusLogin, password=password.get_secret_value())
    app.add_middleware(SecurityHeaders)
    app.add_middleware(BodyLimit, max_bytes=settings.limits.body_bytes)
    registry = Registry(site=settings.models.folder)
    reviews = ReviewService(fhir, queue, registry, metrics)
    inner = _operations(settings, review_router(reviews), risk_score_router(RiskScoreService(fhir)))
    trust = _Trust.build(settings, settings.server.fhir_base)
    app.door = _door(settings, trust, upstream, journal, metrics, inner)
    models = without_networks(settings, repository, queue, registry)
    gateway = settings.gateway
    throttle = Throttle(gateway.requests_per_minute, gateway.burst)
    callers = Callers(trust.authenticate, trust.verify, journal.note, throttle)
    app.include_router(model_router(models, callers))
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
        chores = chore_state(queue)
        metrics.chores(chores.depth, chores.oldest_seconds)
        metrics.parked(repository.count_runs().get("parked", 0))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


#: OperationDefinitions of our own operations; the gateway answers them itself.
DEFINITIONS = (RISK_SCORE, *REVIEW)
OPERATIONS = {definition["id"]: definition for definition in DEFINITIONS}


def _operations(settings: Settings, *routers: APIRouter) -> FastAPI:
    """The application behind the gateway that answers our own operations."""
    inner = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    install_error_handlers(inner)
    inner.add_middleware(BodyLimit, max_bytes=settings.limits.body_bytes)
    for router in routers:
        inner.include_router(router)
    return inner


def _door(
    settings: Settings,
    trust: _Trust,
    upstream: Upstream,
    journal: AccessJournal,
    metrics: Metrics,
    inner: FastAPI,
) -> Door:
    """The gateway; closed to everybody while no issuer of tokens is set."""
    base = settings.server.fhir_base
    secret = settings.gateway.link_secret
    links = Links(
        settings.fhir.base_url,
        base,
        secret.get_secret_value().encode() if secret else secrets.token_bytes(32),
    )

    def note(record: AccessRecord) -> None:
        metrics.access(record.interaction, record.http_status)
        journal.note(record)

    parts = DoorParts(
        authenticate=trust.authenticate,
        verify=trust.verify,
        note=note,
        ready=journal.ready,
        operations=OPERATIONS,
        inner=inner,
        public=PublicPages(upstream, links, DEFINITIONS, trust.endpoints, trust.smart).get,
        check_address=OutgoingGuard(settings.outgoing).check,
    )
    return Door(
        settings.gateway, settings.limits.body_bytes, upstream, links, Policy.load(), parts, MOUNT
    )


@dataclass(frozen=True, slots=True)
class _Trust:
    """What follows from the issuer, or from there being none."""

    authenticate: Callable[[str], Grant | None]
    verify: Callable[[str], Grant]
    endpoints: Callable[[], Mapping[str, str]]
    smart: Callable[[], dict[str, Any]]

    @classmethod
    def build(cls, settings: Settings, base: str) -> _Trust:
        """Trust in the issuer of the settings; none comes in while there is none.

        Raises:
            SettingsError: see `create_app`.
        """
        auth = settings.auth
        if auth.development_issuer and not is_loopback(settings.server.host):
            raise SettingsError("a development issuer is trusted on loopback only: see server.host")
        if auth.issuer is None:
            return cls(lambda _token: None, _no_issuer, dict, _no_smart)
        document = IssuerDocument(OutgoingGuard(settings.outgoing), auth)
        verifier = build_verifier(auth, settings.outgoing, base, document)
        return cls(
            verifier.cached,
            verifier.verify,
            lambda: issuer_endpoints(document),
            lambda: smart_configuration(auth, issuer_endpoints(document), issuer_lists(document)),
        )


def _no_issuer(_token: str) -> Grant:
    raise UnauthorizedError("no issuer of tokens is configured", code="no-issuer")


def _no_smart() -> dict[str, Any]:
    raise NotFoundError("no issuer of tokens is configured", code="no-issuer")
