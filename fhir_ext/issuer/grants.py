"""The three grants, and what SMART App Launch 2.2 asks of an authorization request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]
    InvalidRequestError,
    InvalidScopeError,
    grants,
)
from authlib.oauth2.rfc7636 import (  # type: ignore[import-untyped]
    CodeChallenge,
    create_s256_code_challenge,
)
from authlib.oidc.core import OpenIDCode  # type: ignore[import-untyped]

from fhir_ext.issuer.assertion import METHOD as PRIVATE_KEY_JWT
from fhir_ext.issuer.scopes import granted
from fhir_ext.issuer.store import CODE_SECONDS, Code, Refresh, Session, digest

if TYPE_CHECKING:
    from joserfc import jwk

    from fhir_ext.issuer.clients import Client
    from fhir_ext.issuer.messages import IssuerRequest

#: In the order in which they are tried.
AUTH_METHODS: Final = [PRIVATE_KEY_JWT, "client_secret_basic", "client_secret_post", "none"]

_NONCE_SECONDS = 3600


class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """Authorization code; `request.user` is the `Session` that the user agreed to."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def save_authorization_code(self, code: str, request: IssuerRequest) -> None:
        data = request.payload.data
        nonce = data.get("nonce")
        kept = Code(
            session=request.user,
            redirect_uri=data["redirect_uri"],
            code_challenge=data["code_challenge"],
            code_challenge_method=data["code_challenge_method"],
            nonce=nonce,
        )
        self.server.store.codes.put(digest(code), kept, CODE_SECONDS)
        if nonce:
            seen = f"{request.user.client_id}\n{nonce}"
            self.server.store.nonces.put(seen, True, _NONCE_SECONDS)

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        """The code, once: it is spent even when the rest of the request is wrong.

        A second time ends everything that came of the first (RFC 6749 section 4.1.2).
        """
        found: Code | None = self.server.store.codes.get(digest(code))
        if found is None or found.session.client_id != client.client_id:
            return None
        if found.used:
            self.server.store.end(found.session)
            return None
        found.used = True
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """Nothing: a used code is remembered until it expires, to notice its reuse."""

    def authenticate_user(self, authorization_code: Code) -> Session | None:
        session = authorization_code.session
        return None if session.revoked else session

    def generate_token(self, **arguments: Any) -> dict[str, Any]:
        """With a refresh token only if the user allowed access that goes on."""
        lasting = {"offline_access", "online_access"} & set(arguments["scope"].split(" "))
        arguments["include_refresh_token"] &= bool(lasting)
        answer: dict[str, Any] = super().generate_token(**arguments)
        return answer


class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    """Refresh tokens that work once; a second use ends the session."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Refresh | None:
        found: Refresh | None = self.server.store.refresh.get(digest(refresh_token))
        if found is not None and found.used:
            self.server.store.end(found.session)
        return None if found is None or found.is_revoked() else found

    def authenticate_user(self, refresh_token: Refresh) -> Session:
        return refresh_token.session

    def revoke_old_credential(self, refresh_token: Refresh) -> None:
        refresh_token.used = True


class BackendGrant(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """Client credentials with `system/` scopes (SMART Backend Services)."""

    TOKEN_ENDPOINT_AUTH_METHODS = [PRIVATE_KEY_JWT]  # noqa: RUF012 - Authlib's name

    def validate_requested_scope(self) -> None:
        if not self._granted():
            raise InvalidScopeError(description="None of the scopes can be granted.")

    def generate_token(self, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = super().generate_token(**{**arguments, "scope": self._granted()})
        return answer

    def _granted(self) -> str:
        client = self.request.client
        return granted(self.request.payload.scope, client.scopes, system=True)


class SmartParameters:
    """Extension of `CodeGrant`: `state`, `aud`, `launch`, and at least one scope."""

    def __init__(self, fhir_base: str) -> None:
        self._fhir_base = fhir_base.rstrip("/")

    def __call__(self, grant: CodeGrant) -> None:
        grant.register_hook("after_validate_authorization_request_payload", self._check)

    def _check(self, grant: CodeGrant, _result: None) -> None:
        data, scope = grant.request.payload.data, grant.request.scope
        if not data.get("state"):
            raise InvalidRequestError("Missing state.")
        if data.get("aud", "").rstrip("/") != self._fhir_base:
            raise InvalidRequestError("aud must be the FHIR base that tokens are issued for.")
        if not scope:
            raise InvalidScopeError(description="None of the scopes can be granted.")
        if "launch" in scope.split(" ") and not grant.server.launch_of(grant.request):
            raise InvalidRequestError("The launch is unknown or has expired.")


class OnlyS256(CodeChallenge):  # type: ignore[misc]
    """PKCE for every client, with S256 (RFC 7636; SMART 2.2 forbids `plain`)."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]  # noqa: RUF012 - Authlib's name
    CODE_CHALLENGE_METHODS = {  # noqa: RUF012 - Authlib's name
        "S256": lambda verifier, challenge: create_s256_code_challenge(verifier) == challenge
    }

    def validate_code_challenge(self, grant: CodeGrant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if not data.get("code_challenge") or data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("code_challenge with the method S256 is required.")
        super().validate_code_challenge(grant, redirect_uri)

    def validate_code_verifier(self, grant: CodeGrant, result: None) -> None:
        if not grant.request.form.get("code_verifier"):
            raise InvalidRequestError("Missing code_verifier.")
        super().validate_code_verifier(grant, result)


class IdentityToken(OpenIDCode):  # type: ignore[misc]
    """ID tokens (OpenID Connect Core 1.0 section 2) with `fhirUser`."""

    def __init__(self, server: Any) -> None:
        super().__init__()
        self._server = server

    def exists_nonce(self, nonce: str, request: IssuerRequest) -> bool:
        seen = f"{request.payload.client_id}\n{nonce}"
        return self._server.store.nonces.get(seen) is not None

    def get_client_algorithm(self, client: Client) -> str:
        return str(self._server.keys.algorithm)

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": self._server.keys.algorithm, "kid": self._server.keys.kid}

    def resolve_client_private_key(self, client: Client) -> jwk.Key:
        return self._server.keys.signing  # type: ignore[no-any-return]

    def get_client_claims(self, client: Client) -> dict[str, Any]:
        lifetime = int(self._server.settings.token_lifetime.total_seconds())
        return {
            "iss": self._server.issuer,
            "aud": client.client_id,
            "exp": int(time.time()) + lifetime,
        }

    def generate_user_info(self, user: Session, scope: str) -> dict[str, str]:
        return user.user.claims(scope)
