"""The gateway's small parts: links, throttle, bodies, exact JSON, CORS, capabilities."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.auth.grant import Grant, Persona, SmartScope
from fhir_ext.errors import BadRequestError, CallerError, ForbiddenError, ThrottledError
from fhir_ext.gateway.answers import patients_in
from fhir_ext.gateway.asgi import Answer, Disconnected, RequestTimeout, read_body, request_of
from fhir_ext.gateway.capability import merged_capabilities
from fhir_ext.gateway.cors import Cors
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.links import SIGNATURE, Links, StreamRewriter
from fhir_ext.gateway.paths import parse_params
from fhir_ext.gateway.throttle import Throttle

LINKS = Links("http://hapi:8080/fhir", "https://public.example.org/fhir", b"s" * 32)


def grant(**changes: Any) -> Grant:
    values: dict[str, Any] = {
        "subject": "someone",
        "client_id": "app",
        "personas": frozenset({Persona.SERVICE}),
        "scopes": (SmartScope("system", "*", frozenset("rs")),),
        "expires_at": 2e9,
    }
    return Grant(**{**values, **changes})


def test_addresses_are_rewritten_both_ways_and_texts_are_not() -> None:
    body = (
        b'{"a":"http://hapi:8080/fhir/Patient/1","b":"http://hapi:8080/fhir?x","c":"see '
        b'http://hapi:8080/fhir/x","d":"http://hapi:8080/fhirother","e":"http://hapi:8080/fhir"}'
    )
    out = LINKS.outward(body)
    assert out == (
        b'{"a":"https://public.example.org/fhir/Patient/1",'
        b'"b":"https://public.example.org/fhir?x","c":"see http://hapi:8080/fhir/x",'
        b'"d":"http://hapi:8080/fhirother","e":"https://public.example.org/fhir"}'
    )
    assert LINKS.inward(out) == body


def test_a_header_is_rewritten_only_when_it_is_ours() -> None:
    assert LINKS.outward_text("http://hapi:8080/fhir/Patient/1").startswith("https://public")
    assert LINKS.outward_text("http://hapi:8080/fhirx/1") == "http://hapi:8080/fhirx/1"
    assert LINKS.outward_text("Patient/1") == "Patient/1"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("Patient/1", "/Patient/1"),
        ("/Patient/1", "/Patient/1"),
        ("https://public.example.org/fhir/Patient/1", "/Patient/1"),
        ("https://public.example.org/fhir", "/"),
        ("http://hapi:8080/fhir/Patient?x=http://y", "/Patient?x=http://y"),
        ("https://elsewhere.example.org/fhir/Patient/1", None),
        ("https://public.example.org/fhirx/Patient/1", None),
        ("//elsewhere/Patient/1", None),
    ],
)
def test_only_own_addresses_are_local(address: str, path: str | None) -> None:
    assert LINKS.local_path(address) == path


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_a_stream_is_rewritten_however_it_is_cut(sizes: list[int]) -> None:
    text = b'{"x":"http://hapi:8080/fhir/Patient/1","n":12,"t":"a \\"http://hapi:8080/fhir/b"}' * 9
    rewriter = StreamRewriter(LINKS, grant())
    out, at, turn = b"", 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        out += rewriter.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    assert out + rewriter.end() == LINKS.outward(text)


def test_a_page_link_holds_for_the_grant_that_searched() -> None:
    body = b'{"url":"http://hapi:8080/fhir?_getpages=ab-1&_getpagesoffset=20&_count=20"}'
    signed = LINKS.sign_pages(body, grant()).decode()
    query = signed.partition("?")[2].rstrip('"}')
    params = parse_params(query)
    assert [name for name, _ in params].count(SIGNATURE) == 1
    rest = parse_params("_getpages=ab-1&_getpagesoffset=20&_count=20")
    assert LINKS.check_page(params, grant()) == (rest, "")
    # The type that a restricted scope searched is part of what is signed.
    restricted = LINKS.sign_pages(body, grant(), "Task").decode().partition("?")[2].rstrip('"}')
    assert LINKS.check_page(parse_params(restricted), grant()) == (rest, "Task")
    for forged in (restricted.replace("=Task", "="), query.replace("_fx-page=", "_fx-page=Task")):
        with pytest.raises(ForbiddenError):
            LINKS.check_page(parse_params(forged), grant())
    # A refreshed token is the same grant.
    LINKS.check_page(params, grant(expires_at=3e9))
    for other in (
        grant(subject="other"),
        grant(client_id="other"),
        grant(patient="p"),
        grant(programs=frozenset({"g"})),
        grant(scopes=()),
    ):
        with pytest.raises(ForbiddenError):
            LINKS.check_page(params, other)


@pytest.mark.parametrize(
    "query", ["_getpages=a", "_getpages=a&_fx-page=b", "_getpages=a&_getpages=b&_fx-page=c"]
)
def test_a_page_without_its_signature_is_refused(query: str) -> None:
    with pytest.raises(ForbiddenError):
        LINKS.check_page(parse_params(query), grant())


def test_the_throttle_lets_a_burst_through_and_then_the_rate() -> None:
    throttle = Throttle(per_minute=60, burst=3)
    for _ in range(3):
        throttle.take("a", now=100.0)
    with pytest.raises(ThrottledError) as caught:
        throttle.take("a", now=100.0)
    assert caught.value.retry_after == 1
    throttle.take("b", now=100.0)
    throttle.take("a", now=101.0)
    with pytest.raises(ThrottledError):
        throttle.take("a", now=101.5)


def _receive(messages: Sequence[dict[str, Any]]) -> Any:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(60)
        return waiting.pop(0)

    return receive


def body_of(pieces: Sequence[bytes], most: int = 100, encoding: str = "") -> bytes:
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    return asyncio.run(read_body(_receive(messages), most, 0.2, encoding))


def test_a_body_is_read_in_pieces_and_unzipped() -> None:
    assert body_of([b"ab", b"", b"c"]) == b"abc"
    assert body_of([gzip.compress(b"x" * 90)], encoding="gzip") == b"x" * 90


@pytest.mark.parametrize(
    ("pieces", "encoding", "status"),
    [
        ([b"x" * 60, b"x" * 60], "", 413),
        ([gzip.compress(b"x" * 1_000_000)], "gzip", 413),
        ([b"not gzip"], "gzip", 400),
        ([gzip.compress(b"x" * 50)[:-4]], "gzip", 400),
        ([b"x"], "br", 400),
    ],
)
def test_a_bad_body_is_refused(pieces: list[bytes], encoding: str, status: int) -> None:
    with pytest.raises(CallerError) as caught:
        body_of(pieces, encoding=encoding)
    assert caught.value.status == status


def test_a_slow_or_gone_caller_ends() -> None:
    slow = _receive([{"type": "http.request", "body": b"a", "more_body": True}])
    with pytest.raises(RequestTimeout):
        asyncio.run(read_body(slow, 10, 0.05))
    with pytest.raises(Disconnected):
        asyncio.run(read_body(_receive([{"type": "http.disconnect"}]), 10, 0.05))


def test_numbers_stay_as_they_stood() -> None:
    body = '{"a":1.50,"b":[0.10,1e-7,12],"c":"ü","d":-0.0}'.encode()
    assert dumps(loads_exact(body)) == body
    assert dumps(loads_exact(b'{"a":1,"a":2}')) == b'{"a":2}'
    for bad in (b"", b"{", b"[NaN]", b'{"a":Infinity}', b"\xff", b"[" * 100_000):
        with pytest.raises(BadRequestError):
            loads_exact(bad)


def test_patients_are_found_without_parsing() -> None:
    body = (
        b'{"resourceType":"Patient","id":"a"}{"reference":"Patient/b"}'
        b'{"reference": "Patient/c/_history/2"}"Practitioner/d"'
        b'<Patient xmlns="http://hl7.org/fhir"><id value="e"/></Patient>'
        b'<reference value="Patient/f"/>'
    )
    assert patients_in(body) == frozenset("abcef")


def scope_of(**changes: Any) -> dict[str, Any]:
    base = {
        "type": "http",
        "method": "GET",
        "path": "/fhir/Patient/1",
        "raw_path": b"/fhir/Patient/1",
        "query_string": b"a=b",
        "headers": [(b"origin", b"https://app.example.org")],
        "client": ("127.0.0.1", 1),
    }
    return {**base, **changes}


def test_a_request_is_read_from_its_scope() -> None:
    request = request_of(scope_of(), "/fhir")
    assert (request.path, request.query, request.address) == ("/Patient/1", "a=b", "127.0.0.1")
    twice = request_of(scope_of(headers=[(b"a", b"1"), (b"a", b"2")]), "/fhir")
    assert twice.repeated == {"a"}
    with pytest.raises(BadRequestError):
        request_of(scope_of(raw_path=b"/fhir/\xc3\xbc"), "/fhir")


def test_cors_names_only_allowed_origins() -> None:
    cors = Cors(["https://app.example.org"])
    request = request_of(scope_of(), "/fhir")
    assert (b"access-control-allow-origin", b"https://app.example.org") in cors.headers(request)
    stranger = request_of(scope_of(headers=[(b"origin", b"https://evil.example.org")]), "/fhir")
    assert cors.headers(stranger) == [(b"vary", b"origin")]
    assert cors.preflight(stranger) == []
    assert Cors(()).headers(request) == []


def test_a_long_answer_is_compressed_for_who_takes_it() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Answer(send, [], True).whole(200, [], b"x" * 5000))
    head = dict(sent[0]["headers"])
    assert head[b"content-encoding"] == b"gzip"
    assert gzip.decompress(sent[1]["body"]) == b"x" * 5000
    assert int(head[b"content-length"]) == len(sent[1]["body"])


def test_a_caller_that_does_not_read_is_left() -> None:
    async def send(_message: Any) -> None:
        await asyncio.sleep(5)

    with pytest.raises(Disconnected):
        asyncio.run(Answer(send, [], False, patience=0.01).begin(200, []))


def test_capabilities_are_added_and_nothing_is_dropped() -> None:
    upstream = {
        "resourceType": "CapabilityStatement",
        "implementation": {"description": "HAPI FHIR", "url": "http://hapi:8080/fhir"},
        "rest": [
            {
                "mode": "server",
                "interaction": [{"code": "transaction"}],
                "resource": [
                    {"type": "Patient", "operation": [{"name": "everything", "definition": "d"}]}
                ],
            }
        ],
    }
    definition = {"code": "risk-score", "url": "u", "resource": ["Patient", "RiskAssessment"]}
    endpoints = {"token_endpoint": "https://issuer.example.org/token"}
    merged = merged_capabilities(upstream, LINKS.public, [definition], endpoints, "1.0")
    (server,) = merged["rest"]
    assert server["interaction"] == [{"code": "transaction"}]
    operations = {item["type"]: item["operation"] for item in server["resource"]}
    assert {"name": "everything", "definition": "d"} in operations["Patient"]
    ours = {"name": "risk-score", "definition": "u"}
    assert ours in operations["Patient"]
    assert operations["RiskAssessment"] == [ours]
    assert merged["implementation"]["url"] == LINKS.public
    assert server["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    assert "implementation" in upstream and "security" not in upstream["rest"][0]
