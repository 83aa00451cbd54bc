"""Access and refresh tokens: how they are made, and what one that comes back means."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

from fhir_ext.auth.grant import Persona
from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.keys import KeyRing
from fhir_ext.issuer.store import Refresh, Session, Store, digest
from fhir_ext.settings import IssuerSettings

#: `typ` of access tokens (RFC 9068 section 2.1).
ACCESS_TYPE: Final = "at+jwt"


@dataclass(frozen=True, slots=True)
class Access:
    """An access token of ours that came back (Authlib's `TokenMixin`)."""

    claims: dict[str, Any]
    revoked: bool

    def check_client(self, client: Client) -> bool:
        return bool(client.client_id == self.claims["client_id"])

    def is_expired(self) -> bool:
        return bool(self.claims["exp"] <= time.time())

    def is_revoked(self) -> bool:
        return self.revoked


class TokenMaker:
    """Makes the answer of the token endpoint (Authlib's token generator).

    Args:
        issuer: `iss`.
    """

    def __init__(self, settings: IssuerSettings, issuer: str, keys: KeyRing, store: Store) -> None:
        self._issuer = issuer
        #: `aud`: the FHIR base, without a slash at its end.
        self.audience = settings.fhir_base.rstrip("/")
        self._lifetime = int(settings.token_lifetime.total_seconds())
        self._refresh_lifetime = settings.refresh_lifetime.total_seconds()
        self._keys, self._store = keys, store

    def __call__(
        self,
        grant_type: str,
        client: Client,
        user: Session | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
    ) -> dict[str, Any]:
        """A token answer (RFC 6749 section 5.1) with the launch context of SMART 2.2.

        Args:
            user: what a user allowed; None for client credentials.
            scope: granted.
        """
        claims = self._claims(client, scope or "", user)
        answer: dict[str, Any] = {
            "access_token": self._access(client, claims),
            "token_type": "Bearer",
            "expires_in": self._lifetime,
            "scope": claims["scope"],
        }
        if user is None:
            return answer
        self._remember(user, claims)
        if include_refresh_token:
            answer["refresh_token"] = self._refresh(user)
        return answer | _context(user)

    def read(self, token: str) -> Access | None:
        """What an access token of ours says; None when it is not ours or has ended."""
        claims = self._store.opaque.get(digest(token))
        claims = claims or self._keys.verify(token, ACCESS_TYPE)
        if claims is None:
            return None
        return Access(claims, revoked=self._store.revoked.get(claims["jti"]) is not None)

    def revoke(self, access: Access) -> None:
        """End one access token before its time."""
        self._store.revoked.put(access.claims["jti"], True, access.claims["exp"] - time.time())

    def _claims(self, client: Client, scope: str, session: Session | None) -> dict[str, Any]:
        """RFC 9068 section 2.2, and the claims that the gateway reads."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self.audience,
            "sub": client.client_id,
            "client_id": client.client_id,
            "scope": scope,
            "iat": now,
            "nbf": now,
            "exp": now + self._lifetime,
            "jti": secrets.token_urlsafe(16),
            "roles": [Persona.SERVICE.value],
            "programs": list(client.programs),
        }
        if session is not None:
            claims |= {
                "sub": session.user.user_id,
                "roles": [session.user.persona.value],
                "programs": list(session.user.programs),
                "fhirUser": session.user.fhir_user,
            }
            claims |= {"patient": session.patient} if session.patient else {}
        return claims

    def _access(self, client: Client, claims: dict[str, Any]) -> str:
        if not client.opaque:
            return self._keys.sign(claims, ACCESS_TYPE)
        token = secrets.token_urlsafe(32)
        self._store.opaque.put(digest(token), claims, self._lifetime)
        return token

    def _remember(self, session: Session, claims: dict[str, Any]) -> None:
        now = time.time()
        session.token_ids = {name: exp for name, exp in session.token_ids.items() if exp > now}
        session.token_ids[claims["jti"]] = claims["exp"]

    def _refresh(self, session: Session) -> str:
        token = secrets.token_urlsafe(32)
        kept = Refresh(session, time.time() + self._refresh_lifetime)
        self._store.refresh.put(digest(token), kept, self._refresh_lifetime)
        return token


def _context(session: Session) -> dict[str, Any]:
    """Launch context (SMART App Launch 2.2, "Launch context arrives with your access_token")."""
    context: dict[str, Any] = {}
    if session.patient:
        # No record system is around the app, so the app has to show who the patient is.
        context |= {"patient": session.patient, "need_patient_banner": True}
    if session.encounter:
        context["encounter"] = session.encounter
    return context
