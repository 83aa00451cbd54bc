"""Scopes against the table: what a grant adds up to, and how it is confined."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_ext.auth.grant import Grant, Persona
from fhir_ext.auth.scopes import parse_scopes
from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.confine import confined_params
from fhir_ext.gateway.interaction import Interaction, Kind
from fhir_ext.gateway.policy import Policy, Rule
from fhir_ext.gateway.rights import Decision, Rights
from fhir_ext.gateway.sight import Sight

POLICY = Policy.load()


def rights(scopes: str, persona: Persona = Persona.CLINICIAN, **more: Any) -> Rights:
    values: dict[str, Any] = {"patient": "own", "programs": frozenset({"screening"}), **more}
    return Rights(
        Grant("s", "c", frozenset({persona}), parse_scopes(scopes), 2e9, **values), POLICY
    )


def search(resource_type: str = "Observation") -> Interaction:
    return Interaction(Kind.SEARCH_TYPE, "GET", resource_type)


@pytest.mark.parametrize(
    ("scopes", "rule"),
    [
        ("patient/*.rs", Rule.COMPARTMENT),
        ("user/*.rs", Rule.PROGRAMS),
        ("patient/*.rs user/*.rs", Rule.BOTH),
        ("patient/Observation.s user/Patient.rs", Rule.COMPARTMENT),
    ],
)
def test_scopes_add_up(scopes: str, rule: Rule) -> None:
    assert rights(scopes).decide(search()).rule is rule


@pytest.mark.parametrize(
    ("scopes", "found"),
    [
        ("patient/*.rs", "Patient/own"),
        ("user/*.rs", "Patient/a,Patient/b"),
        ("patient/*.rs user/*.rs", "Patient/a,Patient/b,Patient/own"),
    ],
)
def test_a_search_names_the_patients_it_may_find(scopes: str, found: str) -> None:
    held = rights(scopes)
    sight = Sight(held, frozenset({"a", "b"}))
    params = confined_params((("code", "x"),), "Observation", held.decide(search()), held, sight)
    assert params == (("code", "x"), ("patient", found))
    owned = {"resourceType": "Observation", "subject": {"reference": "Patient/own"}}
    assert sight.shows(owned) is ("own" in found)


def test_a_program_without_members_finds_nobody() -> None:
    held = rights("user/*.rs")
    (added,) = confined_params((), "Observation", held.decide(search()), held, Sight(held))
    assert added[0] == "_id"


@pytest.mark.parametrize(
    ("scopes", "code"),
    [
        ("user/Condition.rs", "scope"),
        ("user/Observation.r", "scope"),
        ("system/Observation.rs", "policy"),
        ("user/Observation.rs?category=a&code=x user/Observation.rs?status=final", "scope"),
    ],
)
def test_what_is_not_granted_is_refused_with_its_reason(scopes: str, code: str) -> None:
    with pytest.raises(ForbiddenError) as caught:
        rights(scopes).decide(search())
    assert caught.value.code == code


def test_restrictions_are_added_and_the_same_parameter_is_merged() -> None:
    one = rights("user/Observation.rs?category=laboratory").decide(search())
    assert one == Decision(Rule.PROGRAMS, (("category", "laboratory"),))
    two = "user/Observation.rs?category=laboratory user/Observation.rs?category=imaging"
    assert rights(two).decide(search()).restriction == (("category", "imaging,laboratory"),)
    free = rights("user/Observation.rs?category=laboratory user/*.s").decide(search())
    assert free == Decision(Rule.PROGRAMS)
    # What came along cannot be held against a restriction.
    assert not rights("user/Observation.rs?category=laboratory").readable("Observation")


def test_elements_are_widened_by_what_says_whose_a_resource_is() -> None:
    held = rights("patient/*.rs")
    asked = (("_elements", "code,subject"),)
    (elements, _) = confined_params(asked, "Observation", held.decide(search()), held, Sight(held))
    assert set(elements[1].split(",")) >= {"code", "subject", "performer"}
    assert elements[1].split(",").count("subject") == 1


@pytest.mark.parametrize(
    "name",
    [
        "_has:Observation:patient:code",
        "patient._has:Group:member:_id",
        "_filter",
        "_query",
        "_list",
        "_contained",
        "_text",
        "_content",
        "encounter.subject",
        "performer:Patient.name",
    ],
)
def test_parameters_that_look_past_the_patient_are_refused(name: str) -> None:
    held = rights("patient/*.rs")
    with pytest.raises(ForbiddenError) as caught:
        confined_params(((name, "x"),), "Observation", held.decide(search()), held, Sight(held))
    assert caught.value.code == "parameter"
    service = rights("system/*.rs", Persona.SERVICE, patient=None, programs=frozenset())
    decision = service.decide(search())
    assert confined_params(((name, "x"),), "Observation", decision, service, Sight(service))


def test_a_chain_through_the_patient_needs_a_scope_on_patients() -> None:
    asked = (("patient.birthdate", "1970-01-01"),)
    held = rights("patient/*.rs")
    assert asked[0] in confined_params(
        asked, "Observation", held.decide(search()), held, Sight(held)
    )
    narrow = rights("patient/Observation.rs")
    with pytest.raises(ForbiddenError):
        confined_params(asked, "Observation", narrow.decide(search()), narrow, Sight(narrow))


def engineer(scopes: str, *more: Persona) -> Rights:
    personas, programs = frozenset({Persona.ML_ENGINEER, *more}), frozenset({"screening"})
    held = Grant("s", "c", personas, parse_scopes(scopes), 2e9, programs=programs)
    return Rights(held, POLICY)


ALERTS_ONLY = (
    ("patient:missing", "true"),
    ("code", "https://w3id.org/fhir-ext/CodeSystem/model-alert|model-drift"),
)


def test_an_engineer_finds_alerts_whatever_is_asked_for() -> None:
    held = engineer("user/*.cruds")
    decision = held.decide(search("DetectedIssue"))
    assert decision == Decision(Rule.ALERTS, ALERTS_ONLY)
    asked = (("patient:missing", "false"), ("_elements", "detail"))
    found = confined_params(asked, "DetectedIssue", decision, held, Sight(held))
    assert found[0] == asked[0]
    assert found[-2:] == ALERTS_ONLY
    # Nor does one come along with something else.
    assert not held.readable("DetectedIssue")
    narrow = engineer("user/DetectedIssue.rs?severity=high").decide(search("DetectedIssue"))
    assert narrow.restriction == (("severity", "high"), *ALERTS_ONLY)


def test_another_role_sees_the_issues_of_its_patients_instead() -> None:
    held = engineer("user/*.rs", Persona.CLINICIAN)
    assert held.decide(search("DetectedIssue")) == Decision(Rule.PROGRAMS)


ALERT = {"resourceType": "DetectedIssue", "status": "final"}
CUT = {"meta": {"tag": [{"code": "SUBSETTED"}]}}


@pytest.mark.parametrize(
    ("resource", "shown"),
    [
        (ALERT, True),
        ({**ALERT, "patient": {"reference": "Patient/a"}}, False),
        ({**ALERT, "patient": {"identifier": {"value": "1"}}}, False),
        ({**ALERT, "patient": {"display": "somebody"}}, False),
        (ALERT | CUT, False),
    ],
)
def test_an_alert_is_shown_whole_and_without_a_patient(resource: dict, shown: bool) -> None:
    sight = Sight(engineer("user/*.rs"))
    assert not sight.shows(resource), "it was not asked for"
    sight.restricted = "DetectedIssue"
    assert sight.shows_asked(resource, "s") is shown


def test_a_device_that_was_cut_is_shown_to_who_may_see_its_patient() -> None:
    device = {"resourceType": "Device", "id": "x"}
    affixed = device | {"patient": {"reference": "Patient/own"}}
    service = rights("system/*.rs", Persona.SERVICE, patient=None, programs=frozenset())
    for held, seen in (
        (engineer("user/*.rs"), (True, False, False)),
        (rights("patient/*.rs"), (True, True, False)),
        (service, (True, True, True)),
    ):
        found = (device, affixed, device | CUT)
        assert tuple(Sight(held).shows(one) for one in found) == seen
