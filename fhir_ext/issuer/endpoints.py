"""Revocation (RFC 7009) and introspection (RFC 7662)."""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc7009 import RevocationEndpoint  # type: ignore[import-untyped]
from authlib.oauth2.rfc7662 import IntrospectionEndpoint  # type: ignore[import-untyped]

from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.grants import AUTH_METHODS
from fhir_ext.issuer.store import Refresh, digest
from fhir_ext.issuer.tokens import Access


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """Ends an access token, or with a refresh token the whole session."""

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token: str, _hint: str | None) -> Access | Refresh | None:
        refresh: Refresh | None = self.server.store.refresh.get(digest(token))
        return refresh or self.server.tokens.read(token)

    def revoke_token(self, token: Access | Refresh, _request: Any) -> None:
        if isinstance(token, Refresh):
            self.server.store.end(token.session)
        else:
            self.server.tokens.revoke(token)


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """Tells a resource server what an access token means.

    A refresh token is never active here: a resource server could take it for an access token.
    """

    CLIENT_AUTH_METHODS = [method for method in AUTH_METHODS if method != "none"]  # noqa: RUF012

    def query_token(self, token: str, _hint: str | None) -> Access | None:
        found: Access | None = self.server.tokens.read(token)
        return found

    def check_permission(self, token: Access, client: Client, _request: Any) -> bool:
        return client.introspection or token.check_client(client)

    def introspect_token(self, token: Access) -> dict[str, Any]:
        return {"active": True, "token_type": "Bearer", **token.claims}
