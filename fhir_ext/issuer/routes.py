"""The issuer as a web application: login pages for browsers, endpoints for clients.

Every handler runs on the event loop, one at a time: the store needs no locks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from authlib.oauth2.rfc6749 import OAuth2Error  # type: ignore[import-untyped]
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, field_validator
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fhir_ext import __version__
from fhir_ext.auth.claims import FHIR_ID
from fhir_ext.errors import ForbiddenError, NotFoundError, UnauthorizedError
from fhir_ext.issuer.addresses import hostname, is_loopback
from fhir_ext.issuer.clients import Clients
from fhir_ext.issuer.interaction import Interactions
from fhir_ext.issuer.messages import Answer, IssuerRequest
from fhir_ext.issuer.metadata import metadata
from fhir_ext.issuer.pages import Pages, asset
from fhir_ext.issuer.server import IssuerServer
from fhir_ext.issuer.store import LAUNCH_SECONDS, Launch
from fhir_ext.outcome import BodyLimit, SecurityHeaders, error_response, install_error_handlers
from fhir_ext.settings import IssuerSettings

#: Longest body; tokens and forms are far below.
_BODY_BYTES = 64 * 1024

#: What browser apps may call from another origin. Not the pages: an app must not answer them.
_FOR_APPS: Final = frozenset(
    {
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/introspect",
        "/jwks",
        "/revoke",
        "/token",
        "/userinfo",
    }
)
#: What only our own pages and programs without a browser may send.
_OWN: Final = frozenset({"/consent", "/launch", "/login", "/rotate"})


class LaunchRequest(BaseModel):
    """What an EHR knows when it launches an app."""

    model_config = ConfigDict(extra="forbid")

    patient: str
    encounter: str | None = None

    @field_validator("patient", "encounter")
    @classmethod
    def _is_id(cls, value: str | None) -> str | None:
        if value is not None and not FHIR_ID.fullmatch(value):
            raise ValueError("not a FHIR id")
        return value


def create_issuer_app(settings: IssuerSettings) -> FastAPI:
    """The application of a development issuer.

    Raises:
        SettingsError: others than this machine could reach it, or a file of the settings
            does not hold.
    """
    server = IssuerServer(settings)
    pages = Pages(settings.patients)
    app = FastAPI(title="fhir-ext issuer", version=__version__, docs_url=None, redoc_url=None)
    install_error_handlers(app)

    async def on_malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, OAuth2Error)
        if request.url.path == "/authorize":
            return _response(pages.error("The request is malformed: a parameter occurs twice."))
        return _response(server.refusal(error))

    app.add_exception_handler(OAuth2Error, on_malformed)
    app.state.issuer = server
    app.include_router(_browser_router(Interactions(server, pages)))
    app.include_router(_client_router(server))
    app.include_router(_development_router(server))
    app.add_middleware(AppOrigins, clients=server.clients)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(BodyLimit, max_bytes=_BODY_BYTES)
    app.add_middleware(LoopbackOnly)
    return app


async def _read(request: Request) -> IssuerRequest:
    issuer = request.app.state.issuer.issuer
    uri = f"{issuer}{request.url.path}?{request.url.query}"
    return IssuerRequest(request.method, uri, request.headers, await request.body())


Read = Annotated[IssuerRequest, Depends(_read)]


def _response(answer: Answer) -> Response:
    body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
    return Response(body, answer.status, answer.headers)


def _browser_router(interactions: Interactions) -> APIRouter:
    """What a browser is led through."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/authorize", methods=["GET", "POST"])
    async def authorize(request: Read) -> Response:
        """Authorization endpoint (RFC 6749 section 3.1)."""
        return _response(interactions.begin(request))

    @router.post("/login")
    async def login(request: Read) -> Response:
        """Who logs in; answers with the consent page."""
        return _response(interactions.login(request.form))

    @router.post("/consent")
    async def consent(request: Read) -> Response:
        """What the user decided; leads back to the app."""
        return _response(interactions.decide(request.form))

    @router.get("/assets/{name}")
    async def file(name: str) -> Response:
        """Style and icon of the pages."""
        found = asset(name)
        if found is None:
            raise NotFoundError("no such file")
        return Response(found[0], media_type=found[1])

    return router


def _client_router(server: IssuerServer) -> APIRouter:
    """What clients and resource servers call."""
    router = APIRouter()

    @router.post("/token")
    async def token(request: Read) -> Response:
        """Token endpoint (RFC 6749 section 3.2)."""
        return _response(server.create_token_response(request))

    @router.post("/revoke")
    async def revoke(request: Read) -> Response:
        """Revocation (RFC 7009)."""
        return _response(server.create_endpoint_response("revocation", request))

    @router.post("/introspect")
    async def introspect(request: Read) -> Response:
        """Introspection (RFC 7662)."""
        return _response(server.create_endpoint_response("introspection", request))

    @router.get("/jwks")
    async def jwks() -> dict[str, Any]:
        """Keys that verify our tokens (RFC 7517 section 5)."""
        return server.keys.public()

    @router.get("/.well-known/openid-configuration")
    @router.get("/.well-known/oauth-authorization-server")
    async def discovery() -> dict[str, Any]:
        """What this issuer can do."""
        return metadata(server.issuer, server.tokens.audience, server.keys.algorithm)

    @router.api_route("/userinfo", methods=["GET", "POST"])
    async def userinfo(request: Request) -> dict[str, str]:
        """Who the user of a token is (OpenID Connect Core 1.0 section 5.3)."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        access = server.tokens.read(value) if scheme.lower() == "bearer" else None
        if access is None or access.is_revoked():
            raise UnauthorizedError("the token is not known or has ended")
        user = server.users.find(access.claims["sub"])
        if user is None or "openid" not in access.claims["scope"].split(" "):
            raise ForbiddenError("the token does not have the scope openid")
        return user.claims(access.claims["scope"])

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """This process answers."""
        return {"ok": True}

    return router


def _development_router(server: IssuerServer) -> APIRouter:
    """What plays the record system and the operator."""
    router = APIRouter()

    @router.post("/launch", status_code=201)
    async def launch(context: LaunchRequest) -> dict[str, Any]:
        """Begin an EHR launch: gives the `launch` value to send the app to."""
        value = secrets.token_urlsafe(16)
        kept = Launch(context.patient, context.encounter)
        server.store.launches.put(value, kept, LAUNCH_SECONDS)
        return {"launch": value, "iss": server.tokens.audience, "expires_in": LAUNCH_SECONDS}

    @router.post("/rotate")
    async def rotate() -> dict[str, str]:
        """Let a new key sign; older ones stay published until their tokens have expired."""
        return {"kid": server.keys.rotate()}

    return router


class LoopbackOnly:
    """ASGI middleware: answers only this machine, under a name of this machine.

    A page of another site could otherwise reach the issuer through the browser, by a name
    that it lets point to loopback (DNS rebinding) or by a form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _local(scope):
            refusal = error_response(ForbiddenError("the development issuer is for loopback only"))
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _local(scope: Scope) -> bool:
    headers: Mapping[str, str] = Headers(scope=scope)
    peer = scope.get("client")
    if peer is None or not is_loopback(peer[0]) or not is_loopback(hostname(headers.get("host"))):
        return False
    site = headers.get("sec-fetch-site", "none")
    return scope["path"] not in _OWN or site in ("none", "same-origin")


class AppOrigins(CORSMiddleware):
    """CORS for browser apps: origins of registered redirect URIs, and only for `_FOR_APPS`."""

    def __init__(self, app: ASGIApp, clients: Clients) -> None:
        super().__init__(app, allow_methods=["GET", "POST"], allow_headers=["Authorization"])
        self._clients = clients

    def is_allowed_origin(self, origin: str) -> bool:
        return self._clients.allow_origin(origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in _FOR_APPS:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)
