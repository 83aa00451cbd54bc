"""The pages that a browser sees: plain HTML, no script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fhir_ext.issuer.addresses import origin_of
from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.messages import Answer
from fhir_ext.issuer.users import User

#: Files that the pages load: package and media type.
ASSETS: Final = {
    "icon.svg": ("fhir_ext.status", "image/svg+xml"),
    "issuer.css": ("fhir_ext.issuer", "text/css"),
}

#: How personas are called on the login page.
PERSONAS: Final[Mapping[str, str]] = {
    "patient": "Patient",
    "clinician": "Clinician",
    "radiologist": "Radiologist",
    "coordinator": "Screening coordinator",
    "epidemiologist": "Epidemiologist",
    "ml-engineer": "ML engineer",
    "auditor": "Auditor",
    "administrator": "Administrator",
    "service": "Service",
}


@dataclass(frozen=True, slots=True)
class ConsentView:
    """What the consent page shows.

    Attributes:
        scopes: each with its sentence.
        patient: id of the patient in context, when nobody needs to choose.
        problem: what was wrong with the form that came before.
    """

    interaction: str
    client: Client
    user: User
    scopes: list[tuple[str, str]]
    patient: str | None
    choose_patient: bool
    choose_encounter: bool
    redirect_uri: str
    problem: str
    typed_patient: str
    typed_encounter: str


class Pages:
    """Renders the pages.

    Args:
        patients: id to words, offered where a patient is chosen.
    """

    def __init__(self, patients: Mapping[str, str]) -> None:
        self._patients = dict(patients)
        self._templates = Environment(
            loader=PackageLoader("fhir_ext.issuer", "templates"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def login(self, interaction: str, client: Client, users: Iterable[User]) -> Answer:
        """Who may log in."""
        return self._page(
            "login.html", interaction=interaction, client=client, users=users, personas=PERSONAS
        )

    def consent(self, view: ConsentView) -> Answer:
        """What the app asks for."""
        answer = self._page(
            "consent.html",
            view=view,
            persona=PERSONAS[view.user.persona],
            patients=self._patients,
        )
        # The form is answered by a redirect to the app, which Chromium holds against this too.
        answer.headers["content-security-policy"] = _policy(origin_of(view.redirect_uri))
        answer.status = 400 if view.problem else 200
        return answer

    def error(self, text: str) -> Answer:
        """Why it does not go on."""
        answer = self._page("error.html", text=text)
        answer.status = 400
        return answer

    def _page(self, template: str, **values: Any) -> Answer:
        html = self._templates.get_template(template).render(**values)
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": _policy(),
        }
        return Answer(200, html, headers)


def asset(name: str) -> tuple[bytes, str] | None:
    """Content and media type of a file that the pages load; None when there is none."""
    if name not in ASSETS:
        return None
    package, media_type = ASSETS[name]
    return resources.files(package).joinpath("assets", name).read_bytes(), media_type


def _policy(*form_targets: str) -> str:
    targets = " ".join(["'self'", *form_targets])
    return (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
        f"form-action {targets}; frame-ancestors 'none'"
    )
