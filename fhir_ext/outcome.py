"""The edge of the HTTP side: errors become OperationOutcome, and what may come in is bounded.

FhirExtError              its status and code, its message as diagnostics
RequestValidationError    400, which parameter and which rule; never the input
HTTPException             its status (404, 405, ...) with a wording of ours
anything else             500 with an incident number that the log has too
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_ext.errors import (
    FhirExtError,
    OutcomeIssue,
    ThrottledError,
    TooLargeError,
    UnauthorizedError,
    UpstreamError,
)
from fhir_ext.logs import get_logger, incident
from fhir_ext.resources.codes import ERROR

log = get_logger(__name__)

MEDIA_TYPE: Final = "application/fhir+json"

#: What we tell a caller to wait (s) when a server behind us failed.
RETRY_AFTER_SECONDS = 5

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

#: FHIR R4 IssueType of statuses that do not come from our error tree.
_ISSUE_TYPES: Final[Mapping[int, str]] = {
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    409: "conflict",
    410: "deleted",
    413: "too-costly",
    415: "not-supported",
    429: "throttled",
    503: "transient",
    504: "timeout",
}

_PARAMETER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]{0,40}")
_RULE = re.compile(r"[a-z][a-z_]{0,60}")


def operation_outcome(cause: FhirExtError | Sequence[OutcomeIssue]) -> dict[str, Any]:
    """OperationOutcome of an error of ours or of issues; at least one issue."""
    if isinstance(cause, FhirExtError):
        cause = cause.issues or [OutcomeIssue(cause.issue_type, cause.code, cause.message)]
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": issue.severity,
                "code": issue.code,
                "details": {"coding": [{"system": ERROR.url, "code": issue.detail}]},
                "diagnostics": issue.diagnostics,
                **({"expression": [issue.expression]} if issue.expression else {}),
            }
            for issue in cause
        ],
    }


def outcome_response(
    status: int,
    cause: FhirExtError | Sequence[OutcomeIssue],
    headers: Mapping[str, str] | None = None,
) -> Response:
    """HTTP response with an OperationOutcome as its body."""
    body = json.dumps(operation_outcome(cause), ensure_ascii=False)
    return Response(body, status, dict(headers or {}), MEDIA_TYPE)


def error_response(error: FhirExtError) -> Response:
    """Status, OperationOutcome, and the header that says what to do about it."""
    headers = {}
    if isinstance(error, UpstreamError):
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    elif isinstance(error, ThrottledError):
        headers["retry-after"] = str(error.retry_after)
    elif isinstance(error, UnauthorizedError):
        # RFC 6750 section 3; a request without a token is told no error code.
        said = "" if error.code == "no-token" else ', error="invalid_token"'
        headers["www-authenticate"] = f'Bearer realm="fhir-ext"{said}'
    return outcome_response(error.status, error, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of the application an OperationOutcome.

    Call it before other middleware is added: unexpected exceptions are then answered
    inside of it, and their response gets the same headers as any other.
    """

    async def on_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, FhirExtError)
        return error_response(error)

    async def on_invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return outcome_response(400, [_invalid_issue(problem) for problem in error.errors()])

    async def on_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return outcome_response(
            error.status_code, [_status_issue(error.status_code)], error.headers
        )

    async def on_unexpected(_request: Request, error: Exception) -> Response:
        return _incident_response(error)

    app.add_exception_handler(FhirExtError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    # Only for what fails outside of `UnexpectedErrors`: Starlette raises it again.
    app.add_exception_handler(Exception, on_unexpected)
    app.add_middleware(UnexpectedErrors)


def _invalid_issue(problem: Mapping[str, Any]) -> OutcomeIssue:
    """Says where and by which rule; the location below a body is the caller's and left out."""
    location = [str(part) for part in problem.get("loc", ())]
    place = location[0] if location and location[0] in _PLACES else "request"
    name = location[1] if place != "body" and len(location) > 1 else ""
    where = f"{place} parameter {name}" if name and _PARAMETER.fullmatch(name) else place
    rule = str(problem.get("type", ""))
    shown = rule.replace("_", " ") if _RULE.fullmatch(rule) else "not valid"
    return OutcomeIssue("invalid", "bad-request", f"{where}: {shown}")


_PLACES = frozenset({"path", "query", "header", "cookie", "body"})


def _status_issue(status: int) -> OutcomeIssue:
    code = _ISSUE_TYPES.get(status, "exception" if status >= 500 else "invalid")
    try:
        phrase = HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = "request failed"
    return OutcomeIssue(code, re.sub(r"[^a-z]+", "-", phrase), phrase)


def _incident_response(error: Exception) -> Response:
    number = incident(log, "request-failed", error)
    text = f"unexpected error; the log has it as incident {number}"
    return outcome_response(500, [OutcomeIssue("exception", "internal", text, "fatal")])


class UnexpectedErrors:
    """ASGI middleware: an exception nobody expected becomes 500 with an incident number."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started:
                raise
            await _incident_response(error)(scope, receive, send)


class SecurityHeaders:
    """ASGI middleware: headers of `SECURITY_HEADERS` that the response did not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, secured(send))


def secured(send: Send) -> Send:
    """`send` that completes the headers of a response."""

    async def completing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return completing


class BodyLimit:
    """ASGI middleware: answers 413 as soon as a body that is read is longer than allowed.

    The bytes that arrive are counted, since Content-Length may be absent or wrong; the
    rest is not read, and the connection is closed. A request that is refused before its body
    is looked at, for want of a token, gets that answer instead.

    Args:
        max_bytes: the longest body that is let through.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, too_large, started = 0, False, False
        declared = _declared_length(scope)

        async def counted() -> Message:
            nonlocal seen, too_large
            message: Message = {} if declared > self._max_bytes else await receive()
            seen += len(message.get("body", b""))
            too_large = max(declared, seen) > self._max_bytes
            if too_large:
                raise self._error()
            return message

        async def held(message: Message) -> None:
            nonlocal started
            # The application may have turned our error into an answer of its own.
            if too_large and not started:
                return
            if not started and declared > self._max_bytes:
                MutableHeaders(scope=message)["connection"] = "close"
            started = True
            await send(message)

        try:
            await self._app(scope, counted, held)
        except TooLargeError:
            if not too_large or started:
                raise
        if too_large and not started:
            await self._refuse(scope, receive, send)

    def _error(self) -> TooLargeError:
        return TooLargeError(f"the body is longer than {self._max_bytes} bytes")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = error_response(self._error())
        response.headers["connection"] = "close"
        await response(scope, receive, secured(send))


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
