"""The hook endpoints that HAPI's rest-hook Subscriptions call."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from fhir_ext.errors import BadRequestError, ForbiddenError
from fhir_ext.logs import event, get_logger
from fhir_ext.telemetry import inject, span
from subscriptions.queue import WorkQueue, new_message
from subscriptions.rescore import enqueue_finding

log = get_logger(__name__)

#: FHIR R4 `id`.
ID_PATTERN = r"^[A-Za-z0-9\-.]{1,64}$"
_VERSION = re.compile(r'^W/"([A-Za-z0-9\-.]{1,64})"$')

#: Makes the notice of one version durable.
Take = Callable[[str], object]

#: Name of the header that carries the secret.
SECRET_HEADER = "X-Fhir-Ext-Hook-Secret"  # noqa: S105


def hook_router(queue: WorkQueue, secret: str) -> APIRouter:
    """Routes under `/hooks`.

    Args:
        queue: where notices become durable.
        secret: what HAPI sends in `X-Fhir-Ext-Hook-Secret`.
    """
    router = APIRouter(prefix="/hooks", tags=["hooks"])

    async def accept(request: Request, given: str, if_match: str, take: Take) -> Response:
        if not hmac.compare_digest(given.encode(), secret.encode()):
            raise ForbiddenError("the hook secret is missing or wrong", code="hook-secret")
        body = await request.body()
        with span("hook"):
            await run_in_threadpool(take, _version(if_match, body))
        event(log, "hook-accepted")
        return Response(status_code=204)

    @router.put("/ImagingStudy/{resource_id}", status_code=204)
    async def imaging_study_changed(
        request: Request,
        resource_id: Annotated[str, Path(pattern=ID_PATTERN)],
        given: Annotated[str, Header(alias=SECRET_HEADER)] = "",
        if_match: Annotated[str, Header()] = "",
    ) -> Response:
        """Accept a notice that an ImagingStudy was created or changed."""

        def take(version: str) -> object:
            return queue.enqueue(new_message(resource_id, version, inject()))

        return await accept(request, given, if_match, take)

    @router.put("/Observation/{resource_id}", status_code=204)
    async def finding_changed(
        request: Request,
        resource_id: Annotated[str, Path(pattern=ID_PATTERN)],
        given: Annotated[str, Header(alias=SECRET_HEADER)] = "",
        if_match: Annotated[str, Header()] = "",
    ) -> Response:
        """Accept a notice that an imaging finding became final or was changed after that."""

        def take(version: str) -> object:
            return enqueue_finding(queue, resource_id, version)

        return await accept(request, given, if_match, take)

    return router


def _version(if_match: str, body: bytes) -> str:
    """The version a notice speaks of: the If-Match header, else the payload."""
    if found := _VERSION.match(if_match):
        return found.group(1)
    try:
        resource: Any = json.loads(body)
        version = str(resource["meta"]["versionId"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequestError(
            "the notice names no version: neither If-Match nor meta.versionId", code="no-version"
        ) from error
    if not re.fullmatch(ID_PATTERN, version):
        raise BadRequestError("meta.versionId is not a FHIR id", code="no-version")
    return version
