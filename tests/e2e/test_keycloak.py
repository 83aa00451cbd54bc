"""A real Keycloak with the realm that compose brings: its tokens mean here what they should."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import requests
from jose import jwt
from joserfc import jwk
from keycloak import APP, BACKEND, Keycloak, Refused, running_keycloak

from fhir_ext.auth.grant import Persona
from fhir_ext.auth.verify import TokenVerifier, build_verifier
from fhir_ext.cli.tree import Tree
from fhir_ext.embedded.process import ChildProcess, free_port, port_open, wait_until
from fhir_ext.errors import UnauthorizedError
from fhir_ext.issuer.flows import assertion, challenge
from fhir_ext.settings import AuthSettings, OutgoingSettings

# The first run on a machine downloads Keycloak and builds it.
pytestmark = pytest.mark.timeout(1200)

LOOPBACK = OutgoingSettings(private_networks=True, plain_http=True)
#: Where `serve` of these tests listens: Keycloak must know the audience before it starts.
SERVE_PORT = free_port()
FHIR_BASE = f"http://127.0.0.1:{SERVE_PORT}/fhir"
VERIFIER = "verifier-of-the-tests-0123456789-0123456789"


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with running_keycloak(tmp_path_factory.mktemp("keycloak"), FHIR_BASE) as running:
        yield running


def verifier_of(
    keycloak: Keycloak, audience: str = FHIR_BASE, **changes: timedelta
) -> TokenVerifier:
    """What `serve` makes of settings that name nothing but the issuer."""
    settings = AuthSettings(issuer=keycloak.issuer, **changes)
    return build_verifier(settings, LOOPBACK, audience)


@pytest.fixture(scope="module")
def verifier(keycloak: Keycloak) -> TokenVerifier:
    return verifier_of(keycloak)


# Programs


def test_a_backend_service_gets_what_it_asks_for(
    keycloak: Keycloak, verifier: TokenVerifier
) -> None:
    token = keycloak.backend_token("system/Patient.rs system/RiskAssessment.crs")
    assert jwt.get_unverified_header(token)["alg"] == "ES384"
    grant = verifier.verify(token)
    assert grant.personas == {Persona.SERVICE}
    assert grant.client_id == BACKEND
    assert {(s.context, s.resource_type, s.letters) for s in grant.scopes} == {
        ("system", "Patient", frozenset("rs")),
        ("system", "RiskAssessment", frozenset("crs")),
    }
    assert grant.patient is None
    assert grant.fhir_user is None
    assert 290 <= grant.expires_at - time.time() <= 300


def test_without_a_scope_nothing_is_granted(keycloak: Keycloak, verifier: TokenVerifier) -> None:
    token = keycloak.backend_token("")
    assert jwt.get_unverified_claims(token).get("scope", "") == ""
    with pytest.raises(UnauthorizedError) as refused:
        verifier.verify(token)
    assert refused.value.code == "no-persona"


@pytest.mark.parametrize("scope", ["user/*.rs", "patient/*.rs", "system/*.cruds", "launch/patient"])
def test_a_backend_service_gets_nothing_else(keycloak: Keycloak, scope: str) -> None:
    with pytest.raises(Refused, match="invalid_scope"):
        keycloak.backend_token(scope)


def test_a_backend_service_proves_who_it_is(keycloak: Keycloak) -> None:
    other = jwk.ECKey.generate_key("P-384", private=True, auto_kid=True)
    with pytest.raises(Refused, match="invalid_client"):
        keycloak.backend_token("system/*.rs", other)
    with pytest.raises(Refused, match="invalid_client"):
        keycloak.backend_token("system/*.rs", exp=int(time.time()) - 60)
    once = assertion(keycloak.issuer, BACKEND, keycloak.key, aud=keycloak.token_url)
    keycloak.backend_answer("system/*.rs", once)
    with pytest.raises(Refused, match="invalid_client"):
        keycloak.backend_answer("system/*.rs", once)
    with pytest.raises(Refused, match="unauthorized_client"):
        keycloak.token(grant_type="client_credentials", client_id=APP, scope="user/*.rs")


# People


@pytest.mark.parametrize("persona", [p for p in Persona if p is not Persona.SERVICE])
def test_a_role_is_a_persona(keycloak: Keycloak, verifier: TokenVerifier, persona: Persona) -> None:
    user = keycloak.create_user(persona.value)
    grant = verifier.verify(user.login("openid user/*.rs")["access_token"])
    assert grant.personas == {persona}
    assert grant.client_id == APP
    assert grant.subject == user.user_id


def test_programs_and_the_resource_of_a_user(keycloak: Keycloak, verifier: TokenVerifier) -> None:
    user = keycloak.create_user(
        "radiologist", "coordinator", programs=["lung-1", "lung-2"], fhirUser=["Practitioner/p-1"]
    )
    answer = user.login("openid fhirUser user/Task.rus user/Observation.rs?category=laboratory")
    grant = verifier.verify(answer["access_token"])
    assert grant.personas == {Persona.RADIOLOGIST, Persona.COORDINATOR}
    assert grant.programs == {"lung-1", "lung-2"}
    assert grant.fhir_user == "Practitioner/p-1"
    assert grant.patient is None
    restricted = {(s.resource_type, s.restriction) for s in grant.scopes}
    assert restricted == {("Task", ()), ("Observation", (("category", "laboratory"),))}
    assert jwt.get_unverified_claims(answer["id_token"])["fhirUser"] == "Practitioner/p-1"


def test_a_group_brings_its_programs(keycloak: Keycloak, verifier: TokenVerifier) -> None:
    user = keycloak.create_user("coordinator", programs=["lung-1"])
    group = {"name": f"team-of-{user.name}", "attributes": {"programs": ["lung-3"]}}
    place = keycloak.admin("POST", "/groups", group).headers["Location"]
    keycloak.admin("PUT", f"/users/{user.user_id}/groups/{place.rpartition('/')[2]}")
    grant = verifier.verify(user.login("openid user/*.rs")["access_token"])
    assert grant.programs == {"lung-1", "lung-3"}


def test_a_patient_is_confined_to_the_own_record(
    keycloak: Keycloak, verifier: TokenVerifier
) -> None:
    user = keycloak.create_user("patient", fhirUser=["Patient/pat-1"])
    grant = verifier.verify(user.login("openid patient/*.rs")["access_token"])
    assert grant.personas == {Persona.PATIENT}
    assert grant.patient == "pat-1"


def test_the_launch_context_comes_when_it_is_asked_for(
    keycloak: Keycloak, verifier: TokenVerifier
) -> None:
    user = keycloak.create_user("clinician", patient=["pat-2"], fhirUser=["Practitioner/p-2"])
    without = verifier.verify(user.login("openid patient/*.rs")["access_token"])
    assert without.patient is None
    answer = user.login("openid launch/patient patient/*.rs")
    launched = verifier.verify(answer["access_token"])
    assert launched.patient == "pat-2"
    # Keycloak puts no attribute of a user beside the token, where SMART has it.
    assert "patient" not in answer
    assert jwt.get_unverified_claims(answer["id_token"])["patient"] == "pat-2"


def test_what_no_client_scope_names_is_not_granted(keycloak: Keycloak) -> None:
    user = keycloak.create_user("clinician")
    for scope in ("user/Binary.rs", "system/*.rs", "user/*.write"):
        with pytest.raises(Refused, match="invalid_scope"):
            user.login(f"openid {scope}")


def test_attributes_hold_references_only(keycloak: Keycloak) -> None:
    for name, value in (("fhirUser", "Device/1"), ("programs", "a b"), ("patient", "../1")):
        with pytest.raises(AssertionError, match=f'"field":"{name}"'):
            keycloak.create_user("clinician", **{name: [value]})


def test_pkce_is_required(keycloak: Keycloak) -> None:
    user = keycloak.create_user("clinician")
    with pytest.raises(Refused, match="invalid_request"):
        user.authorize("openid")
    with pytest.raises(Refused, match="invalid_request"):
        user.authorize("openid", code_challenge=VERIFIER, code_challenge_method="plain")
    code = user.authorize(
        "openid", code_challenge=challenge(VERIFIER), code_challenge_method="S256"
    )
    with pytest.raises(Refused, match="invalid_grant"):
        user.exchange(code, f"{VERIFIER}-other")


def test_passwords_cannot_be_tried_or_sent_past_the_login_page(keycloak: Keycloak) -> None:
    user = keycloak.create_user("clinician")
    for _ in range(3):
        with pytest.raises(Refused, match="page"):
            user.login("openid", "wrong wrong wrong")
    with pytest.raises(Refused, match="page"):
        user.login("openid")
    with pytest.raises(Refused, match="unauthorized_client"):
        keycloak.token(grant_type="password", client_id=APP, username=user.name, password="x")


def test_redirects_go_to_the_app_only(keycloak: Keycloak) -> None:
    user = keycloak.create_user("clinician")
    with pytest.raises(Refused, match="page"):
        user.authorize("openid", redirect_uri="http://127.0.0.1:10/callback")


def test_nobody_registers_clients(keycloak: Keycloak) -> None:
    response = requests.post(
        f"{keycloak.issuer}/clients-registrations/openid-connect",
        json={"redirect_uris": ["https://app.example.org/callback"]},
        timeout=30,
    )
    assert response.status_code == 403


# Ends


def test_a_disabled_user_gets_no_new_token(keycloak: Keycloak) -> None:
    user = keycloak.create_user("clinician")
    answer = user.login("openid user/*.rs")
    answer = keycloak.refresh(answer["refresh_token"])
    user.disable()
    with pytest.raises(Refused, match="invalid_grant"):
        keycloak.refresh(answer["refresh_token"])
    with pytest.raises(Refused, match="page"):
        user.login("openid user/*.rs")


def test_a_refresh_token_holds_once(keycloak: Keycloak) -> None:
    first = keycloak.create_user("clinician").login("openid user/*.rs")["refresh_token"]
    second = keycloak.refresh(first)["refresh_token"]
    with pytest.raises(Refused, match="invalid_grant"):
        keycloak.refresh(first)
    # Whoever came second may be a thief, so neither goes on.
    with pytest.raises(Refused, match="invalid_grant"):
        keycloak.refresh(second)


def test_an_expired_token_is_refused(keycloak: Keycloak) -> None:
    client = keycloak.client(BACKEND)
    attributes = client["attributes"]
    client["attributes"] = {**attributes, "access.token.lifespan": "1"}
    keycloak.admin("PUT", f"/clients/{client['id']}", client)
    try:
        token = keycloak.backend_token("system/*.rs")
    finally:
        client["attributes"] = {**attributes, "access.token.lifespan": ""}
        keycloak.admin("PUT", f"/clients/{client['id']}", client)
    strict = verifier_of(keycloak, leeway=timedelta(0))
    time.sleep(max(0.0, jwt.get_unverified_claims(token)["exp"] - time.time()) + 0.1)
    with pytest.raises(UnauthorizedError) as refused:
        strict.verify(token)
    assert refused.value.code == "expired-token"


def test_a_token_is_for_one_fhir_server(keycloak: Keycloak) -> None:
    token = keycloak.backend_token("system/*.rs")
    with pytest.raises(UnauthorizedError) as refused:
        verifier_of(keycloak, "https://other.example.org/fhir").verify(token)
    assert refused.value.code == "invalid-token"


# Keys


def test_a_new_key_is_found_and_the_old_one_holds_on(keycloak: Keycloak) -> None:
    verifier = verifier_of(keycloak, jwks_cooldown=timedelta(0))
    before = keycloak.backend_token("system/*.rs")
    verifier.verify(before)
    added = keycloak.admin(
        "POST",
        "/components",
        {
            "name": "tokens-next",
            "providerId": "ecdsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": {"priority": ["200"], "ecdsaEllipticCurveKey": ["P-384"]},
        },
    )
    after = keycloak.backend_token("system/Patient.rs")
    kids = [jwt.get_unverified_header(token)["kid"] for token in (before, after)]
    assert kids[0] != kids[1]
    verifier.verify(after)
    # By the set that has both keys, and not because it was remembered.
    verifier_of(keycloak).verify(before)

    keycloak.admin("DELETE", f"/components/{added.headers['Location'].rpartition('/')[2]}")
    with pytest.raises(UnauthorizedError) as refused:
        verifier_of(keycloak).verify(after)
    assert refused.value.code == "unknown-key"


# The gateway


@pytest.fixture(scope="module")
def service(
    keycloak: Keycloak, tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """FHIR base of a second `serve` beside that of the tree, which trusts Keycloak."""
    folder = tmp_path_factory.mktemp("serve-keycloak")
    settings = {
        "FHIR_EXT_SERVER__PORT": str(SERVE_PORT),
        "FHIR_EXT_SERVER__PUBLIC_URL": f"http://127.0.0.1:{SERVE_PORT}",
        "FHIR_EXT_AUTH__ISSUER": keycloak.issuer,
        "FHIR_EXT_AUTH__DEVELOPMENT_ISSUER": "false",
        "FHIR_EXT_AUDIT__JOURNAL": str(folder / "audit"),
    }
    child = ChildProcess(
        "serve",
        [sys.executable, "-m", "fhir_ext", "serve"],
        folder / "serve.log",
        environment={**tree.environment, **settings},
        cwd=folder,
    )
    try:
        wait_until(lambda: port_open(SERVE_PORT), 60, "the service", child)
        yield FHIR_BASE
    finally:
        child.stop()


def search(base: str, token: str, resource_type: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{base}/{resource_type}?_count=5", headers=headers, timeout=30)


def test_the_gateway_lets_in_who_may_and_nobody_else(keycloak: Keycloak, service: str) -> None:
    token = keycloak.backend_token("system/Patient.rs")
    found = search(service, token, "Patient")
    assert found.status_code == 200, found.text
    assert found.json()["resourceType"] == "Bundle"

    refused = search(service, token, "Observation")
    assert refused.status_code == 403
    assert refused.json()["resourceType"] == "OperationOutcome"
    changed = search(service, f"{token[:-8]}AAAAAAAA", "Patient")
    assert changed.status_code == 401


def test_a_role_without_patients_is_refused_whatever_its_scopes(
    keycloak: Keycloak, service: str
) -> None:
    user = keycloak.create_user("epidemiologist", fhirUser=["Practitioner/p-3"])
    token = user.login("openid user/*.rs")["access_token"]
    assert search(service, token, "Patient").status_code == 403
    assert search(service, token, "ValueSet").status_code == 200


def test_apps_find_keycloak_through_the_gateway(keycloak: Keycloak, service: str) -> None:
    found = requests.get(f"{service}/.well-known/smart-configuration", timeout=30).json()
    assert found["issuer"] == keycloak.issuer
    assert found["token_endpoint"] == keycloak.token_url
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert {"patient/*.rs", "user/*.rs", "system/*.rs"} <= set(found["scopes_supported"])
