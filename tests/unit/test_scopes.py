"""SMART scopes: what is written is granted, and nothing else."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.auth.scopes import parse_scopes


def granted(text: str) -> list[tuple[str, str, str]]:
    """Context, type, and letters in the order of the standard."""
    return [
        (scope.context, scope.resource_type, "".join(c for c in "cruds" if c in scope.letters))
        for scope in parse_scopes(text)
    ]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("patient/Observation.rs", "rs"),
        ("patient/Observation.c", "c"),
        ("patient/Observation.cruds", "cruds"),
        ("patient/Observation.read", "rs"),
        ("patient/Observation.write", "cud"),
        ("patient/Observation.*", "cruds"),
    ],
)
def test_access(text: str, letters: str) -> None:
    assert granted(text) == [("patient", "Observation", letters)]


def test_contexts_and_wildcard() -> None:
    assert granted("openid user/*.rs launch/patient system/Patient.r") == [
        ("user", "*", "rs"),
        ("system", "Patient", "r"),
    ]


def test_each_scope_counts_once_in_its_order() -> None:
    text = "user/Patient.r user/Group.r user/Patient.r"
    assert granted(text) == [("user", "Patient", "r"), ("user", "Group", "r")]


def test_restrictions_are_decoded() -> None:
    (scope,) = parse_scopes(
        "patient/Observation.rs?category=http%3A%2F%2Fterminology.hl7.org%2Fc|laboratory"
        "&_security:not=http://x|R&subject:Patient.name=a%2Cb&code=1+2,3"
    )
    assert scope.restriction == (
        ("category", "http://terminology.hl7.org/c|laboratory"),
        ("_security:not", "http://x|R"),
        ("subject:Patient.name", "a,b"),
        ("code", "1+2,3"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "openid fhirUser profile launch launch/patient launch/encounter offline_access",
        "patient/Observation.",
        "patient/Observation",
        "patient/.rs",
        "patient/Observation.sr",
        "patient/Observation.rr",
        "patient/Observation.rsx",
        "patient/Observation.RS",
        "patient/Observation.readwrite",
        "patient/Observation.rs.rs",
        "patient/observation.rs",
        "patient/Observations.rs",
        "patient/Resource.rs",
        "patient/DomainResource.rs",
        "patient/Observation*.rs",
        "patient/**.rs",
        "Patient/Observation.rs",
        "*/Observation.rs",
        "practitioner/Observation.rs",
        " patient/Observation.rs?",
        "xpatient/Observation.rs",
        "patient/Observation.rs\n",
        "patient/Observation.rs?",
        "patient/Observation.rs?category",
        "patient/Observation.rs?category=",
        "patient/Observation.rs?=x",
        "patient/Observation.rs?category=x&",
        "patient/Observation.rs?category=x&&code=y",
        "patient/Observation.rs?category=x&code=",
        "patient/Observation.rs?category=,",
        "patient/Observation.rs?category=x,",
        "patient/Observation.rs?category=|",
        "patient/Observation.rs?category=%20",
        "patient/Observation.rs?category=%",
        "patient/Observation.rs?category=%zz",
        "patient/Observation.rs?category=%ff",
        "patient/Observation.rs?category=a%00",
        "patient/Observation.rs?category=a%0a",
        "patient/Observation.rs?_include=Observation:subject",
        "patient/Observation.rs?_count=5",
        "patient/Observation.rs?_elements=id",
        "patient/Observation.rs?_has:Observation:patient:code=1",
        "patient/Observation.rs?_filter=code eq 1",
        "patient/Observation.rs?cate%20gory=x",
        "patient/Observation.read?category=x",
        "patient/Observation.*?category=x",
    ],
)
def test_what_is_malformed_grants_nothing(text: str) -> None:
    assert granted(text) == []


def test_a_malformed_scope_spoils_no_other() -> None:
    assert granted("user/Nothing.rs user/Patient.r user/Group.sr") == [("user", "Patient", "r")]


def test_resource_types_are_those_of_r4() -> None:
    assert len(RESOURCE_TYPES) == 146
    assert {"Patient", "Bundle", "Parameters", "VisionPrescription"} <= RESOURCE_TYPES
    assert not {"Resource", "DomainResource", "Ingredient", "SubscriptionTopic"} & RESOURCE_TYPES


CONTEXTS = st.sampled_from(["patient", "user", "system", "Patient", "*", ""])
TYPES = st.sampled_from(["*", "Patient", "Observation", "Nothing", "patient", "", "Patient.r"])
ACCESS = st.text("crudsx*", max_size=6) | st.sampled_from(["read", "write", "*"])
QUERIES = st.just("") | st.text("?&=,%|abc1_:. ", max_size=12)
WORDS = st.builds(
    lambda context, slash, kind, dot, access, query: context + slash + kind + dot + access + query,
    CONTEXTS,
    st.sampled_from(["/", "", "//", "."]),
    TYPES,
    st.sampled_from([".", "", "..", "/"]),
    ACCESS,
    QUERIES,
)
V1 = {"read": set("rs"), "write": set("cud"), "*": set("cruds")}


@given(st.lists(WORDS | st.text(max_size=20), max_size=4).map(" ".join))
def test_nothing_is_granted_that_the_text_does_not_name(text: str) -> None:
    words = text.split(" ")
    for scope in parse_scopes(text):
        named = [
            word
            for word in words
            if word.startswith(f"{scope.context}/{scope.resource_type}.")
            and ("?" in word) == bool(scope.restriction)
        ]
        access = [re.split(r"[.?]", word)[1] for word in named]
        assert any(scope.letters == V1.get(text, set(text)) for text in access)
        assert scope.letters
        assert scope.letters <= set("cruds")
        assert scope.resource_type == "*" or scope.resource_type in RESOURCE_TYPES


@given(
    st.sampled_from(["patient", "user", "system"]),
    st.sampled_from(["*", *sorted(RESOURCE_TYPES)]),
    st.sets(st.sampled_from("cruds"), min_size=1),
    st.lists(
        st.tuples(
            st.sampled_from(["code", "category", "_tag", "value-quantity:missing"]),
            st.text(min_size=1, max_size=8).filter(
                lambda value: value.isalnum() and value.isprintable()
            ),
        ),
        max_size=3,
    ),
)
def test_what_is_well_formed_is_read_back(
    context: str, kind: str, letters: set[str], restriction: list[tuple[str, str]]
) -> None:
    access = "".join(letter for letter in "cruds" if letter in letters)
    query = "&".join(f"{name}={quote(value)}" for name, value in restriction)
    (scope,) = parse_scopes(f"{context}/{kind}.{access}{'?' if query else ''}{query}")
    assert scope.context == context
    assert scope.resource_type == kind
    assert scope.letters == letters
    assert scope.restriction == tuple(restriction)
