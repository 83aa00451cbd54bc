"""Pieces of the gateway that hold against floods and odd input."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant
from fhir_ext.errors import BadRequestError, ThrottledError
from fhir_ext.gateway.door import Door, DoorParts
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.links import Links
from fhir_ext.gateway.policy import Policy
from fhir_ext.gateway.references import condition_of_create
from fhir_ext.gateway.throttle import Flooded, Throttle
from fhir_ext.gateway.upstream import Upstream
from fhir_ext.settings import FhirSettings, GatewaySettings


def test_only_the_first_refusal_of_a_flood_is_told_apart() -> None:
    throttle = Throttle(per_minute=60, burst=1)
    throttle.take("a", now=0.0)
    with pytest.raises(ThrottledError) as first:
        throttle.take("a", now=0.1)
    assert not isinstance(first.value, Flooded)
    for _ in range(3):
        with pytest.raises(Flooded):
            throttle.take("a", now=0.2)
    throttle.take("a", now=2.0)
    with pytest.raises(ThrottledError) as again:
        throttle.take("a", now=2.1)
    assert not isinstance(again.value, Flooded)


@pytest.mark.parametrize("text", ["123456789012345678901234567890", "-1", "1.50", "1e5", "7E-9"])
def test_numbers_stay_as_they_stand(text: str) -> None:
    assert dumps(loads_exact(f'{{"a":{text}}}'.encode())).decode() == f'{{"a":{text}}}'


@pytest.mark.parametrize("text", ["1e101", "1E-99999999999", "1.0e999999999"])
def test_numbers_that_nobody_can_write_out(text: str) -> None:
    with pytest.raises(BadRequestError):
        loads_exact(f'{{"a":{text}}}'.encode())


def test_deep_json_is_an_error_of_the_caller() -> None:
    value = loads_exact(b"[" * 900 + b"]" * 900)
    Links("http://a/fhir", "http://b/fhir", b"x").relativize(value)
    with pytest.raises(BadRequestError):
        dumps(value)
    with pytest.raises(BadRequestError):
        dumps(["\ud800"])


@pytest.mark.parametrize(
    "text",
    [
        "identifier=a%7Cb",
        "?identifier=a|b",
        "Condition?identifier=a|b",
        "x/Condition?identifier=a|b",
    ],
)
def test_condition_of_create(text: str) -> None:
    assert condition_of_create(text, "Condition") == (("identifier", "a|b"),)


@pytest.mark.parametrize("text", ["", "?", "Patient?name=x", "/fhir/Patient?name=x"])
def test_conditions_of_create_that_are_none(text: str) -> None:
    with pytest.raises(BadRequestError):
        condition_of_create(text, "Condition")


def _floods(times: int, **headers: str) -> tuple[list[int], list[AccessRecord]]:
    """Statuses of requests without a token from one address, and what was noted of them."""
    statuses: list[int] = []
    noted: list[AccessRecord] = []

    def refuse(_token: str) -> Grant:
        raise AssertionError("there is no token")

    async def nothing(*_: object) -> Any:
        raise AssertionError("nobody got so far")

    parts = DoorParts(
        authenticate=lambda _token: None,
        verify=refuse,
        note=noted.append,
        ready=lambda: None,
        operations={},
        inner=nothing,
        public=nothing,
        check_address=lambda _address: None,
    )
    door = Door(
        GatewaySettings(requests_per_minute=1, burst=5),
        1000,
        Upstream(FhirSettings(), 1),
        Links("http://a/fhir", "http://b/fhir", b"x"),
        Policy.load(),
        parts,
    )
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/fhir/Patient/1",
        "raw_path": b"/fhir/Patient/1",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.1", 4711),
    }

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def all_of_them() -> None:
        for _ in range(times):
            await door(dict(scope), nothing, send)

    asyncio.run(all_of_them())
    return statuses, noted


@pytest.mark.parametrize("headers", [{}, {"x-http-method-override": "DELETE"}], ids=str)
def test_a_flood_without_tokens_does_not_flood_the_audit(headers: dict[str, str]) -> None:
    statuses, noted = _floods(50, **headers)
    assert statuses == [401] * 5 + [429] * 45
    assert [record.http_status for record in noted] == [401] * 5 + [429]
