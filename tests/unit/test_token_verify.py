"""What a token must be to be believed: real signatures, a real key server."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from cryptography.hazmat.primitives import serialization
from token_issuer import AUDIENCE, TokenIssuer, private_key, public_jwk, running_issuer

from fhir_ext.auth.grant import Persona
from fhir_ext.auth.verify import LONGEST_TOKEN, TokenVerifier
from fhir_ext.errors import SettingsError, UnauthorizedError

NOW = datetime(2026, 3, 5, 1, 30, tzinfo=UTC)
LEEWAY = 10


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def verifier(issuer: TokenIssuer) -> TokenVerifier:
    return issuer.verifier()


def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(UnauthorizedError) as refused:
        verifier.verify(token)
    assert verifier.cached(token) is None
    return refused.value.code


def b64(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hmac_token(secret: bytes, claims: dict[str, Any], algorithm: str = "HS256") -> str:
    signed = f"{b64({'alg': algorithm, 'typ': 'JWT', 'kid': 'first'})}.{b64(claims)}"
    digest = hmac.new(secret, signed.encode(), "sha256").digest()
    return f"{signed}.{b64(digest)}"


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "ES256", "ES384"])
def test_a_good_token_is_granted_and_remembered(issuer: TokenIssuer, algorithm: str) -> None:
    issuer.keys = [public_jwk(private_key(algorithm), algorithm, "first", use="sig")]
    verifier = issuer.verifier()
    token = issuer.token(algorithm=algorithm)
    assert verifier.cached(token) is None
    grant = verifier.verify(token)
    assert grant.subject == "user-1"
    assert grant.client_id == "app-1"
    assert grant.personas == {Persona.CLINICIAN}
    assert verifier.cached(token) is grant
    assert verifier.verify(token) is grant
    assert issuer.fetches == 1


@pytest.mark.parametrize("algorithm", ["RS512", "PS256", "ES512", "HS256", "none", "rs256", ""])
def test_other_algorithms_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer, algorithm: str
) -> None:
    good = issuer.token().split(".")
    header = b64({"alg": algorithm, "kid": "first"})
    assert refusal(verifier, ".".join((header, good[1], good[2]))) == "invalid-token"
    assert issuer.fetches == 0


@pytest.mark.parametrize("algorithm", ["RS512", "ES512"])
def test_well_signed_tokens_of_other_algorithms_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer, algorithm: str
) -> None:
    issuer.keys = [public_jwk(private_key(algorithm), algorithm, "first")]
    assert refusal(verifier, issuer.token(algorithm=algorithm)) == "invalid-token"


@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_unsigned_tokens_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer, signature: str
) -> None:
    for algorithm in ("none", "None", "NONE"):
        token = f"{b64({'alg': algorithm})}.{b64(issuer.claims())}.{signature}"
        assert refusal(verifier, token) == "invalid-token"
    signed = issuer.token().rsplit(".", 1)[0]
    assert refusal(verifier, f"{signed}.{signature}") == "invalid-token"


def test_a_public_key_is_no_hmac_secret(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    public = private_key("RS256").public_key()
    secrets = [
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]
    secrets += [json.dumps(issuer.keys[0]).encode(), issuer.keys[0]["n"].encode()]
    for secret in secrets:
        # As HMAC, and as HMAC that claims to be RSA.
        for algorithm in ("HS256", "RS256"):
            token = hmac_token(secret, issuer.claims(), algorithm)
            assert refusal(verifier, token) == "invalid-token"


@pytest.mark.parametrize(
    ("signs_as", "published"), [("ES256", "RS256"), ("RS256", "ES256"), ("ES256", "ES384")]
)
def test_a_key_serves_its_own_algorithms_only(
    verifier: TokenVerifier, issuer: TokenIssuer, signs_as: str, published: str
) -> None:
    issuer.keys = [public_jwk(private_key(published), published, "first")]
    assert refusal(verifier, issuer.token(algorithm=signs_as)) == "unknown-key"


def test_a_key_made_for_one_algorithm_serves_no_other(issuer: TokenIssuer) -> None:
    issuer.keys = [public_jwk(private_key("RS256"), "RS256", "first", alg="RS384")]
    verifier = issuer.verifier()
    assert refusal(verifier, issuer.token()) == "unknown-key"
    assert verifier.verify(issuer.token(algorithm="RS384", key=private_key("RS256")))


def test_signatures_of_others_and_changed_claims_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer
) -> None:
    assert refusal(verifier, issuer.token(key=private_key("RS256", 1))) == "invalid-token"
    head, _, signature = issuer.token().split(".")
    changed = b64(issuer.claims(scope="system/*.cruds"))
    assert refusal(verifier, f"{head}.{changed}.{signature}") == "invalid-token"
    embedded = public_jwk(private_key("RS256", 1), "RS256")
    token = issuer.token(key=private_key("RS256", 1), headers={"jwk": embedded})
    assert refusal(verifier, token) == "invalid-token"


@pytest.mark.parametrize(
    "headers",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"typ": "dpop+jwt"},
        {"typ": "logout+jwt"},
        {"typ": ["JWT"]},
        {"kid": 7},
        {"kid": ["first"]},
        {"alg": ["RS256"]},
    ],
)
def test_headers_that_are_not_understood_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer, headers: dict[str, Any]
) -> None:
    good = issuer.token().split(".")
    header = {"alg": "RS256", "kid": "first", "typ": "JWT", **headers}
    token = ".".join((b64(header), *good[1:]))
    assert refusal(verifier, token) == "invalid-token"
    if "alg" not in headers and "kid" not in headers:
        assert refusal(verifier, issuer.token(headers=headers)) == "invalid-token"


def test_type_of_access_tokens_is_accepted(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    assert verifier.verify(issuer.token(headers={"typ": "at+JWT"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": None},
        {"iss": "https://other.example.org"},
        {"aud": None},
        {"aud": "https://other.example.org/fhir"},
        {"aud": AUDIENCE + "/"},
        {"aud": []},
        {"aud": ["app-1"]},
        {"aud": {AUDIENCE: 1}},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": True},
        {"iat": None},
        {"iat": "now"},
        {"nbf": "later"},
        {"sub": None},
        {"sub": ""},
        {"client_id": None},
        {"patient": "../1"},
    ],
)
def test_claims_that_do_not_fit_are_refused(
    verifier: TokenVerifier, issuer: TokenIssuer, changes: dict[str, Any]
) -> None:
    assert refusal(verifier, issuer.token(issuer.claims(**changes))) == "invalid-token"


def test_iss_must_be_equal_not_similar(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    for similar in (issuer.url + "/", issuer.url.upper(), issuer.url + "/realms/other"):
        assert refusal(verifier, issuer.token(issuer.claims(iss=similar))) == "invalid-token"


def test_one_of_several_audiences_may_be_us(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    assert verifier.verify(issuer.token(issuer.claims(aud=["account", AUDIENCE])))


def test_the_audience_of_the_settings_comes_first(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(audience="gateway")
    assert refusal(verifier, issuer.token()) == "invalid-token"
    assert verifier.verify(issuer.token(issuer.claims(aud="gateway")))


def _at(seconds: float) -> float:
    return NOW.timestamp() + seconds


@pytest.mark.parametrize(
    ("times", "code"),
    [
        ({"exp": _at(-LEEWAY + 1)}, None),
        ({"exp": _at(-LEEWAY)}, "expired-token"),
        ({"exp": _at(60), "nbf": _at(LEEWAY)}, None),
        ({"exp": _at(60), "nbf": _at(LEEWAY + 1)}, "invalid-token"),
        ({"exp": _at(60), "iat": _at(LEEWAY)}, None),
        ({"exp": _at(60), "iat": _at(LEEWAY + 1)}, "invalid-token"),
        ({"exp": _at(60), "iat": _at(LEEWAY + 1), "nbf": _at(0)}, "invalid-token"),
        ({"exp": int(_at(60)), "iat": int(_at(0))}, None),
    ],
)
def test_times_at_their_edges(
    issuer: TokenIssuer, times: dict[str, float], code: str | None
) -> None:
    with time_machine.travel(NOW, tick=False):
        verifier = issuer.verifier(leeway=timedelta(seconds=LEEWAY))
        token = issuer.token(issuer.claims(**times))
        if code is None:
            assert verifier.verify(token)
        else:
            assert refusal(verifier, token) == code


def test_a_remembered_token_ends_when_it_expires(issuer: TokenIssuer) -> None:
    verifier = issuer.verifier(leeway=timedelta(0))
    with time_machine.travel(NOW, tick=False) as clock:
        token = issuer.token(issuer.claims(exp=_at(30)))
        verifier.verify(token)
        clock.move_to(NOW + timedelta(seconds=29))
        assert verifier.cached(token)
        clock.move_to(NOW + timedelta(seconds=30))
        assert refusal(verifier, token) == "expired-token"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "opaque",
        "a.b.c",
        "a.b.c.d.e",
        "..",
        "é.é.é",
        f"{b64([])}.{b64({})}.AA",
        f"{b64({'kid': 'first'})}.{b64({})}.AA",
        f"{b64(b'[' * 3000 + b']' * 3000)}.{b64({})}.AA",
        b64(b'{"alg":"RS256","kid":"first","x":' + b"[" * 990 + b"]" * 990 + b"}") + ".e30.AA",
        f"{b64({'alg': 'RS256', 'kid': 'first'})}.{b64({})}.A",
        f"{b64({'alg': 'RS256', 'kid': 'first'})}.A.AA",
        f"{b64({'alg': 'RS256', 'kid': 'first'})} .{b64({})}.AA",
    ],
)
def test_nonsense_is_refused(verifier: TokenVerifier, token: str) -> None:
    assert refusal(verifier, token) == "invalid-token"


def test_a_payload_that_is_no_claims_is_refused(
    verifier: TokenVerifier, issuer: TokenIssuer
) -> None:
    from jose import jws

    for payload in (b"[]", b"1", b"not json", b"[" * 4000):
        token = jws.sign(payload, private_key("RS256"), headers={"kid": "first"}, algorithm="RS256")
        assert refusal(verifier, token) == "invalid-token"


def test_long_tokens_are_not_looked_at(verifier: TokenVerifier, issuer: TokenIssuer) -> None:
    token = issuer.token(issuer.claims(padding="x" * LONGEST_TOKEN))
    assert refusal(verifier, token) == "invalid-token"
    assert issuer.fetches == 0


def test_the_oldest_token_is_forgotten_first(issuer: TokenIssuer) -> None:
    from fhir_ext.auth.cache import Entry, GrantCache

    grant = issuer.verifier().verify(issuer.token())
    cache = GrantCache(capacity=2)
    for name in (b"a", b"b"):
        cache.put(name, Entry(grant, 0.0, None))
    assert cache.get(b"a")
    cache.put(b"c", Entry(grant, 0.0, None))
    assert [name for name in (b"a", b"b", b"c") if cache.get(name)] == [b"a", b"c"]


def test_without_issuer_there_is_no_verifier(issuer: TokenIssuer) -> None:
    with pytest.raises(SettingsError):
        issuer.verifier(issuer=None)
    with pytest.raises(SettingsError):
        issuer.verifier(roles={"nurse": "wizard"})
