"""The development issuer over real HTTP: backend services, keys, and who may reach it."""

from __future__ import annotations

import base64
import json
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from joserfc import jwk, jwt
from oauth_flows import (
    FlowRefused,
    backend_token,
    login,
    refresh,
    register_backend,
    running_issuer,
)

from fhir_ext.auth.grant import Persona
from fhir_ext.auth.verify import TokenVerifier, build_verifier
from fhir_ext.embedded.process import free_port
from fhir_ext.errors import UnauthorizedError
from fhir_ext.issuer import flows
from fhir_ext.settings import AuthSettings, OutgoingSettings

FHIR_BASE = "http://127.0.0.1:8000/fhir"
LOOPBACK = OutgoingSettings(private_networks=True, plain_http=True)


@dataclass(frozen=True)
class Issuer:
    url: str
    key: jwk.ECKey

    def token_error(self, **claims: object) -> str:
        """Error code for an assertion with these claims."""
        assertion = flows.assertion(self.url, "demo-backend", self.key, **claims)
        return self.assertion_error(assertion)

    def assertion_error(self, assertion: str, **changes: str) -> str:
        with pytest.raises(FlowRefused) as refused:
            flows.token_request(self.url, self.form(assertion) | changes)
        return refused.value.error

    def form(self, assertion: str, scope: str = "system/*.rs") -> dict[str, str]:
        return {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }

    def kids(self) -> list[str]:
        return [key["kid"] for key in requests.get(f"{self.url}/jwks").json()["keys"]]


def verifier(url: str) -> TokenVerifier:
    return build_verifier(AuthSettings(issuer=url), LOOPBACK, FHIR_BASE)


def kid_of(token: str) -> str:
    head = token.partition(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    folder = tmp_path_factory.mktemp("issuer")
    key = register_backend(folder / "clients.json")
    with running_issuer(key_file=folder / "keys.json", clients=folder / "clients.json") as url:
        yield Issuer(url, key)


def test_a_backend_service_gets_a_token(issuer: Issuer) -> None:
    grant = verifier(issuer.url).verify(
        backend_token(issuer.url, "demo-backend", issuer.key, ["system/Patient.rs", "user/*.rs"])
    )
    assert (grant.subject, grant.client_id) == ("demo-backend", "demo-backend")
    assert grant.personas == {Persona.SERVICE}
    assert [(s.context, s.resource_type) for s in grant.scopes] == [("system", "Patient")]
    assert (grant.patient, grant.fhir_user) == (None, None)


def test_an_rsa_key_signs_too(tmp_path: Path) -> None:
    key = jwk.RSAKey.generate_key(2048, private=True, auto_kid=True)
    clients = {
        "rsa-backend": {
            "name": "RSA",
            "grants": ["client_credentials"],
            "scopes": ["system/Observation.rs"],
            "jwks_file": "public.json",
            "programs": ["program-1"],
        }
    }
    (tmp_path / "public.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    (tmp_path / "clients.yaml").write_text(json.dumps({"clients": clients}))
    with running_issuer(
        key_file=tmp_path / "keys.json", clients=tmp_path / "clients.yaml", algorithm="RS384"
    ) as url:
        token = backend_token(url, "rsa-backend", key, "system/Observation.rs")
        assert verifier(url).verify(token).programs == {"program-1"}
        with pytest.raises(FlowRefused, match="invalid_client"):
            backend_token(url, "demo-backend", key, "system/*.rs")


@pytest.mark.parametrize("scope", ["", "user/*.rs", "patient/*.rs openid", "system/*.sr"])
def test_a_service_gets_only_system_scopes(issuer: Issuer, scope: str) -> None:
    with pytest.raises(FlowRefused, match="invalid_scope"):
        backend_token(issuer.url, "demo-backend", issuer.key, scope)


def test_no_refresh_token_for_a_service(issuer: Issuer) -> None:
    form = issuer.form(flows.assertion(issuer.url, "demo-backend", issuer.key), "system/*.cruds")
    answer = flows.token_request(issuer.url, form)
    assert sorted(answer) == ["access_token", "expires_in", "scope", "token_type"]
    assert answer["expires_in"] <= 300


def test_an_assertion_works_once(issuer: Issuer) -> None:
    form = issuer.form(flows.assertion(issuer.url, "demo-backend", issuer.key))
    assert flows.token_request(issuer.url, form)["access_token"]
    with pytest.raises(FlowRefused, match="invalid_client"):
        flows.token_request(issuer.url, form)
    again = flows.assertion(issuer.url, "demo-backend", issuer.key, jti="same")
    other = flows.assertion(issuer.url, "demo-backend", issuer.key, jti="same", iat=1)
    assert flows.token_request(issuer.url, issuer.form(again))
    assert issuer.assertion_error(other) == "invalid_client"


@pytest.mark.parametrize(
    "claims",
    [
        {"lifetime": 400},
        {"lifetime": -60},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"aud": "http://127.0.0.1/token"},
        {"aud": None},
        {"aud": []},
        {"iss": "another"},
        {"iss": None},
        {"sub": "another"},
        {"sub": None},
        {"sub": 3},
        {"sub": "demo-app", "iss": "demo-app"},
        {"jti": None},
        {"jti": ""},
        {"jti": "j" * 256},
        {"nbf": time.time() + 3600},
        {"iat": time.time() + 3600},
    ],
    ids=str,
)
def test_assertions_that_do_not_hold(issuer: Issuer, claims: dict) -> None:
    assert issuer.token_error(**claims) == "invalid_client"


def test_only_the_registered_key_signs(issuer: Issuer) -> None:
    other = jwk.ECKey.generate_key("P-384", private=True, auto_kid=True)
    same_kid = jwk.ECKey.import_key({**other.as_dict(private=True), "kid": issuer.key.kid})
    for key in (other, same_kid):
        assertion = flows.assertion(issuer.url, "demo-backend", key)
        assert issuer.assertion_error(assertion) == "invalid_client"


def test_weak_algorithms_and_nonsense_are_refused(issuer: Issuer) -> None:
    good = flows.assertion(issuer.url, "demo-backend", issuer.key)
    head, payload, signature = good.split(".")

    def encoded(header: dict) -> str:
        return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()

    public = issuer.key.as_pem(private=False)
    forged = jwt.encode(
        {"alg": "HS256", "kid": issuer.key.kid},
        jwt.decode(good, issuer.key, ["ES384"]).claims,
        jwk.OctKey.import_key(base64.b64encode(public)),
    )
    wrong = [
        f"{encoded({'alg': 'none', 'kid': issuer.key.kid})}.{payload}.",
        f"{encoded({'alg': 'ES384'})}.{payload}.{signature}",
        f"{encoded({'alg': 'RS384', 'kid': issuer.key.kid})}.{payload}.{signature}",
        f"{encoded({'alg': 'ES384', 'kid': issuer.key.kid, 'crit': ['x']})}.{payload}.{signature}",
        f"{head}.{encoded([1])}.{signature}",
        f"{head}.{payload}.AAAA",
        forged,
        "",
        "x",
        "a.b.c",
        "....",
        "\u20ac.\u20ac.\u20ac",
        f"{head}.{payload}",
    ]
    for assertion in wrong:
        assert issuer.assertion_error(assertion) == "invalid_client", assertion


@pytest.mark.parametrize("header", [{"kid": None}, {"kid": ""}, {"typ": "at+jwt"}], ids=str)
def test_the_header_of_an_assertion_names_its_key_and_kind(issuer: Issuer, header: dict) -> None:
    good = flows.assertion(issuer.url, "demo-backend", issuer.key)
    claims = jwt.decode(good, issuer.key, ["ES384"]).claims
    usual = {"alg": "ES384", "kid": issuer.key.kid, "typ": "JWT"}
    changed = {name: value for name, value in (usual | header).items() if value is not None}
    # Without its `kid`: the library would write it into the header.
    key = {k: v for k, v in issuer.key.as_dict(private=True).items() if k != "kid"}
    signed = jwt.encode(changed, claims, jwk.ECKey.import_key(key), ["ES384"])
    assert issuer.assertion_error(signed) == "invalid_client"


def test_an_assertion_is_needed_and_must_name_the_same_client(issuer: Issuer) -> None:
    form = issuer.form("")
    assert issuer.assertion_error("", client_id="demo-backend") == "invalid_client"
    with pytest.raises(FlowRefused, match="invalid_client"):
        flows.token_request(issuer.url, form, "demo-confidential", "demo-confidential-is-no-secret")
    good = flows.assertion(issuer.url, "demo-backend", issuer.key)
    assert issuer.assertion_error(good, client_id="demo-app") == "invalid_client"
    good = flows.assertion(issuer.url, "demo-backend", issuer.key)
    assert issuer.assertion_error(good, grant_type="password") == "unsupported_grant_type"
    good = flows.assertion(issuer.url, "demo-backend", issuer.key)
    assert issuer.assertion_error(good, grant_type="refresh_token") == "unauthorized_client"


def test_the_old_key_verifies_until_its_tokens_have_ended(issuer: Issuer) -> None:
    gateway = verifier(issuer.url)
    before = login(issuer.url, "demo-app", "auditor", "user/*.rs offline_access")
    old = issuer.kids()[0]
    assert kid_of(before["access_token"]) == old
    assert gateway.verify(before["access_token"])
    new = requests.post(f"{issuer.url}/rotate").json()["kid"]
    assert issuer.kids()[:2] == [new, old]
    after = refresh(issuer.url, "demo-app", before["refresh_token"])
    assert kid_of(after["access_token"]) == new
    assert verifier(issuer.url).verify(after["access_token"])
    assert verifier(issuer.url).verify(before["access_token"])
    assert requests.post(
        f"{issuer.url}/introspect",
        data={"token": before["access_token"]},
        auth=("demo-gateway", "demo-gateway-is-no-secret"),
    ).json()["active"]


def test_tokens_outlive_a_restart(tmp_path: Path) -> None:
    keys, port = tmp_path / "keys.json", free_port()
    with running_issuer(key_file=keys, port=port) as url:
        answer = login(url, "demo-app", "auditor", "user/*.rs offline_access")
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    with running_issuer(key_file=keys, port=port) as url:
        assert verifier(url).verify(answer["access_token"]).subject == "demo-auditor"
        with pytest.raises(FlowRefused, match="invalid_grant"):
            refresh(url, "demo-app", answer["refresh_token"])
    other = running_issuer(key_file=tmp_path / "others.json", port=port)
    with other as url, pytest.raises(UnauthorizedError):
        verifier(url).verify(answer["access_token"])


def test_both_discovery_documents_say_the_same(issuer: Issuer) -> None:
    paths = ("openid-configuration", "oauth-authorization-server")
    documents = [requests.get(f"{issuer.url}/.well-known/{path}").json() for path in paths]
    assert documents[0] == documents[1]
    document = documents[0]
    assert document["issuer"] == issuer.url
    assert document["code_challenge_methods_supported"] == ["S256"]
    for name, address in document.items():
        if name.endswith(("_endpoint", "_uri")):
            assert address.startswith(f"{issuer.url}/")
            assert requests.get(address).status_code != 404


def test_keys_show_nothing_private(issuer: Issuer) -> None:
    for key in requests.get(f"{issuer.url}/jwks").json()["keys"]:
        assert sorted(key) == ["alg", "crv", "kid", "kty", "use", "x", "y"]


@pytest.mark.parametrize("path", ["/token", "/jwks", "/.well-known/openid-configuration"])
def test_browser_apps_of_registered_origins_may_call(issuer: Issuer, path: str) -> None:
    method = "POST" if path == "/token" else "GET"

    def allowed(origin: str) -> str | None:
        wanted = {"origin": origin, "access-control-request-method": method}
        before = requests.options(f"{issuer.url}{path}", headers=wanted)
        answer = requests.request(method, f"{issuer.url}{path}", headers={"origin": origin})
        found = {r.headers.get("access-control-allow-origin") for r in (before, answer)}
        assert len(found) == 1
        return found.pop()

    for origin in ("http://127.0.0.1:5173", "http://localhost:1", "http://localhost"):
        assert allowed(origin) == origin
    for origin in ("http://example.org", "https://localhost:1", "http://localhost.example", "null"):
        assert allowed(origin) is None


@pytest.mark.parametrize("path", ["/authorize", "/login", "/consent", "/launch", "/rotate"])
def test_pages_are_not_for_scripts_of_other_origins(issuer: Issuer, path: str) -> None:
    headers = {"origin": "http://127.0.0.1:5173", "sec-fetch-site": "same-site"}
    answer = requests.post(f"{issuer.url}{path}", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == (400 if path == "/authorize" else 403)


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "10.0.0.1", ""])
def test_only_names_of_this_machine_are_answered(issuer: Issuer, host: str) -> None:
    answer = requests.get(f"{issuer.url}/jwks", headers={"host": host})
    assert answer.status_code in (400, 403)


def test_a_launch_needs_ids(issuer: Issuer) -> None:
    for body in (
        {},
        {"patient": "a b"},
        {"patient": "p", "encounter": "/"},
        {"patient": "..", "x": 1},
    ):
        assert requests.post(f"{issuer.url}/launch", json=body).status_code == 400


def test_pages_carry_headers_that_keep_them_alone(issuer: Issuer) -> None:
    answer = requests.get(f"{issuer.url}/authorize")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert requests.post(f"{issuer.url}/token", data="x" * 70_000).status_code == 413
