"""Addresses become interactions, strictly; what goes on is written anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.errors import CallerError
from fhir_ext.gateway.interaction import Kind
from fhir_ext.gateway.paths import encode_params, parse_params, parse_request, upstream_path

FORMS = [
    ("GET", "/", Kind.SEARCH_SYSTEM, "/"),
    ("POST", "/", Kind.BUNDLE, "/"),
    ("GET", "/metadata", Kind.CAPABILITIES, "/metadata"),
    ("GET", "/_history", Kind.HISTORY_SYSTEM, "/_history"),
    ("POST", "/_search", Kind.SEARCH_SYSTEM, "/_search"),
    ("GET", "/Patient", Kind.SEARCH_TYPE, "/Patient"),
    ("GET", "/Patient/", Kind.SEARCH_TYPE, "/Patient"),
    ("POST", "/Patient/_search", Kind.SEARCH_TYPE, "/Patient/_search"),
    ("POST", "/Patient", Kind.CREATE, "/Patient"),
    ("PUT", "/Patient", Kind.CONDITIONAL_UPDATE, "/Patient"),
    ("PATCH", "/Patient", Kind.CONDITIONAL_PATCH, "/Patient"),
    ("DELETE", "/Patient", Kind.CONDITIONAL_DELETE, "/Patient"),
    ("GET", "/Patient/_history", Kind.HISTORY_TYPE, "/Patient/_history"),
    ("GET", "/Patient/1", Kind.READ, "/Patient/1"),
    ("PUT", "/Patient/1", Kind.UPDATE, "/Patient/1"),
    ("PATCH", "/Patient/1", Kind.PATCH, "/Patient/1"),
    ("DELETE", "/Patient/1", Kind.DELETE, "/Patient/1"),
    ("GET", "/Patient/1/_history", Kind.HISTORY_INSTANCE, "/Patient/1/_history"),
    ("GET", "/Patient/1/_history/2", Kind.VREAD, "/Patient/1/_history/2"),
    ("GET", "/Patient/1/$everything", Kind.OPERATION, "/Patient/1/$everything"),
    ("GET", "/Patient/1/%24everything", Kind.OPERATION, "/Patient/1/$everything"),
    ("POST", "/Observation/$validate", Kind.OPERATION, "/Observation/$validate"),
    ("POST", "/$validate", Kind.OPERATION, "/$validate"),
]


@pytest.mark.parametrize(("method", "path", "kind", "upstream"), FORMS)
def test_every_form_of_fhir(method: str, path: str, kind: Kind, upstream: str) -> None:
    interaction = parse_request(method, path, ())
    assert interaction.kind is kind
    assert (upstream_path(interaction) or "/") == upstream


def test_a_page_is_told_from_a_search() -> None:
    params = parse_params("_getpages=abc&_getpagesoffset=20")
    assert parse_request("GET", "/", params).kind is Kind.PAGE


def test_an_if_none_exist_makes_a_create_conditional() -> None:
    assert parse_request("POST", "/Patient", (), if_none_exist=True).kind is Kind.CONDITIONAL_CREATE


@pytest.mark.parametrize(
    "path",
    [
        "/Patient/../Observation",
        "/Patient/./1",
        "/Patient//1",
        "//Patient/1",
        "/Patient/%2e%2e/Observation/1",
        "/Patient%2F1",
        "/Patient/1%00",
        "/Patient/1;x=y",
        "/Patient\\1",
        "/Patient/1/Observation",
        "/Patient/1/_history/2/3",
        "/Patient/a b",
        "/Patient/" + "a" * 65,
        "/patient/1",
        "/Nothing",
        "/metadata/x",
        "/Patient/1/$a$b",
        "/Patient/1/$everything/x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_no_form_of_fhir_is_refused(method: str, path: str) -> None:
    with pytest.raises(CallerError):
        parse_request(method, path, ())


@pytest.mark.parametrize("method", ["HEAD", "TRACE", "CONNECT", "OPTIONS", "get", ""])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_request(method, "/Patient/1", ())
    assert caught.value.status == 405


@given(st.text(alphabet="/%.$;_\\ abcPatient12history", max_size=60))
def test_whatever_is_accepted_names_only_what_was_understood(path: str) -> None:
    try:
        interaction = parse_request("GET", path, ())
    except CallerError:
        return
    written = upstream_path(interaction)
    assert "%" not in written
    assert ".." not in written.split("/")
    assert "//" not in written
    assert interaction.resource_type is None or interaction.resource_type in RESOURCE_TYPES
    assert parse_request("GET", written or "/", ()) == interaction


def test_params_keep_their_order_and_blanks() -> None:
    query = "code=a%7Cb&code=c&x=&_count=2"
    params = parse_params(query)
    assert params == (("code", "a|b"), ("code", "c"), ("x", ""), ("_count", "2"))
    assert encode_params(params) == query


def test_too_many_or_broken_params_are_refused() -> None:
    with pytest.raises(CallerError):
        parse_params("&".join("a=1" for _ in range(201)))
    with pytest.raises(CallerError):
        parse_params("a=%ff")
    with pytest.raises(CallerError):
        parse_params("_elements:exclude=Device.patient")
