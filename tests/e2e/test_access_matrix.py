"""Who gets what through the gateway: every cell a real request with a real token to real HAPI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import requests
from access_matrix import CALLS, Call, Row, rows
from access_world import ALERT, HOOK_SECRET, MATE, OTHER, OWN, World, mark
from tokens import Tokens

from fhir_ext.gateway.compartment import COMPARTMENT_TYPES, confinement_param

if TYPE_CHECKING:
    from fhir_ext.cli.tree import Tree

ROWS = list(rows())
STATUS_OF_REACHED = {200, 201, 400, 409, 412, 422, 428}


@pytest.fixture(scope="module")
def tokens(tree: Tree) -> Tokens:
    return Tokens(tree.urls["issuer"], tree.directory)


@pytest.fixture(scope="module")
def world(tree: Tree, tokens: Tokens) -> World:
    return World.prepared(tree.urls, tokens.get("coordinator", "user", "user/Patient.r"))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as found:
        yield found


def send(session: requests.Session, base: str, call: Call, token: str) -> requests.Response:
    """The answer to a call; waits when there were too many before it."""
    while (answer := send_once(session, base, call, token)).status_code == 429:
        time.sleep(float(answer.headers["Retry-After"]))
    return answer


def send_once(session: requests.Session, base: str, call: Call, token: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}", **dict(call.headers)}
    url = base.rstrip("/") + call.path
    if call.form:
        return session.request(call.method, url, data=call.body, headers=headers, timeout=60)
    if call.body is not None:
        kind = "json-patch+json" if call.patch else "fhir+json"
        headers["Content-Type"] = f"application/{kind}"
    return session.request(call.method, url, json=call.body, headers=headers, timeout=60)


def wrong(letter: str, answer: requests.Response) -> str | None:
    """Why an answer is not what the table says; None when it is."""
    status, text = answer.status_code, answer.text
    seen = {patient for patient in (OWN, MATE, OTHER) if mark(patient) in text}
    if HOOK_SECRET in text:
        return "the secret of a hook came through"
    if letter in ".n":
        wanted = 403 if letter == "." else 404
        if status != wanted or seen:
            return f"status {status}, saw {sorted(seen)}"
        return None if answer.json()["resourceType"] == "OperationOutcome" else "no outcome"
    if letter == "R":
        return None if status in STATUS_OF_REACHED else f"status {status}"
    if not 200 <= status < 300:
        return f"status {status}: {text[:200]}"
    if letter == "e" and (answer.json().get("entry") or answer.json().get("total")):
        return "there are entries, or a total tells of some"
    if letter == "m" and ALERT not in text:
        return "the alert is not there"
    nobody: set[str] = set()
    wanted_seen = {
        "p": {OWN},
        "g": {OWN, MATE},
        "a": {OWN, MATE, OTHER},
        "e": nobody,
        "m": nobody,
    }.get(letter)
    if wanted_seen is not None and seen != wanted_seen:
        return f"saw {sorted(seen)}"
    return None


def test_the_matrix_is_large_enough() -> None:
    assert len(ROWS) * len(CALLS) >= 400


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_matrix(
    row: Row, tree: Tree, world: World, tokens: Tokens, session: requests.Session
) -> None:
    token = tokens.get(row.persona, row.context, row.scope)
    failures = []
    for name, letter in row.expected.items():
        answer = send(session, tree.urls["gateway"], CALLS[name], token)
        if (reason := wrong(letter, answer)) is not None:
            failures.append(f"{name}: expected {letter}, {reason}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "metadata"])
def test_without_a_token(tree: Tree, world: World, session: requests.Session, name: str) -> None:
    call = CALLS[name]
    url = tree.urls["gateway"].rstrip("/") + call.path
    answer = session.request(call.method, url, json=call.body, timeout=60)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "Marked-" not in answer.text


def test_the_server_knows_every_parameter_that_confines(world: World) -> None:
    """A parameter that HAPI does not know would be refused, or worse, ignored."""
    (rest,) = world.read("metadata")["rest"]
    known = {
        resource["type"]: {item["name"]: item["type"] for item in resource["searchParam"]}
        for resource in rest["resource"]
    }
    for resource_type in COMPARTMENT_TYPES - {"Group"}:
        name = confinement_param(resource_type)
        wanted = "token" if name == "_id" else "reference"
        assert known[resource_type][name] == wanted, resource_type


def test_nothing_of_others_was_changed(world: World) -> None:
    """After the whole matrix: only the service wrote to the other patient."""
    assert world.read(f"Condition/mx-cond-{OTHER}")["subject"]["reference"] == f"Patient/{OTHER}"
    assert world.count("SearchParameter?code=patient") == 0
