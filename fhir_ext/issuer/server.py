"""The authorization server: Authlib's, with our data behind it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]
    AuthorizationServer,
    OAuth2Error,
)
from authlib.oauth2.rfc9207 import IssuerParameter  # type: ignore[import-untyped]

from fhir_ext.errors import SettingsError
from fhir_ext.issuer.addresses import is_loopback
from fhir_ext.issuer.assertion import METHOD as PRIVATE_KEY_JWT
from fhir_ext.issuer.assertion import Assertion
from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.directory import load_directory
from fhir_ext.issuer.endpoints import Introspection, Revocation
from fhir_ext.issuer.grants import (
    BackendGrant,
    CodeGrant,
    IdentityToken,
    OnlyS256,
    RefreshGrant,
    SmartParameters,
)
from fhir_ext.issuer.keys import KeyRing
from fhir_ext.issuer.messages import Answer, IssuerRequest
from fhir_ext.issuer.store import Launch, Store
from fhir_ext.issuer.tokens import TokenMaker
from fhir_ext.settings import IssuerSettings


def checked_base(settings: IssuerSettings) -> str:
    """`iss`: the public URL without a slash at its end.

    Raises:
        SettingsError: others than this machine could reach the issuer, or the URL is more
            than scheme, host and port.
    """
    if not is_loopback(settings.host):
        raise SettingsError("issuer.host: the development issuer listens on loopback only")
    parts = urlsplit(settings.public_url)
    if parts.scheme not in ("http", "https") or not is_loopback(parts.hostname):
        raise SettingsError("issuer.public_url: the development issuer is for loopback only")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise SettingsError("issuer.public_url: only scheme, host and port may be there")
    return f"{parts.scheme}://{parts.netloc}"


class IssuerServer(AuthorizationServer):  # type: ignore[misc]
    """Grants and endpoints of one issuer.

    Raises:
        SettingsError: it would not be on loopback, or one of its files does not hold.
    """

    def __init__(self, settings: IssuerSettings) -> None:
        super().__init__()
        self.settings, self.issuer = settings, checked_base(settings)
        self.clients, self.users = load_directory(settings)
        self.keys = KeyRing(
            settings.key_file, settings.algorithm, settings.token_lifetime.total_seconds()
        )
        self.store = Store()
        self.tokens = TokenMaker(settings, self.issuer, self.keys, self.store)
        self.register_token_generator("default", self.tokens)
        self.register_client_auth_method(
            PRIVATE_KEY_JWT, Assertion(f"{self.issuer}/token", self.store.assertions)
        )
        self.register_grant(
            CodeGrant, [SmartParameters(settings.fhir_base), OnlyS256(), IdentityToken(self)]
        )
        self.register_grant(RefreshGrant)
        self.register_grant(BackendGrant)
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)
        self.register_extension(_NamedIssuer(self.issuer))

    def query_client(self, client_id: str) -> Client | None:
        return self.clients.find(client_id)

    def launch_of(self, request: IssuerRequest) -> Launch | None:
        """The EHR launch that a request belongs to, unless it has expired."""
        return self.store.launches.get(request.payload.data.get("launch", ""))

    def save_token(self, token: dict[str, Any], request: IssuerRequest) -> None:
        """Nothing: the token maker remembers what it makes."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nothing listens."""

    def create_oauth2_request(self, request: IssuerRequest) -> IssuerRequest:
        return request

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> Answer:
        return Answer.of(status, body, headers)

    def refusal(self, error: OAuth2Error) -> Answer:
        """The answer of an error, to the client or by way of the browser."""
        answer = Answer.of(*error())
        if answer.location is not None:
            _NamedIssuer(self.issuer).add_issuer_parameter(self, answer)
        return answer


class _NamedIssuer(IssuerParameter):  # type: ignore[misc]
    """`iss` in every answer that goes through the browser (RFC 9207)."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer

    def get_issuer(self) -> str:
        return self._issuer
