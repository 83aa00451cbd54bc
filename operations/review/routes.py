"""HTTP to `ReviewService`; mounted by the gateway, which verified the token."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from fhir_ext.auth.grant import Persona
from fhir_ext.errors import (
    BadRequestError,
    ForbiddenError,
    OutcomeIssue,
    PreconditionRequired,
)
from fhir_ext.gateway.access import SCOPE_KEY, Access
from fhir_ext.outcome import MEDIA_TYPE
from fhir_ext.resources.review import Reviewer
from operations.review.parameters import read_request, require_empty
from operations.review.service import ReviewService

Json = dict[str, Any]

#: FHIR R4 `id`.
TaskId = Annotated[str, Path(pattern=r"^[A-Za-z0-9\-.]{1,64}$")]

_ETAG: Final = re.compile(r'(?:W/)?"([A-Za-z0-9\-.]{1,64})"')
_CLAIMERS: Final = frozenset({Persona.RADIOLOGIST, Persona.COORDINATOR})


def review_router(service: ReviewService) -> APIRouter:
    """Routes of `Task/{id}/$review`, `$claim` and `$release`."""
    router = APIRouter(tags=["review"])

    @router.post("/Task/{task_id}/$review")
    async def review(request: Request, task_id: TaskId) -> Response:
        """Accept, modify or reject the preliminary result of a model."""
        access = _access(request, frozenset({Persona.RADIOLOGIST}))
        asked = read_request(await _body(request))
        version = _version(request)
        if version is None:
            raise PreconditionRequired("If-Match with the version of the Task is required")
        task = await run_in_threadpool(
            service.review, task_id, _reviewer(access), asked, version, access.require_patient
        )
        return _answer(task)

    @router.post("/Task/{task_id}/$claim")
    async def claim(request: Request, task_id: TaskId) -> Response:
        """Take a review Task, so that others leave it alone."""
        access = _access(request, _CLAIMERS)
        require_empty(await _body(request))
        task = await run_in_threadpool(
            service.claim, task_id, _reviewer(access), _version(request), access.require_patient
        )
        return _answer(task)

    @router.post("/Task/{task_id}/$release")
    async def release(request: Request, task_id: TaskId) -> Response:
        """Give a claimed review Task back."""
        access = _access(request, _CLAIMERS | {Persona.ADMINISTRATOR})
        require_empty(await _body(request))
        administrator = Persona.ADMINISTRATOR in access.grant.personas
        task = await run_in_threadpool(
            lambda: service.release(
                task_id,
                _reviewer(access),
                _version(request),
                access.require_patient,
                administrator=administrator,
            )
        )
        return _answer(task)

    return router


def _access(request: Request, personas: frozenset[Persona]) -> Access:
    access: Access = request.scope[SCOPE_KEY]
    if access.grant.personas.isdisjoint(personas):
        raise ForbiddenError("the role of the caller does not allow it", code="persona")
    access.require("u", "Task")
    return access


def _reviewer(access: Access) -> Reviewer:
    """Who decides: what the verified token says, never the body."""
    return Reviewer(access.grant.subject, access.grant.fhir_user)


async def _body(request: Request) -> object:
    """The JSON body; None when there is none."""
    raw = await request.body()
    if not raw.strip():
        return None
    try:
        return json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is not JSON") from error


def _refuse(_constant: str) -> object:
    raise ValueError("NaN and Infinity are no JSON")


def _version(request: Request) -> str | None:
    """The version that If-Match names; None without the header.

    Raises:
        BadRequestError: it names none, or several.
    """
    header = request.headers.get("if-match")
    if header is None:
        return None
    found = _ETAG.fullmatch(header.strip())
    if found is None:
        text = 'If-Match must be one version, as in W/"3"'
        raise BadRequestError(text, issues=[OutcomeIssue("invalid", "bad-request", text)])
    return found[1]


def _answer(task: Json) -> Response:
    headers = {"etag": f'W/"{task["meta"]["versionId"]}"'}
    return Response(json.dumps(task, ensure_ascii=False), 200, headers, MEDIA_TYPE)
