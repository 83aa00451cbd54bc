"""HAPI's generic Java client, unchanged, against the gateway."""

from __future__ import annotations

import uuid

import pytest
from java_client import JavaClient

from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.cli.tree import Tree
from fhir_ext.embedded.hapi import ensure_hapi
from fhir_ext.issuer.flows import backend_token

PREFIX = f"java-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def seen(tree: Tree) -> dict[str, str]:
    """What the client saw, by name; one run of the program does everything."""
    issuer, key = tree.urls["issuer"], backend_key(tree.directory)
    scopes = ("system/*.cruds", "system/Patient.r")
    tokens = [backend_token(issuer, BACKEND_CLIENT, key, scope) for scope in scopes]
    client = JavaClient(ensure_hapi(print))
    return client.run(tree.urls["gateway"], PREFIX, tokens)


def test_the_client_checks_the_capability_statement(seen: dict[str, str]) -> None:
    assert seen["another version"] == "refused by the client"


def test_create_read_update_and_history(seen: dict[str, str], tree: Tree) -> None:
    assert seen["created"] == f"{tree.urls['gateway']}/Patient/ID/_history/1"
    assert seen["created again"] == "the same"
    assert seen["read"] == "Ørsted"
    assert seen["updated"] == "2"
    assert (seen["old"], seen["not modified"]) == ("null", "null")
    assert seen["history"] == "FEMALE, null"


def test_pages_by_get_and_a_search_by_post(seen: dict[str, str]) -> None:
    first, second, last = seen["pages"].split(" | ")
    expected = [f"{PREFIX}-page-{number}" for number in range(5)]
    assert [*first.split(", "), *second.split(", "), last] == expected
    assert seen["posted"] == first


def test_a_transaction_and_an_include(seen: dict[str, str]) -> None:
    assert seen["transaction"] == "201 Created, 201 Created"
    assert seen["included"] == "Observation, Patient"


def test_operations(seen: dict[str, str]) -> None:
    for name in ("everything", "everything by GET"):
        # By then there may be AuditEvents of our own accesses. They are taken out, but the
        # Device that recorded them may be seen by everybody.
        found = seen[name].split(", ")
        assert [kind for kind in found if kind != "Device"] == ["Observation", "Patient"]
    assert seen["valid"] == ""
    assert seen["invalid"].startswith("Observation.code: minimum required = 1")


@pytest.mark.parametrize(
    ("call", "exception"),
    [
        ("no such resource", "ResourceNotFoundException, null"),
        ("closed by the table", "ForbiddenOperationException, policy"),
        ("closed by the scope", "ForbiddenOperationException, scope"),
        ("no write", "ForbiddenOperationException, scope"),
        ("no token", "AuthenticationException, invalid-token"),
        ("stale", "ResourceVersionConflictException, null"),
        ("too much", "InvalidRequestException, bad-request"),
    ],
)
def test_errors_become_the_exceptions_of_the_client(
    seen: dict[str, str], call: str, exception: str
) -> None:
    assert seen[call] == exception
