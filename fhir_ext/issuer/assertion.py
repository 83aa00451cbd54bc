"""Clients that prove who they are with a signed assertion (private_key_jwt)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeGuard

from authlib.oauth2.rfc6749 import InvalidClientError  # type: ignore[import-untyped]
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion  # type: ignore[import-untyped]
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.store import Expiring

METHOD: Final = "private_key_jwt"

#: SMART App Launch 2.2, "Client Authentication: Asymmetric": what a server must know.
ALGORITHMS: Final = ("ES384", "RS384")

#: Longest time (s) that an assertion may still be valid when it comes.
LONGEST_SECONDS = 300
#: How much (s) clocks may differ.
LEEWAY_SECONDS = 10
_LONGEST_ID = 255


class Assertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """Verifies assertions (RFC 7523 section 3, as SMART 2.2 narrows it).

    Args:
        token_url: `aud` that they must have.
        seen: ids of those that came already.
    """

    CLIENT_AUTH_METHOD = METHOD

    def __init__(self, token_url: str, seen: Expiring[bool]) -> None:
        super().__init__(leeway=LEEWAY_SECONDS)
        self._url, self._seen = token_url, seen

    def __call__(self, query_client: Callable[[str], Client | None], request: Any) -> Client | None:
        try:
            found: Client | None = super().__call__(query_client, request)
        except ValueError as error:
            # What is no JWT at all: Authlib expects well-formed text.
            raise InvalidClientError(description="Invalid JWT assertion.") from error
        named = request.form.get("client_id")
        if found is not None and named not in (None, found.client_id):
            raise InvalidClientError(description="The client_id is not that of the assertion.")
        return found

    def resolve_client_public_key(self, client: Client) -> jwk.KeySet:
        if client.jwks is None:
            raise InvalidClientError(description="The client has no registered keys.")
        return client.keys

    def process_assertion_claims(self, assertion: str, keys: jwk.KeySet) -> dict[str, Any]:
        """Signature, then claims; Authlib itself accepts neither ES384 nor RS384.

        Raises:
            InvalidClientError: it does not hold.
        """
        try:
            token = jwt.decode(assertion, keys, ALGORITHMS)
        except (JoseError, ValueError) as error:
            raise InvalidClientError(description="The signature does not hold.") from error
        if not token.header.get("kid") or token.header.get("typ", "JWT") != "JWT":
            raise InvalidClientError(description="The header needs kid, and JWT as typ.")
        self.verify_claims(token.claims)
        return dict(token.claims)

    def verify_claims(self, claims: dict[str, Any]) -> None:
        """Issuer, audience, times, and that it comes for the first time."""
        name, identifier, expires_at = claims.get("sub"), claims.get("jti"), claims.get("exp")
        audience = claims.get("aud")
        now = time.time()
        if claims.get("iss") != name:
            raise InvalidClientError(description="iss and sub must be the client_id.")
        if self._url not in (audience if isinstance(audience, list) else [audience]):
            raise InvalidClientError(description="aud must be the URL of the token endpoint.")
        if not _is_time(expires_at) or expires_at <= now - LEEWAY_SECONDS:
            raise InvalidClientError(description="The assertion has expired.")
        if expires_at > now + LONGEST_SECONDS + LEEWAY_SECONDS:
            raise InvalidClientError(description="exp is more than five minutes ahead.")
        for other in ("iat", "nbf"):
            value = claims.get(other, now)
            if not _is_time(value) or value > now + LEEWAY_SECONDS:
                raise InvalidClientError(description="The assertion is not valid yet.")
        if not isinstance(identifier, str) or not 0 < len(identifier) <= _LONGEST_ID:
            raise InvalidClientError(description="jti is missing or too long.")
        lifetime = expires_at - now + LEEWAY_SECONDS
        if not self._seen.add(f"{name}\n{identifier}", True, lifetime):
            raise InvalidClientError(description="The jti was used before.")


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
