"""What the issuer says of itself (OpenID Connect Discovery 1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from fhir_ext.auth.refreshed import Refreshed
from fhir_ext.errors import SettingsError, UpstreamUnavailable
from fhir_ext.outgoing import OutgoingGuard, RefusedAddress, get_json
from fhir_ext.settings import AuthSettings, HttpAuth

#: Name of the server in messages.
ISSUER: Final = "the issuer of tokens"

#: Longest silence of the issuer; requests with unknown tokens wait for it.
FETCH_TIMEOUT: Final = timedelta(seconds=5)


class IssuerDocument:
    """The issuer's discovery document, kept like its keys; safe to share between threads.

    Args:
        guard: which addresses may be called.
        settings: `issuer`, and the lifetime and cooldown of the keys.

    Raises:
        SettingsError: there is no issuer.
    """

    def __init__(self, guard: OutgoingGuard, settings: AuthSettings) -> None:
        if settings.issuer is None:
            raise SettingsError("auth.issuer is not set")
        self._issuer = settings.issuer
        self._session = guard.session(HttpAuth(), FETCH_TIMEOUT)
        self._kept = Refreshed(
            "issuer-document",
            self._fetch,
            lifetime=settings.jwks_lifetime,
            cooldown=settings.jwks_cooldown,
        )

    def get(self) -> Mapping[str, Any]:
        """The document; may wait for the issuer.

        Raises:
            UpstreamError: the issuer is down or its answer is no discovery document.
            SettingsError: its address may not be called, or the document is another issuer's.
        """
        return self._kept.get()

    def peek(self) -> Mapping[str, Any] | None:
        """The document if it is there; never waits."""
        return self._kept.peek()

    def endpoint(self, name: str) -> str:
        """One address of the document, for example `jwks_uri`.

        Raises:
            UpstreamError, SettingsError: see `get`; also when the document names none.
        """
        value = self.get().get(name)
        if not isinstance(value, str) or not value:
            raise UpstreamUnavailable(f"the discovery document of the issuer has no {name}")
        return value

    def _fetch(self) -> Mapping[str, Any]:
        url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            found = get_json(self._session, url, server=ISSUER)
        except RefusedAddress as error:
            raise SettingsError(f"auth.issuer may not be called: {error.message}") from error
        # Section 4.3: otherwise another issuer could speak for this one.
        if found.get("issuer") != self._issuer:
            raise SettingsError("the discovery document names another issuer than auth.issuer")
        return found
