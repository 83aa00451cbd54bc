"""What a verified token grants; plain values that the gateway, operations and audit read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

ScopeContext = Literal["patient", "user", "system"]


class Persona(StrEnum):
    """Who works with the platform; given by a role claim, or by what the token is."""

    PATIENT = "patient"
    CLINICIAN = "clinician"
    RADIOLOGIST = "radiologist"
    COORDINATOR = "coordinator"
    EPIDEMIOLOGIST = "epidemiologist"
    ML_ENGINEER = "ml-engineer"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"
    #: A program without a user: client credentials (SMART Backend Services).
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class SmartScope:
    """One resource scope of SMART App Launch 2.2 (section "Scopes for requesting FHIR data").

    Attributes:
        context: `patient`, `user` or `system`.
        resource_type: FHIR R4 type, or `*`.
        letters: subset of `cruds`.
        restriction: search parameters after `?`, decoded, in their order; empty without.
    """

    context: ScopeContext
    resource_type: str
    letters: frozenset[str]
    restriction: tuple[tuple[str, str], ...] = ()

    def covers(self, resource_type: str, letters: frozenset[str]) -> bool:
        """Whether all `letters` are granted on a type; the restriction is not looked at."""
        return self.resource_type in ("*", resource_type) and letters <= self.letters


@dataclass(frozen=True, slots=True)
class Grant:
    """A verified token.

    Attributes:
        subject: `sub`.
        client_id: `client_id` or `azp`.
        personas: what the roles mean here; never empty.
        scopes: resource scopes; others (openid, launch, …) are left out.
        expires_at: `exp` (seconds since 1970).
        patient: id of the Patient in the launch context.
        programs: ids of the Groups whose members the user works for.
        fhir_user: reference of the user (`Practitioner/1`), relative.
    """

    subject: str
    client_id: str
    personas: frozenset[Persona]
    scopes: tuple[SmartScope, ...]
    expires_at: float
    patient: str | None = None
    programs: frozenset[str] = frozenset()
    fhir_user: str | None = None
