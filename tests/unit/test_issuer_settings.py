"""Where the development issuer may run, and what its files may say."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from joserfc import jwk

from fhir_ext.auth.grant import Persona
from fhir_ext.errors import SettingsError
from fhir_ext.issuer.directory import load_directory
from fhir_ext.issuer.flows import register_backend
from fhir_ext.issuer.routes import create_issuer_app
from fhir_ext.issuer.server import checked_base
from fhir_ext.settings import IssuerSettings


def settings(**values: Any) -> IssuerSettings:
    return IssuerSettings(**values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_is_accepted(host: str) -> None:
    url = f"http://[{host}]:8001/" if ":" in host else f"http://{host}:8001/"
    assert checked_base(settings(host=host, public_url=url)) == url.rstrip("/")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.5", "192.0.2.1", "example.org"])
def test_an_address_that_others_reach_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"issuer\.host"):
        create_issuer_app(settings(host=host, key_file=tmp_path / "keys.json"))
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1@example.org",
        "https://0.0.0.0:8001",
        "http://127.0.0.1:8001/issuer",
        "http://127.0.0.1:8001?x",
        "http://user@127.0.0.1:8001",
        "ftp://127.0.0.1",
        "127.0.0.1:8001",
        "",
    ],
)
def test_a_public_url_that_is_not_loopback_alone_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"issuer\.public_url"):
        create_issuer_app(settings(public_url=url, key_file=tmp_path / "keys.json"))


def test_the_demo_has_one_user_for_each_persona() -> None:
    _, users = load_directory(settings())
    assert [user.persona for user in users] == [p for p in Persona if p is not Persona.SERVICE]
    for user in users:
        assert users.find(user.persona) is user
        assert users.find(user.user_id) is user
        assert (user.own_patient is not None) == (user.persona is Persona.PATIENT)
    assert users.find("nobody") is None


def test_the_backend_of_the_demo_needs_a_key(tmp_path: Path) -> None:
    clients, _ = load_directory(settings())
    assert clients.find("demo-backend") is None
    private = register_backend(tmp_path / "clients.json")
    assert (
        "d"
        not in json.loads((tmp_path / "clients.json").read_text())["clients"]["demo-backend"][
            "jwks"
        ]["keys"][0]
    )
    clients, _ = load_directory(settings(clients=tmp_path / "clients.json"))
    backend = clients.find("demo-backend")
    assert backend is not None
    assert backend.keys.keys[0].thumbprint() == private.thumbprint()
    assert backend.scopes == ("system/*.cruds",)


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_further_clients_and_other_users(tmp_path: Path) -> None:
    clients_file = written(
        tmp_path / "clients.yaml",
        {
            "clients": {
                "my-app": {
                    "name": "Mine",
                    "grants": ["authorization_code"],
                    "redirect_uris": ["https://app.example.org/cb"],
                    "scopes": ["user/*.rs"],
                },
                "demo-app": {"name": "Renamed"},
            }
        },
    )
    users_file = written(
        tmp_path / "users.yaml",
        {"users": {"u1": {"name": "U", "persona": "patient", "fhir_user": "Patient/p1"}}},
    )
    clients, users = load_directory(settings(clients=clients_file, personas=users_file))
    mine, demo = clients.find("my-app"), clients.find("demo-app")
    assert mine is not None
    assert demo is not None
    assert mine.auth_method == "none"
    assert mine.check_redirect_uri("https://app.example.org/cb")
    assert not mine.check_redirect_uri("https://app.example.org:443/cb")
    assert clients.allow_origin("https://app.example.org")
    assert not clients.allow_origin("https://app.example.org:8443")
    assert (demo.name, len(demo.scopes)) == ("Renamed", 10)
    assert [(user.user_id, user.own_patient) for user in users] == [("u1", "p1")]


PRIVATE = jwk.ECKey.generate_key("P-384", private=True).as_dict(private=True)


@pytest.mark.parametrize(
    "client",
    [
        {"name": "x", "grants": ["client_credentials"]},
        {"name": "x", "grants": ["implicit"]},
        {"name": "x", "jwks": {"keys": [PRIVATE]}},
        {"name": "x", "jwks": {"keys": [{"kty": "EC"}]}},
        {"name": "x", "jwks": {}},
        {"name": "x", "introspection": True},
        {"name": "x", "unknown": 1},
        {"grants": []},
        {"name": "x", "jwks_file": "missing.json"},
        "text",
        None,
    ],
    ids=lambda client: str(client)[:40],
)
def test_a_client_that_makes_no_sense_is_refused(tmp_path: Path, client: Any) -> None:
    path = written(tmp_path / "clients.yaml", {"clients": {"mine": client}})
    with pytest.raises(SettingsError, match=r"issuer\.clients"):
        load_directory(settings(clients=path))


@pytest.mark.parametrize(
    "content", ["", "- 1", "users: []", "users: {u: {name: x}}", "{", "clients: {}"]
)
def test_a_file_of_users_that_makes_no_sense_is_refused(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "users.yaml", content)
    with pytest.raises(SettingsError, match=r"issuer\.personas"):
        load_directory(settings(personas=path))
    with pytest.raises(SettingsError, match=r"issuer\.personas"):
        load_directory(settings(personas=tmp_path / "missing.yaml"))


@pytest.mark.parametrize("fhir_user", ["Device/1", "Patient/", "Patient/a b", "1", "Patient/1/2"])
def test_a_user_is_a_patient_or_a_practitioner(tmp_path: Path, fhir_user: str) -> None:
    user = {"name": "x", "persona": "auditor", "fhir_user": fhir_user}
    path = written(tmp_path / "users.yaml", {"users": {"u": user}})
    with pytest.raises(SettingsError, match="fhir_user"):
        load_directory(settings(personas=path))


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"keys": [{}]}', '{"keys": [{"key": {"kty": "oct"}, "algorithm": "ES384"}]}', "[]"],
)
def test_a_key_file_of_somebody_else_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "keys.json", content)
    with pytest.raises(SettingsError, match=r"issuer\.key_file"):
        create_issuer_app(settings(key_file=path))
    assert path.read_text() == content


def test_the_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "below" / "keys.json"
    create_issuer_app(settings(key_file=path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
