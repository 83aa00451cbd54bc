"""A password before the operator's pages, where others than operators reach the port."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

from fhir_ext.errors import UnauthorizedError
from fhir_ext.gateway.asgi import Receive, Scope, Send
from fhir_ext.outcome import outcome_response

#: What is asked for by programs, with credentials of its own or without any: HAPI's hooks,
#: model versions (bearer tokens), health. Everything else is the operator's.
_OPEN: Final = ("/hooks/", "/models", "/health/")


class StatusLogin:
    """ASGI middleware: HTTP Basic (RFC 7617) before everything that is not `_OPEN`.

    Browsers ask for it, and Prometheus can send it. Any user name will do.

    Args:
        password: not empty.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], password: str
    ) -> None:
        self._app, self._password = app, password.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_OPEN) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError("the password of the status page is needed")
        asked = {"www-authenticate": 'Basic realm="fhir-ext status", charset="UTF-8"'}
        await outcome_response(error.status, error, asked)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, credentials = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if kind.lower() != b"basic":
            return False
        try:
            _, _, password = base64.b64decode(credentials.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        return hmac.compare_digest(password, self._password)
