"""Opaque tokens: the issuer is asked, and its answer believed for a short time."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from pydantic import SecretStr
from token_issuer import AUDIENCE, TokenIssuer, running_issuer

from fhir_ext.auth.grant import Persona
from fhir_ext.auth.introspect import CONCURRENT, POSITIVE_LIFETIME, Introspector
from fhir_ext.auth.verify import TokenVerifier, build_verifier
from fhir_ext.errors import (
    SettingsError,
    UnauthorizedError,
    UpstreamUnavailable,
)
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import HttpAuth, OutgoingSettings

OPAQUE = "dGhlIHRva2Vu.YQ/+~=="
NOW = datetime(2026, 3, 5, 1, 30, tzinfo=UTC)


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with running_issuer() as running:
        running.introspection = active(running)
        yield running


def active(issuer: TokenIssuer, **changes: Any) -> dict[str, Any]:
    return {"active": True, **issuer.claims(**changes)}


def verifier(issuer: TokenIssuer, **changes: Any) -> TokenVerifier:
    password = SecretStr("not-a-real-one")
    auth = HttpAuth(kind="basic", username="gateway", password=password)
    given = {"introspection_url": f"{issuer.url}/introspect", "introspection_auth": auth}
    return issuer.verifier(**{**given, **changes})


def refusal(asking: TokenVerifier, token: str = OPAQUE) -> str:
    with pytest.raises(UnauthorizedError) as refused:
        asking.verify(token)
    assert asking.cached(token) is None
    return refused.value.code


def test_an_active_token_is_granted(issuer: TokenIssuer) -> None:
    asking = verifier(issuer)
    issuer.introspection = answer = active(issuer)
    grant = asking.verify(OPAQUE)
    assert grant.personas == {Persona.CLINICIAN}
    assert grant.expires_at == answer["exp"]
    assert asking.verify(OPAQUE) is grant
    assert issuer.forms == [{"token": OPAQUE, "token_type_hint": "access_token"}]
    basic = base64.b64encode(b"gateway:not-a-real-one").decode()
    assert issuer.authorizations == [f"Basic {basic}"]
    assert issuer.fetches == 0


@pytest.mark.parametrize("answer", [{"active": False}, {}, {"active": "true"}, {"active": 1}])
def test_a_token_that_is_not_active(issuer: TokenIssuer, answer: dict[str, Any]) -> None:
    issuer.introspection = {**issuer.claims(), "active": None, **answer}
    assert refusal(verifier(issuer)) == "invalid-token"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "https://other.example.org"}, "invalid-token"),
        ({"aud": "https://other.example.org/fhir"}, "invalid-token"),
        ({"exp": 1.0}, "expired-token"),
        ({"exp": "soon"}, "invalid-token"),
        ({"nbf": time.time() + 3600}, "invalid-token"),
        ({"client_id": None}, "invalid-token"),
        ({"fhirUser": None}, "no-persona"),
    ],
)
def test_what_is_answered_must_fit(issuer: TokenIssuer, changes: dict[str, Any], code: str) -> None:
    issuer.introspection = active(issuer, **changes)
    assert refusal(verifier(issuer)) == code


def test_what_is_optional_may_be_left_out(issuer: TokenIssuer) -> None:
    issuer.introspection = active(
        issuer, iss=None, aud=None, iat=None, sub=None, fhirUser=None, scope="system/*.rs"
    )
    grant = verifier(issuer).verify(OPAQUE)
    assert grant.subject == grant.client_id == "app-1"
    assert grant.personas == {Persona.SERVICE}


def test_an_answer_is_believed_for_a_short_time(issuer: TokenIssuer) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        issuer.introspection = active(issuer)
        asking = verifier(issuer)
        asking.verify(OPAQUE)
        clock.move_to(NOW + timedelta(seconds=POSITIVE_LIFETIME - 1))
        assert asking.cached(OPAQUE)
        clock.move_to(NOW + timedelta(seconds=POSITIVE_LIFETIME))
        assert asking.cached(OPAQUE) is None
        issuer.introspection = {"active": False}
        assert refusal(asking) == "invalid-token"
    assert issuer.asked["/introspect"] == 2


def test_an_answer_is_not_believed_longer_than_the_token(issuer: TokenIssuer) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        issuer.introspection = active(issuer, exp=NOW.timestamp() + 5)
        asking = verifier(issuer, leeway=timedelta(0))
        asking.verify(OPAQUE)
        clock.move_to(NOW + timedelta(seconds=5))
        assert asking.cached(OPAQUE) is None


def test_jwts_are_not_asked_about(issuer: TokenIssuer) -> None:
    asking = verifier(issuer)
    assert asking.verify(issuer.token())
    assert refusal(asking, "eyJhbGciOiJub25lIn0.e30.") == "invalid-token"
    assert refusal(asking, issuer.token()[:-8] + "AAAAAAAA") == "invalid-token"
    assert issuer.asked["/introspect"] == 0


def test_dots_do_not_make_a_jwt(issuer: TokenIssuer) -> None:
    assert verifier(issuer).verify("opaque.with.dots")
    assert issuer.asked["/introspect"] == 1


@pytest.mark.parametrize("token", ["", "a b", "a\r\nb", "ü", "a=b", "<x>", "x" * 20_000])
def test_malformed_tokens_are_not_asked_about(issuer: TokenIssuer, token: str) -> None:
    assert refusal(verifier(issuer), token) == "invalid-token"
    assert issuer.asked["/introspect"] == 0


def test_without_introspection_opaque_tokens_are_refused(issuer: TokenIssuer) -> None:
    assert refusal(issuer.verifier()) == "invalid-token"


@pytest.mark.parametrize("status", [401, 403, 500])
def test_an_issuer_that_does_not_answer_is_no_fault_of_the_caller(
    issuer: TokenIssuer, status: int
) -> None:
    issuer.status = status
    with pytest.raises(UpstreamUnavailable):
        verifier(issuer).verify(OPAQUE)


def test_refused_credentials_of_ours_are_no_fault_of_the_caller(issuer: TokenIssuer) -> None:
    issuer.status = 401
    auth = HttpAuth(
        kind="oauth2",
        username="gateway",
        password=SecretStr("not-a-real-one"),
        token_url=f"{issuer.url}/token",
    )
    with pytest.raises(UpstreamUnavailable):
        verifier(issuer, introspection_auth=auth).verify(OPAQUE)


def test_the_address_passes_the_guard(issuer: TokenIssuer) -> None:
    settings = issuer.settings(introspection_url=f"{issuer.url}/introspect")
    asking = build_verifier(settings, OutgoingSettings(), AUDIENCE)
    with pytest.raises(SettingsError):
        asking.verify(OPAQUE)
    assert issuer.asked["/introspect"] == 0
    with pytest.raises(SettingsError):
        Introspector(issuer.settings(), OutgoingGuard(OutgoingSettings()))


def test_few_questions_are_under_way_at_once(issuer: TokenIssuer) -> None:
    running, most = 0, 0
    counting = threading.Lock()
    answer = active(issuer)

    def slowly() -> dict[str, Any]:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with counting:
            running -= 1
        return answer

    issuer.introspection = slowly
    asking = verifier(issuer)
    with ThreadPoolExecutor(4 * CONCURRENT) as pool:
        assert all(pool.map(lambda n: asking.verify(f"opaque{n}"), range(4 * CONCURRENT)))
    assert 1 < most <= CONCURRENT
