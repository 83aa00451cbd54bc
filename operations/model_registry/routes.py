"""HTTP to `ModelRegistryService`, under `/models`; a bearer token says who asks."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant
from fhir_ext.errors import ForbiddenError, UnauthorizedError
from fhir_ext.gateway.throttle import Throttle
from fhir_ext.resources.context import instant
from fhir_ext.store.repository import now
from models.manifest.base import KEBAB, LONGEST_NAME, SEMVER
from operations.model_registry.actor import Actor
from operations.model_registry.describe import describe
from operations.model_registry.rights import Action, rights_of
from operations.model_registry.rows import VersionRow, event_json
from operations.model_registry.service import ModelRegistryService

Json = dict[str, Any]
T = TypeVar("T")

ServiceName = Annotated[str, Path(pattern=KEBAB, max_length=LONGEST_NAME)]
VersionName = Annotated[str, Path(pattern=SEMVER, max_length=LONGEST_NAME)]

#: Most events of one answer.
MOST_EVENTS: Final = 1000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


B = TypeVar("B", bound=_Body)


class InstallBody(_Body):
    """`folder`: name of a folder in the inbox of the installation."""

    folder: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


class CanaryBody(_Body):
    """`share`: part of the studies, above 0 and at most 1."""

    share: float = Field(gt=0, le=1, strict=True)


class ReasonBody(_Body):
    """`reason`: one sentence without patient data."""

    reason: str | None = Field(None, min_length=1, max_length=500)


class RecallBody(_Body):
    """`reason`: one sentence without patient data; it stands in everything that is withdrawn."""

    reason: str = Field(min_length=1, max_length=500)


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may come in.

    Attributes:
        authenticate: token to grant; None when it must be verified first.
        verify: token to grant; may block, and raises UnauthorizedError.
        note: writes a refused access into the journal.
        throttle: slows down who asks too often, or without a token that holds.
    """

    authenticate: Callable[[str], Grant | None]
    verify: Callable[[str], Grant]
    note: Callable[[AccessRecord], None]
    throttle: Throttle

    async def act(self, request: Request, action: Action, do: Callable[[Actor], T]) -> T:
        """Do something for the caller of a request.

        Raises:
            UnauthorizedError: no token, or one that does not hold.
            ForbiddenError: the caller's roles do not allow it; the refusal is noted.
        """
        async with self._allowed(request, action) as actor:
            return await run_in_threadpool(do, actor)

    async def act_on(
        self, request: Request, shape: type[B], action: Action, do: Callable[[B, Actor], T]
    ) -> T:
        """The same with the body, which is read once the caller may do it.

        Raises:
            RequestValidationError: the body is not JSON of this shape.
        """
        async with self._allowed(request, action) as actor:
            return await run_in_threadpool(do, await _read(request, shape), actor)

    @asynccontextmanager
    async def _allowed(self, request: Request, action: Action) -> AsyncIterator[Actor]:
        actor = await self._actor(request)
        try:
            actor.require(action)
            yield actor
        except ForbiddenError as error:
            await run_in_threadpool(self.note, _refusal(actor, action, error))
            raise

    async def _actor(self, request: Request) -> Actor:
        address = request.client.host if request.client else ""
        given = request.headers.getlist("authorization")
        kind, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        grant = None
        if kind.lower() == "bearer" and token.strip():
            grant = self.authenticate(token.strip())
        if grant is None:
            self.throttle.take(f"address/{address}")
            if kind.lower() != "bearer" or not token.strip():
                raise UnauthorizedError("a bearer token is needed", code="no-token")
            grant = await run_in_threadpool(self.verify, token.strip())
        self.throttle.take(f"client/{grant.client_id}/{grant.subject}")
        return Actor(
            grant.subject,
            "rest",
            rights_of(grant),
            client_id=grant.client_id,
            fhir_user=grant.fhir_user,
            personas=tuple(sorted(grant.personas)),
            address=address or None,
        )


async def _read(request: Request, shape: type[B]) -> B:
    """The JSON body; none is an empty object."""
    try:
        return shape.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from error


def _takes(shape: type[_Body]) -> Json:
    """What OpenAPI says of a body that the route reads itself."""
    content = {"application/json": {"schema": shape.model_json_schema()}}
    return {"requestBody": {"content": content}}


def _refusal(actor: Actor, action: Action, error: ForbiddenError) -> AccessRecord:
    return AccessRecord(
        request_id=str(uuid.uuid4()),
        recorded=instant(now()),
        interaction="operation",
        action="E",
        outcome="4",
        http_status=error.status,
        client_id=actor.client_id,
        subject=actor.who,
        fhir_user=actor.fhir_user,
        personas=actor.personas,
        network_address=actor.address,
        operation=f"model-{action}",
        refusal=error.code,
    )


def model_router(service: ModelRegistryService, callers: Callers) -> APIRouter:
    """Routes under `/models`.

    Args:
        service: of a process that loads no networks.
    """
    router = APIRouter(prefix="/models", tags=["models"])
    _add_looking(router, service, callers)
    _add_changing(router, service, callers)
    return router


def _add_looking(router: APIRouter, service: ModelRegistryService, callers: Callers) -> None:
    @router.get("")
    async def list_models(request: Request) -> JSONResponse:
        """All versions and where they stand."""
        rows = await callers.act(request, Action.LIST, lambda _: service.versions())
        return JSONResponse({"models": [row.as_json() for row in rows]})

    @router.get("/{name}/history")
    async def history(request: Request, name: ServiceName) -> JSONResponse:
        """What was done with the versions of a service, newest first."""
        events = await callers.act(
            request, Action.HISTORY, lambda _: service.history(name, limit=MOST_EVENTS)
        )
        return JSONResponse({"events": [event_json(event) for event in events]})

    @router.get("/{name}/{version}")
    async def show(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Manifest, state, card, last test and history of a version."""
        found = await callers.act(request, Action.SHOW, lambda _: describe(service, name, version))
        return JSONResponse(found)


def _add_changing(router: APIRouter, service: ModelRegistryService, callers: Callers) -> None:
    @router.post("", openapi_extra=_takes(InstallBody))
    async def install(request: Request) -> JSONResponse:
        """Install a folder of the inbox as a draft; 200 when the same files are there already."""
        begin = now()
        row = await callers.act_on(
            request,
            InstallBody,
            Action.INSTALL,
            lambda body, actor: service.install_from_inbox(body.folder, actor),
        )
        return _answer(row, 201 if row.installed_at >= begin else 200)

    @router.post("/validate", openapi_extra=_takes(InstallBody))
    async def validate(request: Request) -> JSONResponse:
        """Check a folder of the inbox: every problem with its line, and what hashes should be."""
        found = await callers.act_on(
            request,
            InstallBody,
            Action.INSTALL,
            lambda body, actor: service.validate_inbox(body.folder, actor),
        )
        return JSONResponse(found.as_json())

    @router.post("/{name}/rollback", openapi_extra=_takes(ReasonBody))
    async def rollback(request: Request, name: ServiceName) -> JSONResponse:
        """Go back to the version that was active before."""
        row = await callers.act_on(
            request,
            ReasonBody,
            Action.ROLLBACK,
            lambda body, actor: service.rollback(name, actor, body.reason),
        )
        return _answer(row)

    @router.post("/{name}/{version}/test")
    async def test(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Have a worker run the cases; `report.request` of the version says when it did."""
        asked = await callers.act(
            request, Action.TEST, lambda actor: service.request_test(name, version, actor)
        )
        location = f"/models/{name}/{version}"
        body = {"request": asked, "see": location}
        return JSONResponse(body, 202, {"location": location})

    @router.post("/{name}/{version}/shadow")
    async def shadow(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Show studies to a version without writing what it says."""
        row = await callers.act(
            request, Action.SHADOW, lambda actor: service.shadow(name, version, actor)
        )
        return _answer(row)

    @router.post("/{name}/{version}/canary", openapi_extra=_takes(CanaryBody))
    async def canary(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Let a version write for a share of the studies."""
        row = await callers.act_on(
            request,
            CanaryBody,
            Action.CANARY,
            lambda body, actor: service.canary(name, version, body.share, actor),
        )
        return _answer(row)

    @router.post("/{name}/{version}/activate")
    async def activate(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Make a version the one that writes."""
        row = await callers.act(
            request, Action.ACTIVATE, lambda actor: service.activate(name, version, actor)
        )
        return _answer(row)

    @router.post("/{name}/{version}/retire", openapi_extra=_takes(ReasonBody))
    async def retire(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Show no more studies to a version."""
        row = await callers.act_on(
            request,
            ReasonBody,
            Action.RETIRE,
            lambda body, actor: service.retire(name, version, actor, body.reason),
        )
        return _answer(row)

    @router.post("/{name}/{version}/recall", openapi_extra=_takes(RecallBody))
    async def recall(request: Request, name: ServiceName, version: VersionName) -> JSONResponse:
        """Withdraw a version for ever; a worker marks what it wrote as entered in error."""
        row = await callers.act_on(
            request,
            RecallBody,
            Action.RECALL,
            lambda body, actor: service.recall(name, version, body.reason, actor),
        )
        return _answer(row, 202)


def _answer(row: VersionRow, status: int = 200) -> JSONResponse:
    location = f"/models/{row.service}/{row.version}"
    return JSONResponse(row.as_json(), status, {"location": location})
