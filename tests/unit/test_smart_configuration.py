"""What apps are told before they ask for a token; nothing is promised that is not so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from token_issuer import LOOPBACK, TokenIssuer, running_issuer

from fhir_ext.auth.discovery import issuer_endpoints, issuer_lists, smart_configuration
from fhir_ext.auth.issuer_document import IssuerDocument
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import AuthSettings

AUTH = AuthSettings(issuer="https://issuer.example.org")
ENDPOINTS = {
    "authorization_endpoint": "https://issuer.example.org/authorize",
    "token_endpoint": "https://issuer.example.org/token",
    "introspection_endpoint": "https://issuer.example.org/introspect",
    "revocation_endpoint": "https://issuer.example.org/revoke",
    "jwks_uri": "https://issuer.example.org/jwks",
}
SUPPORTED = {
    "scopes_supported": (
        *("openid", "fhirUser", "launch", "launch/patient", "offline_access"),
        *("patient/*.rs", "user/*.cruds", "system/*.rs"),
    ),
    "grant_types_supported": (
        *("authorization_code", "implicit", "password", "client_credentials", "refresh_token"),
    ),
    "token_endpoint_auth_methods_supported": ("private_key_jwt", "client_secret_basic"),
    "token_endpoint_auth_signing_alg_values_supported": ("RS384", "ES384"),
    "code_challenge_methods_supported": ("plain", "S256"),
}
#: SMART App Launch 2.2, "Capabilities".
KNOWN = {
    *("launch-ehr", "launch-standalone", "authorize-post", "client-public"),
    *("client-confidential-symmetric", "client-confidential-asymmetric", "sso-openid-connect"),
    *("context-banner", "context-style", "context-ehr-patient", "context-ehr-encounter"),
    *("context-standalone-patient", "context-standalone-encounter", "permission-offline"),
    *("permission-online", "permission-patient", "permission-user", "permission-v1"),
    *("permission-v2", "smart-app-state"),
}


def test_everything_that_the_issuer_can() -> None:
    found = smart_configuration(AUTH, ENDPOINTS, SUPPORTED)
    assert {name: found[name] for name in ENDPOINTS} == ENDPOINTS
    assert found["issuer"] == AUTH.issuer
    assert found["grant_types_supported"] == [
        "authorization_code",
        "client_credentials",
        "refresh_token",
    ]
    assert found["response_types_supported"] == ["code"]
    assert found["scopes_supported"] == list(SUPPORTED["scopes_supported"])
    assert found["token_endpoint_auth_methods_supported"] == [
        "private_key_jwt",
        "client_secret_basic",
    ]
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert set(found["capabilities"]) == {
        *("launch-ehr", "launch-standalone", "client-public", "client-confidential-symmetric"),
        *("client-confidential-asymmetric", "sso-openid-connect", "context-ehr-patient"),
        *("context-standalone-patient", "permission-offline", "permission-patient"),
        *("permission-user", "permission-v1", "permission-v2"),
    }
    assert set(found["capabilities"]) <= KNOWN


def test_nothing_is_claimed_that_the_issuer_does_not_say() -> None:
    endpoints = {"token_endpoint": ENDPOINTS["token_endpoint"]}
    found = smart_configuration(AUTH, endpoints, {"grant_types_supported": ["client_credentials"]})
    assert found == {
        "token_endpoint": ENDPOINTS["token_endpoint"],
        "grant_types_supported": ["client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "capabilities": [
            "permission-patient",
            "permission-user",
            "permission-v1",
            "permission-v2",
        ],
    }


@pytest.mark.parametrize(
    ("left_out", "capability"),
    [
        ("openid", "sso-openid-connect"),
        ("fhirUser", "sso-openid-connect"),
        ("launch", "launch-ehr"),
        ("launch", "context-ehr-patient"),
        ("launch/patient", "context-standalone-patient"),
        ("offline_access", "permission-offline"),
    ],
)
def test_capabilities_follow_from_scopes(left_out: str, capability: str) -> None:
    scopes = [scope for scope in SUPPORTED["scopes_supported"] if scope != left_out]
    found = smart_configuration(AUTH, ENDPOINTS, {**SUPPORTED, "scopes_supported": scopes})
    assert capability not in found["capabilities"]
    assert ("issuer" in found) == ("sso-openid-connect" in found["capabilities"])


def test_what_only_the_issuer_can_know_is_taken_over() -> None:
    named = {**SUPPORTED, "capabilities": ["authorize-post", "smart-app-state", "nonsense"]}
    found = smart_configuration(AUTH, ENDPOINTS, named)
    assert "authorize-post" in found["capabilities"]
    assert set(found["capabilities"]) <= KNOWN - {"smart-app-state"}


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with running_issuer() as running:
        yield running


def test_endpoints_are_read_from_the_issuer_once(issuer: TokenIssuer) -> None:
    issuer.document |= {**ENDPOINTS, "token_endpoint": 7, "userinfo_endpoint": "https://x"}
    issuer.document |= {"scopes_supported": ["openid", 7], "grant_types_supported": "all"}
    document = IssuerDocument(OutgoingGuard(LOOPBACK), issuer.settings())
    expected = {name: url for name, url in ENDPOINTS.items() if name != "token_endpoint"}
    assert issuer_endpoints(document) == expected
    assert issuer_lists(document) == {"scopes_supported": ("openid",)}
    assert sum(issuer.asked.values()) == 1
