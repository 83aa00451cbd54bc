"""Token introspection (RFC 7662), for tokens that are not JWTs."""

from __future__ import annotations

import re
import threading
from typing import Any, Final

from fhir_ext.auth.issuer_document import FETCH_TIMEOUT
from fhir_ext.errors import (
    ForbiddenError,
    SettingsError,
    ThrottledError,
    UnauthorizedError,
    UpstreamUnavailable,
)
from fhir_ext.outgoing import OutgoingGuard, RefusedAddress, post_form_json
from fhir_ext.settings import AuthSettings

#: How long (s) an answer is believed; a revoked token is refused after it.
POSITIVE_LIFETIME: Final = 30.0

#: Questions under way at once; a flood of invented tokens gets no further.
CONCURRENT: Final = 8

#: `b64token` (RFC 6750 section 2.1).
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Introspector:
    """Asks the issuer about one token at a time; safe to share between threads.

    Args:
        settings: where to ask and with which credentials.
        guard: which addresses may be called.

    Raises:
        SettingsError: there is no `introspection_url`.
    """

    def __init__(self, settings: AuthSettings, guard: OutgoingGuard) -> None:
        if settings.introspection_url is None:
            raise SettingsError("auth.introspection_url is not set")
        self._url = settings.introspection_url
        self._session = guard.session(settings.introspection_auth, FETCH_TIMEOUT)
        self._free = threading.BoundedSemaphore(CONCURRENT)

    def claims(self, token: str) -> dict[str, Any]:
        """What the issuer says of an active token.

        A program has no `sub` in some answers (SMART 2.2 asks for it with `openid` only); its
        `client_id` takes that place.

        Raises:
            UnauthorizedError: the token is not active.
            ThrottledError: too many tokens are being asked about.
            UpstreamError: the issuer cannot be asked.
            SettingsError: `auth.introspection_url` may not be called.
        """
        if not _TOKEN.fullmatch(token):
            raise UnauthorizedError("the token is malformed", code="invalid-token")
        if not self._free.acquire(timeout=FETCH_TIMEOUT.total_seconds()):
            raise ThrottledError("too many unknown tokens are being looked at")
        try:
            answer = self._ask(token)
        finally:
            self._free.release()
        if answer.get("active") is not True:
            raise UnauthorizedError("the token is not active", code="invalid-token")
        if answer.get("fhirUser") is None:
            answer.setdefault("sub", answer.get("client_id"))
        return answer

    def _ask(self, token: str) -> dict[str, Any]:
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            return post_form_json(
                self._session, self._url, form, server="the introspection endpoint"
            )
        except RefusedAddress as error:
            raise SettingsError(
                f"auth.introspection_url may not be called: {error.message}"
            ) from error
        except ForbiddenError as error:
            # Ours, not the caller's.
            raise UpstreamUnavailable(error.message, code=error.code) from error
