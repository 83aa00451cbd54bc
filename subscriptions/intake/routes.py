"""The hook endpoint that HAPI's rest-hook Subscription calls."""

from __future__ import annotations

import hmac
import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from fhir_ext.errors import BadRequestError, ForbiddenError
from fhir_ext.logs import event, get_logger
from fhir_ext.telemetry import inject, span
from subscriptions.queue import WorkQueue, new_message

log = get_logger(__name__)

#: FHIR R4 `id`.
ID_PATTERN = r"^[A-Za-z0-9\-.]{1,64}$"
_VERSION = re.compile(r'^W/"([A-Za-z0-9\-.]{1,64})"$')

#: Name of the header that carries the secret.
SECRET_HEADER = "X-Fhir-Ext-Hook-Secret"  # noqa: S105


def hook_router(queue: WorkQueue, secret: str) -> APIRouter:
    """Routes under `/hooks`.

    Args:
        queue: where notices become durable.
        secret: what HAPI sends in `X-Fhir-Ext-Hook-Secret`.
    """
    router = APIRouter(prefix="/hooks", tags=["hooks"])

    @router.put("/ImagingStudy/{resource_id}", status_code=204)
    async def imaging_study_changed(
        request: Request,
        resource_id: Annotated[str, Path(pattern=ID_PATTERN)],
        given: Annotated[str, Header(alias=SECRET_HEADER)] = "",
        if_match: Annotated[str, Header()] = "",
    ) -> Response:
        """Accept a notice that an ImagingStudy was created or changed."""
        if not hmac.compare_digest(given.encode(), secret.encode()):
            raise ForbiddenError("the hook secret is missing or wrong", code="hook-secret")
        body = await request.body()
        with span("hook"):
            version = _version(if_match, body)
            message = new_message(resource_id, version, inject())
            await run_in_threadpool(queue.enqueue, message)
        event(log, "hook-accepted")
        return Response(status_code=204)

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
