"""HTTP of `$review`, `$claim` and `$release`: who may call, and what the headers mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from result_samples import result
from review_samples import MemoryFhir, Queue, parameters, stored, task_of
from starlette.types import Receive, Scope, Send

from fhir_ext.auth.grant import Grant, Persona
from fhir_ext.gateway.access import SCOPE_KEY, Access
from fhir_ext.gateway.interaction import Interaction, Kind
from fhir_ext.outcome import install_error_handlers
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.routes import review_router
from operations.review.service import ReviewService

OF = result()
TASK = task_of(OF)


class Caller:
    """A client whose token is what the test says."""

    def __init__(self, fhir: MemoryFhir) -> None:
        self.fhir, self.personas = fhir, frozenset({Persona.RADIOLOGIST})
        self.types: Callable[[str, str], bool] = lambda _letter, _kind: True
        self.patients: Callable[[str], bool] = lambda _patient: True
        self.access: Access | None = None
        inner = FastAPI()
        install_error_handlers(inner)
        inner.include_router(review_router(ReviewService(fhir, Queue(), Registry(), Metrics())))

        async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
            grant = Grant("sub-ann", "app", self.personas, (), 0.0, fhir_user="Practitioner/ann")
            self.access = Access(
                grant, Interaction(Kind.OPERATION, "POST"), "r-1", self.types, self.patients
            )
            await inner({**scope, SCOPE_KEY: self.access}, receive, send)

        self.http = TestClient(mounted)

    def post(self, operation: str, body: Any = None, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body) if body else b""
        return self.http.post(f"/Task/{TASK}/${operation}", content=content, headers=headers)


@pytest.fixture
def caller() -> Caller:
    return Caller(stored(OF))


def code(response: Any) -> str:
    found: str = response.json()["issue"][0]["details"]["coding"][0]["code"]
    return found


def test_the_reviewer_is_who_the_token_names(caller: Caller) -> None:
    answer = caller.post("review", parameters("accept"), **{"If-Match": 'W/"1"'})
    assert answer.status_code == 200
    assert answer.headers["etag"] == 'W/"2"'
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.json()["owner"] == {"reference": "Practitioner/ann"}
    assert caller.access is not None
    assert caller.access.seen == {"example"}, "the audit names the patient"


@pytest.mark.parametrize(
    ("header", "status", "error"),
    [
        (None, 428, "if-match-missing"),
        ('W/"2"', 412, "version-mismatch"),
        ("*", 400, "bad-request"),
        ('W/"1", W/"2"', 400, "bad-request"),
        ("1", 400, "bad-request"),
        ('"1"', 200, ""),
    ],
)
def test_the_version_in_the_header(
    caller: Caller, header: str | None, status: int, error: str
) -> None:
    headers = {} if header is None else {"If-Match": header}
    answer = caller.post("review", parameters("accept"), **headers)
    assert answer.status_code == status
    assert status == 200 or code(answer) == error


@pytest.mark.parametrize(
    "body", [b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b"<Parameters/>"]
)
def test_what_is_no_json_is_refused(caller: Caller, body: bytes) -> None:
    for operation in ("review", "claim", "release"):
        assert caller.post(operation, body, **{"If-Match": 'W/"1"'}).status_code == 400


MAY = {
    "review": {Persona.RADIOLOGIST},
    "claim": {Persona.RADIOLOGIST, Persona.COORDINATOR},
    "release": {Persona.RADIOLOGIST, Persona.COORDINATOR, Persona.ADMINISTRATOR},
}


@pytest.mark.parametrize("operation", MAY)
@pytest.mark.parametrize("persona", Persona)
def test_the_role_decides(caller: Caller, operation: str, persona: Persona) -> None:
    caller.personas = frozenset({persona})
    body = parameters("accept") if operation == "review" else None
    answer = caller.post(operation, body, **{"If-Match": 'W/"1"'})
    assert answer.status_code == (200 if persona in MAY[operation] else 403)
    if answer.status_code == 403:
        assert code(answer) == "persona"


@pytest.mark.parametrize("operation", MAY)
def test_scope_and_patient_are_checked(caller: Caller, operation: str) -> None:
    body = parameters("accept") if operation == "review" else None
    caller.types = lambda letter, kind: (letter, kind) != ("u", "Task")
    assert code(caller.post(operation, body, **{"If-Match": 'W/"1"'})) == "scope"
    caller.types = lambda _letter, _kind: True
    caller.patients = lambda patient: patient != "example"
    assert code(caller.post(operation, body, **{"If-Match": 'W/"1"'})) == "confinement"
    assert len(caller.fhir.store[f"Task/{TASK}"]) == 1


def test_operations_without_parameters_refuse_some(caller: Caller) -> None:
    for operation in ("claim", "release"):
        assert code(caller.post(operation, parameters("accept"))) == "review-parameter"


def test_an_id_that_is_none_is_refused(caller: Caller) -> None:
    answer = caller.http.post("/Task/a%20b/$review", headers={"If-Match": 'W/"1"'})
    assert answer.status_code == 400
