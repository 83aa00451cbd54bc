"""`/models` over real HTTP: the token is looked at first, then the role, then the body."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from registry_samples import LUNG, Desk, lung_folder
from serving import serving

from fhir_ext.auth.grant import Grant, Persona
from fhir_ext.auth.scopes import parse_scopes
from fhir_ext.errors import UnauthorizedError
from fhir_ext.gateway.throttle import Throttle
from fhir_ext.outcome import BodyLimit, install_error_handlers
from operations.model_registry.routes import Callers, model_router
from operations.model_registry.states import seed

LIMIT = 100_000
BASE = f"/models/{LUNG}/1.0.0"
#: Every route that takes a body.
TAKING = (
    "/models",
    "/models/validate",
    f"/models/{LUNG}/rollback",
    f"{BASE}/canary",
    f"{BASE}/retire",
    f"{BASE}/recall",
)
#: What a token is worth, and the answer when the body is never looked at.
REFUSED = (("", 401, "no-token"), ("stolen", 401, "invalid-token"), ("clinician", 403, "persona"))


def _verify(token: str) -> Grant:
    if token not in set(Persona):
        raise UnauthorizedError("not ours", code="invalid-token")
    scopes = parse_scopes("user/Device.rus")
    return Grant("somebody", "app-1", frozenset({Persona(token)}), scopes, 2e9)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server of `/models`, put together in the order of `fhir_ext.app`."""
    desk = Desk(Path(tmp_path_factory.mktemp("desk")))
    seed(desk.store, desk.registry, desk.queue)
    lung_folder(desk.settings.inbox, "1.2.0")
    callers = Callers(lambda _: None, _verify, lambda _: None, Throttle(60_000, 10_000))
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=LIMIT)
    app.include_router(model_router(desk.service, callers))
    with serving(app) as url:
        yield int(url.rpartition(":")[2])
    desk.close()


def _post(
    port: int, path: str, token: str, body: bytes = b"", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    """Status, code of the OperationOutcome, and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    if token:
        headers["authorization"] = f"Bearer {token}"
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    finally:
        connection.close()
    issues = found.get("issue")
    return (
        answer.status,
        issues[0]["details"]["coding"][0]["code"] if issues else "",
        answer.headers,
    )


@pytest.mark.parametrize("path", TAKING)
@pytest.mark.parametrize(("token", "status", "code"), REFUSED)
@pytest.mark.parametrize("body", [b'{"folder": ', b'{"unknown": 1}', b"\xff\x00", b"[" * 50_000])
def test_a_wrong_body_tells_a_stranger_nothing(
    port: int, path: str, token: str, status: int, code: str, body: bytes
) -> None:
    found = _post(port, path, token, body)
    assert found[:2] == (status, code)
    assert _post(port, path, "administrator", body)[:2] == (400, "bad-request")


@pytest.mark.parametrize("path", TAKING)
@pytest.mark.parametrize(("token", "status", "code"), REFUSED)
@pytest.mark.parametrize("declared", [LIMIT, 50_000_000])
def test_a_body_that_never_comes_is_not_waited_for(
    port: int, path: str, token: str, status: int, code: str, declared: int
) -> None:
    """Only the head is sent; were the body read, there would be no answer."""
    found, named, headers = _post(port, path, token, **{"content-length": str(declared)})
    assert (found, named) == (status, code)
    assert headers["connection"] == ("close" if declared > LIMIT else None)


def test_a_stranger_that_sends_without_end_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = "POST /models HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401")
        with pytest.raises(OSError):
            for _ in range(500):
                connection.sendall(b"x" * 100_000)


def test_a_body_that_is_too_long_is_refused_to_those_who_may(port: int) -> None:
    body = json.dumps({"folder": "x" * LIMIT}).encode()
    assert _post(port, "/models", "administrator", body)[:2] == (413, "too-large")


@pytest.mark.parametrize("share", ["NaN", "Infinity", "-1", "1e400", "true", '"a"', "null"])
def test_a_share_that_is_none(port: int, share: str) -> None:
    body = f'{{"share": {share}}}'.encode()
    assert _post(port, f"{BASE}/canary", "administrator", body)[:2] == (400, "bad-request")


def test_openapi_says_what_the_bodies_are(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/openapi.json")
    paths = json.loads(connection.getresponse().read())["paths"]
    connection.close()
    taking = {
        path
        for path, methods in paths.items()
        if "application/json" in methods.get("post", {}).get("requestBody", {}).get("content", {})
    }
    assert len(taking) == len(TAKING)
    schema = paths["/models/{name}/{version}/canary"]["post"]["requestBody"]["content"]
    assert schema["application/json"]["schema"]["properties"]["share"]["maximum"] == 1
