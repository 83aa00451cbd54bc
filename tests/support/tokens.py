"""Real tokens for tests: every one is issued by the running development issuer.

People log in by authorization code with PKCE, programs by a signed assertion (SMART Backend
Services). The people are those of the issuer's demo, one of each persona.
"""

from __future__ import annotations

import time
from pathlib import Path

from access_world import OWN

from fhir_ext.auth.grant import Persona
from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.issuer.flows import backend_token, login

#: A public client of the demo.
APP = "demo-app"

#: Tokens are asked for again when they are this old (s); they live for five minutes.
OLDEST = 200.0


class Tokens:
    """Gets tokens, and keeps them while they are young.

    Args:
        issuer: base of the running issuer.
        directory: of the tree; it keeps the key of the backend client.
    """

    def __init__(self, issuer: str, directory: Path) -> None:
        self._issuer, self._key = issuer.rstrip("/"), backend_key(directory)
        self._kept: dict[tuple[str, str, str, str], tuple[float, str]] = {}

    def get(self, persona: str, context: str, scope: str, patient: str = OWN) -> str:
        """An access token.

        Args:
            persona: who; `service` is a program without a user.
            context: of the resource scopes; with `patient` a patient is chosen.
            scope: resource scopes; empty is a token without any.
            patient: id to choose.
        """
        key = (persona, context, scope, patient)
        since, token = self._kept.get(key, (0.0, ""))
        if time.monotonic() - since > OLDEST or not token:
            token = self._issue(persona, context, scope, patient)
            self._kept[key] = (time.monotonic(), token)
        return token

    def _issue(self, persona: str, context: str, scope: str, patient: str) -> str:
        if persona == Persona.SERVICE:
            return backend_token(self._issuer, BACKEND_CLIENT, self._key, scope)
        launch = ("launch/patient",) if context == "patient" else ()
        asked = ("openid", "fhirUser", *launch, *scope.split())
        answer = login(self._issuer, APP, f"demo-{persona}", asked, patient=patient)
        return str(answer["access_token"])
