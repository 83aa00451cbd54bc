"""From the request of an app over login and consent to the code that it gets.

The pages carry the id of the interaction; there is no cookie and nobody stays logged in.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.oauth2.rfc6749 import OAuth2Error  # type: ignore[import-untyped]

from fhir_ext.auth.claims import FHIR_ID
from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.messages import Answer, IssuerRequest
from fhir_ext.issuer.pages import ConsentView, Pages
from fhir_ext.issuer.scopes import described, needs_patient
from fhir_ext.issuer.server import IssuerServer
from fhir_ext.issuer.store import INTERACTION_SECONDS, Launch, Session
from fhir_ext.issuer.users import User

#: Shown when the id of an interaction is not known (any more).
GONE = "This page is too old, or was already answered. Start again from the app."


@dataclass(slots=True)
class Interaction:
    """One authorization request on its way; valid when it was begun."""

    request: IssuerRequest
    grant: Any
    client: Client
    scope: str
    launch: Launch | None
    user: User | None = None
    auth_time: int = 0

    @property
    def words(self) -> list[str]:
        return self.scope.split(" ")


class _NotChosen(Exception):
    """What the consent page left open."""


class Interactions:
    """What happens behind the pages."""

    def __init__(self, server: IssuerServer, pages: Pages) -> None:
        self._server, self._pages = server, pages

    def begin(self, request: IssuerRequest) -> Answer:
        """Check an authorization request and show who may log in."""
        try:
            grant = self._server.get_consent_grant(request)
        except OAuth2Error as error:
            return self._refused(error)
        scope = str(request.scope)
        launch = self._server.launch_of(request) if "launch" in scope.split(" ") else None
        interaction = Interaction(request, grant, request.client, scope, launch)
        return self._pages.login(self._keep(interaction), interaction.client, self._server.users)

    def login(self, form: Mapping[str, str]) -> Answer:
        """Let somebody in and show what the app asks for."""
        interaction = self._server.store.interactions.get(form.get("interaction", ""))
        user = self._server.users.find(form.get("user", ""))
        if interaction is None or user is None:
            return self._pages.error(GONE)
        interaction.user, interaction.auth_time = user, int(time.time())
        return self._consent(form["interaction"], interaction)

    def decide(self, form: Mapping[str, str]) -> Answer:
        """Go back to the app: with a code, or with the refusal of the user."""
        key = form.get("interaction", "")
        interaction: Interaction | None = self._server.store.interactions.get(key)
        if interaction is None or interaction.user is None:
            return self._pages.error(GONE)
        session = None
        if form.get("decision") == "allow":
            try:
                session = _session(interaction, form)
            except _NotChosen as missing:
                return self._consent(key, interaction, str(missing), form)
        self._server.store.interactions.pop(key)
        answer: Answer = self._server.create_authorization_response(
            interaction.request, grant_user=session, grant=interaction.grant
        )
        if session is not None:
            self._server.store.launches.pop(interaction.request.payload.data.get("launch", ""))
        # 303 makes every browser go on with GET (RFC 9700 section 4.12).
        answer.status = 303 if answer.location else answer.status
        return answer

    def _keep(self, interaction: Interaction) -> str:
        key = secrets.token_urlsafe(24)
        self._server.store.interactions.put(key, interaction, INTERACTION_SECONDS)
        return key

    def _consent(
        self,
        key: str,
        interaction: Interaction,
        problem: str = "",
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        assert interaction.user is not None
        fixed = _fixed_patient(interaction)
        given = form or {}
        return self._pages.consent(
            ConsentView(
                interaction=key,
                client=interaction.client,
                user=interaction.user,
                scopes=described(interaction.scope),
                patient=fixed,
                choose_patient=fixed is None and needs_patient(interaction.scope),
                choose_encounter=_may_choose_encounter(interaction),
                redirect_uri=interaction.request.payload.data["redirect_uri"],
                problem=problem,
                typed_patient=given.get("patient", ""),
                typed_encounter=given.get("encounter", ""),
            )
        )

    def _refused(self, error: OAuth2Error) -> Answer:
        """Back to the app, unless it is not known that the address is the app's."""
        answer = self._server.refusal(error)
        if answer.location is not None:
            return answer
        return self._pages.error(f"The app asked in a wrong way: {error.error}. {_said(error)}")


def _said(error: OAuth2Error) -> str:
    # Some texts of Authlib repeat what was sent.
    texts = {
        "invalid_client": "The client is not registered here.",
        "invalid_request": "Its redirect_uri is missing or not registered, or a parameter is "
        "malformed or occurs twice.",
    }
    return texts.get(error.error, "")


def _fixed_patient(interaction: Interaction) -> str | None:
    """The patient that nobody needs to choose: from the record system, or the user."""
    if interaction.launch is not None:
        return interaction.launch.patient
    if interaction.user is not None and needs_patient(interaction.scope):
        return interaction.user.own_patient
    return None


def _may_choose_encounter(interaction: Interaction) -> bool:
    return interaction.launch is None and "launch/encounter" in interaction.words


def _session(interaction: Interaction, form: Mapping[str, str]) -> Session | None:
    """What the user allowed; None where a patient would act in the context of another.

    Raises:
        _NotChosen: a patient is needed and none is given, or an id is malformed.
    """
    assert interaction.user is not None
    patient = _fixed_patient(interaction)
    if interaction.user.own_patient not in (None, patient or interaction.user.own_patient):
        return None
    if patient is None and needs_patient(interaction.scope):
        patient = form.get("patient", "").strip()
        if not FHIR_ID.fullmatch(patient):
            raise _NotChosen("Choose a patient: letters, digits, hyphens and dots.")
    encounter = interaction.launch.encounter if interaction.launch else None
    if _may_choose_encounter(interaction) and (typed := form.get("encounter", "").strip()):
        if not FHIR_ID.fullmatch(typed):
            raise _NotChosen("An encounter id has letters, digits, hyphens and dots.")
        encounter = typed
    words = [word for word in interaction.words if encounter or word != "launch/encounter"]
    return Session(
        user=interaction.user,
        client_id=interaction.client.client_id,
        scope=" ".join(words),
        patient=patient,
        encounter=encounter,
        auth_time=interaction.auth_time,
    )
