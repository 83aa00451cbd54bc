"""The realm file that compose mounts, as far as it can be read without Keycloak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhir_ext.auth.grant import Persona
from fhir_ext.auth.scopes import parse_scopes
from fhir_ext.embedded.keycloak import REALM, REALM_FILE, unpack
from fhir_ext.errors import SettingsError
from fhir_ext.settings import AuthSettings

LAUNCH = {"fhirUser", "profile", "launch/patient", "offline_access"}
#: Default scopes, which say nothing in the token's `scope`.
SILENT = {"basic", "fhir-ext", "personas", "web-origins"}


@pytest.fixture(scope="module")
def realm() -> dict[str, Any]:
    return dict(json.loads(REALM_FILE.read_text()))


def client(realm: dict[str, Any], client_id: str) -> dict[str, Any]:
    return next(c for c in realm["clients"] if c["clientId"] == client_id)


def test_its_roles_are_the_personas(realm: dict[str, Any]) -> None:
    people = {persona.value for persona in Persona} - {Persona.SERVICE.value}
    assert {role["name"] for role in realm["roles"]["realm"]} == people
    mapped = {entry["clientScope"]: set(entry["roles"]) for entry in realm["scopeMappings"]}
    assert mapped["personas"] == people


def test_it_brings_no_user_no_secret_and_no_key(realm: dict[str, Any]) -> None:
    assert realm["realm"] == REALM
    assert "users" not in realm
    text = REALM_FILE.read_text()
    for word in ("secret", "privateKey", "credentials", "certificate"):
        assert f'"{word}"' not in text


def test_it_is_strict(realm: dict[str, Any]) -> None:
    assert realm["sslRequired"] == "external"
    assert realm["bruteForceProtected"] is True
    assert realm["registrationAllowed"] is False
    assert realm["accessTokenLifespan"] == 300
    assert realm["defaultSignatureAlgorithm"] == "ES384"
    for found in realm["clients"]:
        assert found["implicitFlowEnabled"] is False
        assert found["directAccessGrantsEnabled"] is False
        # Otherwise each token carries every role that the user has.
        assert found["fullScopeAllowed"] is False


def test_apps_prove_themselves_by_pkce_and_programs_by_a_key(realm: dict[str, Any]) -> None:
    app, backend = client(realm, "ehr-app"), client(realm, "backend")
    assert app["publicClient"] is True
    assert app["attributes"]["pkce.code.challenge.method"] == "S256"
    assert backend["publicClient"] is False
    assert backend["clientAuthenticatorType"] == "client-jwt"
    assert backend["standardFlowEnabled"] is False


def test_scopes_are_understood_and_each_client_has_those_of_its_kind(
    realm: dict[str, Any],
) -> None:
    shown = {
        scope["name"]
        for scope in realm["clientScopes"]
        if scope["attributes"]["include.in.token.scope"] == "true"
    }
    assert {scope["name"] for scope in realm["clientScopes"]} - shown == SILENT
    for name in shown - LAUNCH:
        assert len(parse_scopes(name)) == 1, name
    app, backend = client(realm, "ehr-app"), client(realm, "backend")
    system = {name for name in shown if name.startswith("system/")}
    assert set(backend["optionalClientScopes"]) == system
    assert set(app["optionalClientScopes"]) == shown - system
    for found in (app, backend):
        assert set(found["defaultClientScopes"]) <= SILENT


def test_claims_are_those_that_our_settings_expect(realm: dict[str, Any]) -> None:
    claims = {
        mapper["config"]["claim.name"]
        for scope in realm["clientScopes"]
        for mapper in scope.get("protocolMappers", [])
        if "claim.name" in mapper["config"]
    }
    settings = AuthSettings()
    assert claims == {settings.roles_claim, settings.programs_claim, "fhirUser", "patient"}


def test_users_cannot_change_what_they_may_see(realm: dict[str, Any]) -> None:
    (provider,) = realm["components"]["org.keycloak.userprofile.UserProfileProvider"]
    profile = json.loads(provider["config"]["kc.user.profile.config"][0])
    attributes = {attribute["name"]: attribute for attribute in profile["attributes"]}
    for name in ("fhirUser", "patient", "programs"):
        assert attributes[name]["permissions"]["edit"] == ["admin"]
    assert attributes["programs"]["multivalued"] is True


def test_another_file_is_not_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "keycloak.zip"
    archive.write_bytes(b"something else")
    with pytest.raises(SettingsError):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
