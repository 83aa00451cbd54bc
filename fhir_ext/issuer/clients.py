"""Registered clients: data, and what Authlib asks about one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from joserfc import jwk
from joserfc.errors import JoseError
from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from fhir_ext.issuer.addresses import same_origin, same_redirect
from fhir_ext.issuer.scopes import granted

AuthMethod = Literal["none", "client_secret_basic", "private_key_jwt"]
GrantType = Literal["authorization_code", "refresh_token", "client_credentials"]


class Client(BaseModel):
    """One registered client; its methods are those that Authlib asks for (`ClientMixin`).

    Attributes:
        secret: of a confidential client (symmetric).
        jwks: public keys of a client that signs assertions (private_key_jwt).
        redirect_uris: compared exactly; one on loopback without a port matches with any
            (RFC 8252 section 7.3).
        scopes: widest scopes it may get.
        programs: ids of the Groups it works for, where no user is there.
        introspection: whether it may ask what the tokens of others mean.
        opaque: whether its access tokens say nothing by themselves; only introspection then
            tells what they mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: str
    name: str
    secret: SecretStr | None = None
    jwks: dict[str, Any] | None = None
    redirect_uris: tuple[str, ...] = ()
    grants: tuple[GrantType, ...] = ()
    scopes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    introspection: bool = False
    opaque: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jwks is not None and any(key.is_private for key in self.keys.keys):
            raise ValueError("jwks holds a private key; only the public part belongs here")
        if "client_credentials" in self.grants and self.jwks is None:
            raise ValueError("client_credentials needs jwks")
        if self.introspection and self.auth_method == "none":
            raise ValueError("introspection needs a secret or jwks")
        return self

    @property
    def auth_method(self) -> AuthMethod:
        """How it says who it is at the token endpoint."""
        if self.jwks is not None:
            return "private_key_jwt"
        return "client_secret_basic" if self.secret is not None else "none"

    @cached_property
    def keys(self) -> jwk.KeySet:
        """Its public keys.

        Raises:
            ValueError: there are none, or they are malformed.
        """
        try:
            return jwk.KeySet.import_key_set({"keys": (self.jwks or {})["keys"]})
        except (JoseError, KeyError, TypeError) as error:
            raise ValueError("jwks is not a JWK Set") from error

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        """None: every request must name its redirect URI (SMART App Launch 2.2)."""

    def get_allowed_scope(self, scope: str | None) -> str:
        """The scopes of a request that it may get from a user."""
        return granted(scope, self.scopes, system=False)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return any(same_redirect(redirect_uri, registered) for registered in self.redirect_uris)

    def check_client_secret(self, client_secret: str) -> bool:
        if self.secret is None:
            return False
        ours = self.secret.get_secret_value()
        return secrets.compare_digest(client_secret.encode(), ours.encode())

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """The same method at every endpoint; a secret may come in the header or the body."""
        if self.auth_method == "client_secret_basic":
            return method in ("client_secret_basic", "client_secret_post")
        return method == self.auth_method

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and "authorization_code" in self.grants

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grants


class Clients:
    """All registered clients by id."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = dict(clients)

    def find(self, client_id: str) -> Client | None:
        return self._clients.get(client_id)

    def allow_origin(self, origin: str) -> bool:
        """Whether a browser app of this origin is registered, by one of its redirect URIs."""
        return any(
            same_origin(origin, uri)
            for client in self._clients.values()
            for uri in client.redirect_uris
        )
