"""The issuer's keys: rotation, floods, an issuer that is down, and keys that are none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from token_issuer import LOOPBACK, TokenIssuer, private_key, public_jwk, running_issuer

from fhir_ext.auth.issuer_document import IssuerDocument
from fhir_ext.auth.refreshed import GRACE, Refreshed
from fhir_ext.auth.verify import TokenVerifier, build_verifier
from fhir_ext.errors import (
    FhirExtError,
    SettingsError,
    UnauthorizedError,
    UpstreamError,
    UpstreamUnavailable,
)
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import OutgoingSettings

SHORT = timedelta(milliseconds=50)
SECOND_KEY = public_jwk(private_key("RS256", 1), "RS256", "second")


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with running_issuer() as running:
        yield running


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def code_of(verifier: TokenVerifier, token: str) -> str | None:
    try:
        verifier.verify(token)
    except FhirExtError as error:
        return error.code
    return None


def second(issuer: TokenIssuer, **more: Any) -> str:
    return issuer.token(key=private_key("RS256", 1), **{"kid": "second", **more})


def test_a_new_key_is_found_without_restart(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(jwks_cooldown=SHORT)
    verifier.verify(issuer.token())
    issuer.keys.append(SECOND_KEY)
    time.sleep(0.06)
    assert verifier.verify(second(issuer))
    assert verifier.verify(issuer.token())
    assert issuer.fetches == 2


def test_a_key_taken_out_ends_its_remembered_tokens(issuer: TokenIssuer) -> None:
    issuer.keys.append(SECOND_KEY)
    verifier = issuer.verifier(jwks_lifetime=SHORT, jwks_cooldown=SHORT)
    first, other = issuer.token(), second(issuer)
    verifier.verify(first)
    verifier.verify(other)
    issuer.keys.pop(0)
    eventually(lambda: verifier.cached(first) is None)
    assert code_of(verifier, first) == "unknown-key"
    assert verifier.verify(other)


def test_a_key_that_changes_under_its_name_ends_its_tokens(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(jwks_lifetime=SHORT, jwks_cooldown=SHORT)
    token = issuer.token()
    verifier.verify(token)
    issuer.keys = [{**SECOND_KEY, "kid": "first"}]
    eventually(lambda: verifier.cached(token) is None)
    assert code_of(verifier, token) == "invalid-token"


def test_a_key_that_is_added_ends_nothing(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(jwks_lifetime=SHORT, jwks_cooldown=SHORT)
    token = issuer.token()
    grant = verifier.verify(token)
    issuer.keys.append(SECOND_KEY)

    def refreshed_twice() -> bool:
        assert verifier.cached(token) is grant
        return issuer.fetches >= 3

    eventually(refreshed_twice)


def test_unknown_kids_from_many_threads_are_no_flood(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(jwks_cooldown=timedelta(seconds=30))
    verifier.verify(issuer.token())
    issuer.delay = 0.05
    tokens = [issuer.token(kid=f"unknown-{number}") for number in range(200)]
    with ThreadPoolExecutor(20) as pool:
        codes = set(pool.map(lambda token: code_of(verifier, token), tokens))
    assert codes == {"unknown-key"}
    assert issuer.fetches <= 2
    assert issuer.asked["/.well-known/openid-configuration"] == 1


def test_after_the_cooldown_many_threads_cause_one_fetch(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(jwks_cooldown=timedelta(seconds=1))
    verifier.verify(issuer.token())
    time.sleep(1.05)
    issuer.delay = 0.1
    start = threading.Barrier(20)

    def ask(number: int) -> str | None:
        token = issuer.token(kid=f"unknown-{number}")
        start.wait()
        return code_of(verifier, token)

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(ask, range(20))) == {"unknown-key"}
    assert issuer.fetches == 2


def test_many_threads_at_the_start_cause_one_fetch(issuer: TokenIssuer) -> None:
    issuer.delay = 0.05
    verifier = issuer.verifier()
    tokens = [issuer.token(issuer.claims(jti=str(number))) for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(verifier.verify, tokens))
    assert issuer.fetches == 1


def test_an_issuer_that_is_down_is_not_flooded(issuer: TokenIssuer) -> None:
    issuer.status = 503
    verifier = issuer.verifier(jwks_url=f"{issuer.url}/jwks")
    token = issuer.token()
    with ThreadPoolExecutor(20) as pool:
        codes = set(pool.map(lambda _: code_of(verifier, token), range(100)))
    assert codes == {"upstream-unavailable"}
    assert issuer.fetches == 1


def test_old_keys_stay_in_use_while_the_issuer_is_down(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(jwks_lifetime=SHORT, jwks_cooldown=SHORT)
    remembered = issuer.token()
    verifier.verify(remembered)
    issuer.status = 503
    time.sleep(0.06)
    fetches = issuer.fetches
    assert verifier.cached(remembered)
    assert verifier.verify(issuer.token(issuer.claims(jti="another")))
    eventually(lambda: issuer.fetches > fetches)
    # What cannot be known now is no fault of the caller.
    assert code_of(verifier, second(issuer)) == "upstream-unavailable"


def test_an_issuer_that_is_gone(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier()
    token = issuer.token()
    issuer.server_close()
    with pytest.raises(UpstreamUnavailable):
        verifier.verify(token)


@pytest.mark.parametrize(
    ("published", "code"),
    [
        ([public_jwk(private_key("RS256"), "RS256", "first")], None),
        ([public_jwk(private_key("RS256"), "RS256")], None),
        ([public_jwk(private_key("RS256"), "RS256", "a"), SECOND_KEY], "unknown-key"),
        ([public_jwk(private_key("RS256"), "RS256"), SECOND_KEY], "unknown-key"),
        (
            [
                public_jwk(private_key("RS256"), "RS256", "a"),
                public_jwk(private_key("ES256"), "ES256", "b"),
                public_jwk(private_key("RS256", 1), "RS256", "c", use="enc"),
            ],
            None,
        ),
    ],
    ids=["one", "one-unnamed", "several", "several-one-unnamed", "one-fits"],
)
def test_tokens_without_kid(
    issuer: TokenIssuer, published: list[dict[str, Any]], code: str | None
) -> None:
    issuer.keys = published
    assert code_of(issuer.verifier(), issuer.token(kid=None)) == code


GOOD = public_jwk(private_key("RS256"), "RS256", "first")
GOOD_EC = public_jwk(private_key("ES256"), "ES256", "first")


@pytest.mark.parametrize(
    ("algorithm", "published"),
    [
        ("RS256", {"kty": "oct", "k": "c2VjcmV0", "kid": "first"}),
        ("RS256", {**GOOD, "use": "enc"}),
        ("RS256", {**GOOD, "use": None}),
        ("RS256", {**GOOD, "key_ops": ["encrypt"]}),
        ("RS256", {**GOOD, "key_ops": "verify"}),
        ("RS256", {**GOOD, "d": GOOD["n"]}),
        ("RS256", {**GOOD, "alg": "PS256"}),
        ("RS256", {**GOOD, "kid": ["first"]}),
        ("RS256", {**GOOD, "n": ""}),
        ("RS256", {**GOOD, "n": GOOD["n"] + "!"}),
        ("RS256", {**GOOD, "n": 7}),
        ("RS256", {**GOOD, "e": "AA"}),
        ("RS256", {"kty": "RSA", "kid": "first"}),
        ("RS256", public_jwk(private_key("RS256", bits=1024), "RS256", "first")),
        ("ES256", {**GOOD_EC, "crv": "P-384"}),
        ("ES256", {**GOOD_EC, "x": GOOD_EC["y"]}),
        ("ES256", {**GOOD_EC, "crv": ["P-256"]}),
        ("RS256", "first"),
        ("RS256", None),
    ],
)
def test_what_is_no_public_key_for_signatures_is_ignored(
    issuer: TokenIssuer, algorithm: str, published: Any
) -> None:
    good = public_jwk(private_key("RS256", 1), "RS256", "second")
    issuer.keys = [published, good]
    verifier = issuer.verifier()
    assert code_of(verifier, issuer.token(algorithm=algorithm)) == "unknown-key"
    assert verifier.verify(second(issuer))


@pytest.mark.parametrize("answer", [None, [], {"keys": {}}, {}, {"keys": ["x" * 1_100_000]}])
def test_an_answer_that_is_no_key_set(issuer: TokenIssuer, answer: Any) -> None:
    issuer.pages["/jwks"] = lambda: answer
    with pytest.raises(UpstreamError):
        issuer.verifier().verify(issuer.token())


def test_the_document_of_another_issuer_is_refused(issuer: TokenIssuer) -> None:
    issuer.document["issuer"] = issuer.url + "/"
    with pytest.raises(SettingsError):
        issuer.verifier().verify(issuer.token())
    assert issuer.fetches == 0


def test_a_document_without_keys(issuer: TokenIssuer) -> None:
    del issuer.document["jwks_uri"]
    with pytest.raises(UpstreamUnavailable):
        issuer.verifier().verify(issuer.token())


def test_keys_of_the_settings_need_no_document(issuer: TokenIssuer) -> None:
    assert issuer.verifier(jwks_url=f"{issuer.url}/jwks").verify(issuer.token())
    assert set(issuer.asked) == {"/jwks"}


def test_addresses_pass_the_guard(issuer: TokenIssuer) -> None:
    closed = OutgoingSettings(plain_http=True)
    for settings in (issuer.settings(), issuer.settings(jwks_url=f"{issuer.url}/jwks")):
        verifier = build_verifier(settings, closed, "https://fhir.example.org/fhir")
        with pytest.raises(SettingsError):
            verifier.verify(issuer.token())
    assert not issuer.asked


def test_the_document_can_be_shared(issuer: TokenIssuer) -> None:
    document = IssuerDocument(OutgoingGuard(LOOPBACK), issuer.settings())
    assert document.peek() is None
    assert document.endpoint("jwks_uri") == f"{issuer.url}/jwks"
    assert document.peek() == issuer.document
    audience = str(issuer.claims()["aud"])
    build_verifier(issuer.settings(), LOOPBACK, audience, document).verify(issuer.token())
    assert issuer.asked["/.well-known/openid-configuration"] == 1


class Source:
    """A clock that is set by hand, and a server that can be down."""

    def __init__(self) -> None:
        self.now, self.calls, self.down = 0.0, 0, False
        self.kept = Refreshed(
            "test",
            self.fetch,
            lifetime=timedelta(seconds=600),
            cooldown=timedelta(seconds=10),
            clock=lambda: self.now,
        )

    def fetch(self) -> str:
        self.calls += 1
        if self.down:
            raise UpstreamUnavailable("down")
        return f"value {self.calls}"


def test_a_value_is_usable_for_its_lifetime_and_the_grace() -> None:
    source = Source()
    assert source.kept.peek() is None
    assert source.kept.get() == "value 1"
    source.down = True
    last = 600 + GRACE.total_seconds()
    for source.now in (599.0, 600.0, last - 1):
        assert source.kept.get() == "value 1"
        time.sleep(0.02)
    source.now = last + 100
    assert source.kept.peek() is None
    with pytest.raises(UpstreamUnavailable):
        source.kept.get()
    source.down = False
    source.now += 10
    assert source.kept.get().startswith("value")
    assert source.kept.peek()


def test_an_old_value_is_handed_out_while_a_new_one_is_fetched() -> None:
    source = Source()
    source.kept.get()
    source.now = 600.0
    assert source.kept.peek() == "value 1"
    eventually(lambda: source.kept.peek() == "value 2")
    assert source.calls == 2


def test_errors_are_repeated_during_the_cooldown() -> None:
    source = Source()
    source.down = True
    for source.now in (0.0, 1.0, 9.9):
        with pytest.raises(UpstreamUnavailable):
            source.kept.get()
    assert source.calls == 1
    source.down, source.now = False, 10.0
    assert source.kept.get() == "value 2"


def test_another_value_is_asked_for_no_sooner_than_the_cooldown_allows() -> None:
    source = Source()
    seen = source.kept.get()
    assert source.kept.other_than(seen) is seen
    source.now = 10.0
    newer = source.kept.other_than(seen)
    assert newer == "value 2"
    assert source.kept.other_than(seen) == newer
    assert source.calls == 2
    source.down, source.now = True, 30.0
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            source.kept.other_than(newer)
    assert source.calls == 3
    assert source.kept.get() == newer


def test_unknown_key_is_the_callers_fault(issuer: TokenIssuer) -> None:
    with pytest.raises(UnauthorizedError):
        issuer.verifier().verify(issuer.token(kid="unknown"))
