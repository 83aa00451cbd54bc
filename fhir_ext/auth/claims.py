"""What the claims of a verified token mean here: `Grant`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fhir_ext.auth.grant import Grant, Persona, SmartScope
from fhir_ext.auth.scopes import parse_scopes
from fhir_ext.errors import SettingsError, UnauthorizedError
from fhir_ext.settings import AuthSettings

#: FHIR R4 `id` (datatypes.html#id), without the two that a URL takes for a folder.
FHIR_ID: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9\-.]{1,64}")

#: Who a user may be (SMART 2.2, "Scopes for requesting identity data").
USER_TYPES: Final = frozenset(
    {"Patient", "Practitioner", "PractitionerRole", "RelatedPerson", "Person"}
)

#: Longest `sub` and client id; they are written into AuditEvents.
LONGEST_NAME = 255


class ClaimReader:
    """Turns claims into a `Grant`. Signature, issuer, audience and times are checked before.

    Args:
        settings: which claims hold roles and programs, and what the roles mean.
        fhir_base: public FHIR base; an absolute `fhirUser` must lie under it.

    Raises:
        SettingsError: `auth.roles` names a persona that does not exist.
    """

    def __init__(self, settings: AuthSettings, fhir_base: str) -> None:
        self._roles = _role_map(settings.roles)
        self._roles_claim = settings.roles_claim
        self._programs_claim = settings.programs_claim
        self._base = fhir_base.rstrip("/") + "/"

    def grant(self, claims: Mapping[str, Any], expires_at: float) -> Grant:
        """The grant of one token.

        Args:
            claims: as the issuer signed or answered them.
            expires_at: `exp`.

        Raises:
            UnauthorizedError: a claim is malformed or contradicts another (`invalid-token`),
                or the token fits none of the personas (`no-persona`).
        """
        scopes = parse_scopes(" ".join(_words(claims.get("scope"), "scope")))
        user = self._user(claims.get("fhirUser"))
        personas = self._personas(claims, user, scopes)
        return Grant(
            subject=_name(claims.get("sub"), "sub"),
            client_id=_name(claims.get("client_id") or claims.get("azp"), "client_id"),
            personas=personas,
            scopes=scopes,
            expires_at=expires_at,
            patient=_patient(claims.get("patient"), user, personas),
            programs=frozenset(
                _fhir_id(word, self._programs_claim)
                for word in _words(_at(claims, self._programs_claim), self._programs_claim)
            ),
            fhir_user=user,
        )

    def _user(self, value: object) -> str | None:
        """`fhirUser` as a relative reference."""
        if value is None:
            return None
        if not isinstance(value, str):
            raise _malformed("fhirUser")
        resource_type, _, resource_id = value.removeprefix(self._base).partition("/")
        if resource_type not in USER_TYPES or not FHIR_ID.fullmatch(resource_id):
            raise UnauthorizedError(
                "the claim fhirUser names no user of this FHIR server", code="invalid-token"
            )
        return f"{resource_type}/{resource_id}"

    def _personas(
        self, claims: Mapping[str, Any], user: str | None, scopes: tuple[SmartScope, ...]
    ) -> frozenset[Persona]:
        """From the roles; only without a known role from what the token is.

        A person whose `fhirUser` the issuer does not know must not become a program by that,
        so roles come first.
        """
        names = _words(_at(claims, self._roles_claim), self._roles_claim)
        mapped = frozenset(self._roles[name] for name in names if name in self._roles)
        if mapped:
            return mapped
        if user is not None:
            user_type = user.partition("/")[0]
            if user_type == "Patient":
                return frozenset({Persona.PATIENT})
            if user_type in ("Practitioner", "PractitionerRole"):
                return frozenset({Persona.CLINICIAN})
        elif any(scope.context == "system" for scope in scopes):
            return frozenset({Persona.SERVICE})
        raise UnauthorizedError("no role of the token is known here", code="no-persona")


def _role_map(roles: Mapping[str, str]) -> dict[str, Persona]:
    if not roles:
        return {persona.value: persona for persona in Persona}
    try:
        return {role: Persona(name) for role, name in roles.items()}
    except ValueError as error:
        raise SettingsError("auth.roles names a persona that does not exist") from error


def _patient(value: object, user: str | None, personas: frozenset[Persona]) -> str | None:
    """The patient of the launch context; a patient without one is their own.

    Raises:
        UnauthorizedError: a patient acts in the context of another; only a RelatedPerson may.
    """
    context = None if value is None else _fhir_id(value, "patient")
    user_type, _, user_id = (user or "").partition("/")
    if user_type != "Patient":
        return context
    if context not in (None, user_id):
        raise UnauthorizedError(
            "the token puts a patient into the context of another", code="invalid-token"
        )
    return user_id if Persona.PATIENT in personas else context


def _at(claims: Mapping[str, Any], path: str) -> object:
    """The claim of that name, else the one that the dotted path leads to."""
    if path in claims:
        return claims[path]
    found: object = claims
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _words(value: object, claim: str) -> list[str]:
    """A claim that is a list of strings, or one string with spaces; none without it."""
    if value is None:
        return []
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(value)
    raise _malformed(claim)


def _name(value: object, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise _malformed(claim)
    return value


def _fhir_id(value: object, claim: str) -> str:
    if not isinstance(value, str) or not FHIR_ID.fullmatch(value):
        raise _malformed(claim)
    return value


def _malformed(claim: str) -> UnauthorizedError:
    return UnauthorizedError(
        f"the claim {claim} of the token is missing or malformed", code="invalid-token"
    )
