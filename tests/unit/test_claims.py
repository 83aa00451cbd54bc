"""Claims to grants: personas, launch context, programs, users."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_ext.auth.claims import ClaimReader
from fhir_ext.auth.grant import Grant, Persona
from fhir_ext.errors import SettingsError, UnauthorizedError
from fhir_ext.settings import AuthSettings

BASE = "https://fhir.example.org/fhir"


def read(claims: dict[str, Any], **settings: Any) -> Grant:
    reader = ClaimReader(AuthSettings(issuer="https://issuer.example.org", **settings), BASE)
    return reader.grant({"sub": "s", "client_id": "c", **claims}, 1000.0)


def refusal(claims: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(UnauthorizedError) as refused:
        read(claims, **settings)
    return refused.value.code


@pytest.mark.parametrize(
    ("claims", "persona"),
    [
        ({"fhirUser": "Patient/1"}, Persona.PATIENT),
        ({"fhirUser": "Practitioner/1"}, Persona.CLINICIAN),
        ({"fhirUser": "PractitionerRole/1"}, Persona.CLINICIAN),
        ({"fhirUser": "Practitioner/1", "scope": "system/*.rs"}, Persona.CLINICIAN),
        ({"scope": "system/*.rs"}, Persona.SERVICE),
        ({"scope": "openid system/*.rs user/Patient.r"}, Persona.SERVICE),
        ({"roles": ["auditor"]}, Persona.AUDITOR),
        ({"roles": "auditor offline_access"}, Persona.AUDITOR),
        ({"roles": ["epidemiologist"], "fhirUser": "Practitioner/1"}, Persona.EPIDEMIOLOGIST),
        # A person is no program, whatever the scopes are.
        ({"roles": ["epidemiologist"], "scope": "system/*.rs"}, Persona.EPIDEMIOLOGIST),
        ({"roles": ["patient"], "fhirUser": "RelatedPerson/1", "patient": "2"}, Persona.PATIENT),
    ],
)
def test_personas(claims: dict[str, Any], persona: Persona) -> None:
    assert read(claims).personas == {persona}


def test_several_roles_give_several_personas() -> None:
    found = read({"roles": ["radiologist", "coordinator", "golfer"]})
    assert found.personas == {Persona.RADIOLOGIST, Persona.COORDINATOR}


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"scope": "user/*.rs"},
        {"scope": "patient/*.rs", "patient": "1"},
        {"roles": ["golfer"]},
        {"roles": ["Auditor"]},
        {"fhirUser": "RelatedPerson/1", "patient": "2"},
        {"fhirUser": "Person/1"},
        {"fhirUser": "Person/1", "scope": "system/*.rs"},
        {"scope": "system/Nothing.rs"},
    ],
)
def test_without_persona_nobody_comes_in(claims: dict[str, Any]) -> None:
    assert refusal(claims) == "no-persona"


def test_roles_are_mapped_by_the_settings_alone() -> None:
    mapping = {"hospital/radiology": "radiologist"}
    assert read({"roles": ["hospital/radiology"]}, roles=mapping).personas == {Persona.RADIOLOGIST}
    assert refusal({"roles": ["administrator"]}, roles=mapping) == "no-persona"
    with pytest.raises(SettingsError):
        read({}, roles={"x": "wizard"})


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["auditor"]}}),
        ("https://example.org/roles", {"https://example.org/roles": ["auditor"]}),
        ("a.b.c", {"a": {"b": {"c": "auditor"}}}),
    ],
)
def test_roles_lie_where_the_settings_say(path: str, claims: dict[str, Any]) -> None:
    assert read(claims, roles_claim=path).personas == {Persona.AUDITOR}


def test_a_path_that_leads_nowhere_gives_no_roles() -> None:
    for claims in ({}, {"realm_access": []}, {"realm_access": "roles"}, {"realm_access": None}):
        assert refusal(claims, roles_claim="realm_access.roles") == "no-persona"


@pytest.mark.parametrize("value", [["a", 1], {"auditor": True}, 7, True])
@pytest.mark.parametrize("claim", ["roles", "scope", "programs"])
def test_lists_must_be_lists_of_words(claim: str, value: object) -> None:
    assert refusal({"fhirUser": "Practitioner/1", claim: value}) == "invalid-token"


def test_scopes_come_as_text_or_list() -> None:
    as_text = read({"fhirUser": "Practitioner/1", "scope": "user/Patient.r user/Group.r"})
    as_list = read({"fhirUser": "Practitioner/1", "scope": ["user/Patient.r", "user/Group.r"]})
    assert as_text == as_list
    assert len(as_text.scopes) == 2


def test_programs() -> None:
    user = {"fhirUser": "Practitioner/1"}
    assert read({**user, "programs": ["g-1", "g-2"]}).programs == {"g-1", "g-2"}
    assert read({**user, "programs": "g-1 g-2"}).programs == {"g-1", "g-2"}
    assert read({**user, "x": {"y": ["g"]}}, programs_claim="x.y").programs == {"g"}
    assert read(user).programs == frozenset()
    for bad in (["Group/1"], ["a,b"], ["*"], [".."], [""], ["x" * 65], "a b/c"):
        assert refusal({**user, "programs": bad}) == "invalid-token"


@pytest.mark.parametrize(
    ("value", "user"),
    [
        ("Practitioner/1", "Practitioner/1"),
        (f"{BASE}/Practitioner/a-1.b", "Practitioner/a-1.b"),
        (f"{BASE}/PractitionerRole/7", "PractitionerRole/7"),
    ],
)
def test_users(value: str, user: str) -> None:
    assert read({"fhirUser": value}).fhir_user == user


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Practitioner",
        "Practitioner/",
        "Practitioner/..",
        "Practitioner/1/_history/1",
        "Practitioner/1?x=y",
        "Organization/1",
        "practitioner/1",
        "https://other.example.org/fhir/Practitioner/1",
        f"{BASE}x/Practitioner/1",
        f"{BASE}/{BASE}/Practitioner/1",
        f"{BASE.upper()}/Practitioner/1",
        7,
        ["Practitioner/1"],
    ],
)
def test_users_of_elsewhere_are_refused(value: object) -> None:
    # A user that is not known must not turn the token into a program's.
    assert refusal({"fhirUser": value, "scope": "system/*.rs"}) == "invalid-token"


def test_a_patient_sees_only_themselves() -> None:
    assert read({"fhirUser": "Patient/1", "patient": "1"}).patient == "1"
    assert read({"fhirUser": "Patient/1"}).patient == "1"
    assert refusal({"fhirUser": "Patient/1", "patient": "2"}) == "invalid-token"
    assert refusal({"fhirUser": "Patient/1", "patient": "2", "roles": ["patient"]}) == (
        "invalid-token"
    )
    related = {"fhirUser": "RelatedPerson/1", "patient": "2", "roles": ["patient"]}
    assert read(related).patient == "2"


def test_the_context_of_others_is_taken_as_it_is() -> None:
    assert read({"fhirUser": "Practitioner/1", "patient": "2"}).patient == "2"
    assert read({"fhirUser": "Practitioner/1"}).patient is None
    assert read({"fhirUser": "Patient/1", "roles": ["clinician"]}).patient is None
    for bad in ("Patient/2", "", "..", 2, ["2"], "2,3"):
        assert refusal({"fhirUser": "Practitioner/1", "patient": bad}) == "invalid-token"


def test_client_and_subject() -> None:
    user = {"fhirUser": "Practitioner/1"}
    found = read({**user, "client_id": None, "azp": "app"})
    assert (found.client_id, found.subject, found.expires_at) == ("app", "s", 1000.0)
    assert read({**user, "client_id": "c", "azp": "app"}).client_id == "c"
    for changes in (
        {"client_id": None},
        {"client_id": ["c"]},
        {"sub": None},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
    ):
        assert refusal({**user, **changes}) == "invalid-token"
