"""Users of the development issuer: invented people, one for each persona."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict, Field

from fhir_ext.auth.grant import Persona

_FHIR_ID = r"[A-Za-z0-9\-.]{1,64}"


class User(BaseModel):
    """Somebody who may log in.

    Attributes:
        user_id: `sub` of their tokens.
        fhir_user: relative reference of their own resource.
        programs: ids of the Groups they work for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: str
    name: str
    persona: Persona
    fhir_user: str = Field(pattern=rf"^(Practitioner|Patient)/{_FHIR_ID}$")
    programs: tuple[str, ...] = ()

    @property
    def own_patient(self) -> str | None:
        """Id of the Patient that the user is; None for those who work here."""
        kind, _, identifier = self.fhir_user.partition("/")
        return identifier if kind == "Patient" else None

    def claims(self, scope: str) -> dict[str, str]:
        """What the scopes allow to know about the user (OpenID Connect Core 1.0 section 5)."""
        words = scope.split(" ")
        found = {"sub": self.user_id}
        found |= {"name": self.name} if "profile" in words else {}
        found |= {"fhirUser": self.fhir_user} if "fhirUser" in words else {}
        return found


class Users:
    """All who may log in, in the order in which the login page shows them."""

    def __init__(self, users: Iterable[User]) -> None:
        self._users = {user.user_id: user for user in users}

    def __iter__(self) -> Iterator[User]:
        return iter(self._users.values())

    def find(self, name: str) -> User | None:
        """By id, else the first one of that persona."""
        of_persona = (user for user in self._users.values() if user.persona == name)
        return self._users.get(name) or next(of_persona, None)
