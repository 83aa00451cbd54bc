"""Every error is an OperationOutcome that says nothing it should not, and bodies are bounded."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Body, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict
from serving import serving
from starlette.types import Message

from fhir_ext import errors
from fhir_ext.logs import SafeFormatter
from fhir_ext.outcome import (
    SECURITY_HEADERS,
    BodyLimit,
    OutcomeIssue,
    SecurityHeaders,
    install_error_handlers,
    operation_outcome,
)
from fhir_ext.resources.codes import ERROR

NAME = "VANDERPLANTED"
LIMIT = 1000


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int


def build_app() -> FastAPI:
    """Put together in the order of `fhir_ext.app`."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(BodyLimit, max_bytes=LIMIT)

    @app.get("/raise/{kind}")
    async def raise_it(kind: str) -> None:
        raise getattr(errors, kind)("a sentence for the caller")

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError(f"broken by {NAME}")

    @app.get("/late-bug")
    async def late_bug() -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError(NAME)

        from starlette.responses import StreamingResponse

        return StreamingResponse(body())

    @app.get("/number")
    async def number(count: Annotated[int, Query()], token: Annotated[str, Header()]) -> int:
        return count + len(token)

    @app.post("/model")
    async def model(given: Annotated[Given, Body()]) -> int:
        return given.number

    @app.post("/bytes")
    async def count_bytes(request: Request) -> int:
        return len(await request.body())

    @app.post("/swallow")
    async def swallow(request: Request) -> Response:
        try:
            await request.body()
        except errors.FhirExtError:
            return Response("all is well")
        return Response("small")

    @app.get("/http/{status}")
    async def http(status: int) -> None:
        raise HTTPException(status, detail=f"about {NAME}", headers={"x-kept": "yes"})

    @app.get("/page")
    async def page() -> Response:
        return Response("x", headers={"cache-control": "max-age=60"})

    return app


@pytest.fixture
def client() -> TestClient:
    return TestClient(build_app(), raise_server_exceptions=False)


def issue(response: httpx2.Response) -> dict[str, Any]:
    """The one issue of an OperationOutcome response."""
    assert response.headers["content-type"] == "application/fhir+json"
    body = response.json()
    assert body["resourceType"] == "OperationOutcome"
    (only,) = body["issue"]
    assert only["details"]["coding"][0]["system"] == ERROR.url
    return dict(only)


def tree(base: type[errors.FhirExtError]) -> list[type[errors.FhirExtError]]:
    return [base, *(kind for child in base.__subclasses__() for kind in tree(child))]


@pytest.mark.parametrize(
    "kind", [k for k in tree(errors.FhirExtError) if k.__module__ == errors.__name__]
)
def test_our_errors_have_status_code_and_sentence(
    client: TestClient, kind: type[errors.FhirExtError]
) -> None:
    response = client.get(f"/raise/{kind.__name__}")
    told = issue(response)
    assert response.status_code == kind.status
    assert told["severity"] == "error"
    assert told["code"] == kind.issue_type
    assert told["details"]["coding"][0]["code"] == kind.default_code
    assert kind.default_code in ERROR
    assert told["diagnostics"] == "a sentence for the caller"
    waits = issubclass(kind, errors.UpstreamError | errors.ThrottledError)
    assert ("retry-after" in response.headers) == waits
    asked = issubclass(kind, errors.UnauthorizedError)
    assert ("www-authenticate" in response.headers) == asked


def test_several_issues_keep_their_order() -> None:
    first = OutcomeIssue("invalid", "bad-request", "one")
    second = OutcomeIssue("processing", "unprocessable", "two", "warning")
    told = operation_outcome([first, second])["issue"]
    assert [item["diagnostics"] for item in told] == ["one", "two"]
    assert [item["severity"] for item in told] == ["error", "warning"]


def test_an_unexpected_error_is_an_incident_that_the_log_has_too(
    client: TestClient,
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SafeFormatter("serve", as_json=True))
    logger = logging.getLogger("fhir_ext.outcome")
    logger.addHandler(handler)
    try:
        response = client.get("/bug")
    finally:
        logger.removeHandler(handler)
    told = issue(response)
    line = json.loads(stream.getvalue())
    assert response.status_code == 500
    assert told["severity"] == "fatal"
    assert line["incident"] in told["diagnostics"]
    assert line["exception"]["type"] == "RuntimeError"
    assert "test_outcome.py" in line["exception"]["at"][-1]
    assert NAME not in response.text + stream.getvalue()
    assert response.headers["x-content-type-options"] == "nosniff"


def test_an_answer_that_breaks_off_is_not_completed() -> None:
    with pytest.raises(RuntimeError):
        TestClient(build_app()).get("/late-bug")


def test_invalid_parameters_are_named_but_not_echoed(client: TestClient) -> None:
    response = client.get("/number", params={"count": NAME})
    assert response.status_code == 400
    assert NAME not in response.text
    told = [item["diagnostics"] for item in response.json()["issue"]]
    assert told == ["query parameter count: int parsing", "header parameter token: missing"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (json.dumps({"number": 1, NAME: 2}), "body: extra forbidden"),
        (json.dumps({"number": NAME}), "body: int parsing"),
        (f'{{"number": {NAME}', "body: json invalid"),
    ],
)
def test_invalid_bodies_are_not_echoed(client: TestClient, body: str, told: str) -> None:
    headers = {"content-type": "application/json"}
    response = client.post("/model", content=body, headers=headers)
    assert response.status_code == 400
    assert NAME not in response.text
    assert issue(response)["diagnostics"] == told


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/{NAME}", 404, "not-found"),
        ("DELETE", "/number", 405, "not-supported"),
        ("GET", "/http/401", 401, "login"),
        ("GET", "/http/418", 418, "invalid"),
        ("GET", "/http/503", 503, "transient"),
    ],
)
def test_http_errors_have_our_words(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert issue(response)["code"] == code
    assert NAME not in response.text


def test_http_errors_keep_their_headers(client: TestClient) -> None:
    assert (client.get("/http/401")).headers["x-kept"] == "yes"
    assert (client.delete("/number")).headers["allow"] == "GET"


def test_security_headers_are_on_every_answer(client: TestClient) -> None:
    answers = [
        client.post("/bytes", content=b"x"),
        client.post("/bytes", content=b"x" * (LIMIT + 1)),
        client.get("/bug"),
        client.get("/nowhere"),
    ]
    assert [answer.status_code for answer in answers] == [200, 413, 500, 404]
    for answer in answers:
        assert {k: answer.headers.get(k) for k in SECURITY_HEADERS} == dict(SECURITY_HEADERS)


def test_a_response_may_set_its_own(client: TestClient) -> None:
    assert (client.get("/page")).headers["cache-control"] == "max-age=60"


def _pieces(count: int, size: int = 100) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_bodies_within_the_limit_pass(client: TestClient, size: int) -> None:
    response = client.post("/bytes", content=b"x" * size)
    assert (response.status_code, response.json()) == (200, size)


@pytest.mark.parametrize("path", ["/bytes", "/swallow", "/model"])
def test_a_long_body_without_a_declared_length_is_refused(client: TestClient, path: str) -> None:
    headers = {"content-type": "application/json"}
    response = client.post(path, content=_pieces(11), headers=headers)
    assert response.status_code == 413
    assert issue(response)["code"] == "too-costly"
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("declared", [LIMIT + 1, 10, None])
def test_the_rest_of_a_long_body_is_not_read(declared: int | None) -> None:
    """A declared length over the limit reads nothing; a wrong one or none, one piece too many."""
    read = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    length = [] if declared is None else [(b"content-length", str(declared).encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/bytes",
        "raw_path": b"/bytes",
        "query_string": b"",
        "headers": length,
        "http_version": "1.1",
        "scheme": "http",
    }
    asyncio.run(build_app()(scope, receive, send))
    assert read == (0 if declared == LIMIT + 1 else 11)
    assert [m["status"] for m in sent if m["type"] == "http.response.start"] == [413]


@pytest.fixture
def served() -> Iterator[str]:
    """The application in a real server; its base URL."""
    with serving(build_app()) as url:
        yield url


def test_a_real_client_that_sends_far_too_much_gets_the_answer(served: str) -> None:
    """50 MB: the server closes while the client still writes; the answer must be readable."""
    host, port = served.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /bytes HTTP/1.1\r\nHost: x\r\nContent-Length: {50_000_000}\r\n\r\n"
        connection.sendall(head.encode())
        try:
            for _ in range(500):
                connection.sendall(b"x" * 100_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("the server read all of it")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"OperationOutcome" in answer
