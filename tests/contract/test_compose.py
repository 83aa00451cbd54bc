"""The container deployment, as far as it can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from fhir_ext.embedded import versions
from fhir_ext.embedded.keycloak import FEATURES_OFF, REALM, REALM_FILE, RealmValues
from fhir_ext.embedded.postgres import PROGRAMS, PostgresServer
from fhir_ext.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yaml"
EXAMPLE = DOCKER / ".env.example"
POM = "{http://maven.apache.org/POM/4.0.0}"

#: `${NAME:?message}`: required, without a default.
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return dict(compose["services"])


def filled(text: str) -> str:
    """Text of the compose file with a good value for each variable."""
    values = {
        "PUBLISH_ADDRESS": "127.0.0.1:8000",
        "PUBLIC_URL": "https://fhir-ext.example.org",
        "KEYCLOAK_HOST": "login.example.org",
    }
    return REQUIRED.sub(lambda match: values.get(match[1], "0123456789abcdef" * 2), text)


def test_it_is_a_compose_file() -> None:
    """By the JSON schema of the Compose Specification, which check-jsonschema carries."""
    schema = ["--builtin-schema", "vendor.compose-spec"]
    answer = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, str(COMPOSE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "compose.yaml"
    bad.write_text(COMPOSE.read_text().replace("\n    restart:", "\n    restarts:", 1))
    schema = ["--builtin-schema", "vendor.compose-spec"]
    answer = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, str(bad)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "restarts" in answer.stdout


def compose_plugin() -> bool:
    if shutil.which("docker") is None:
        return False
    command = ["docker", "compose", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not compose_plugin(), reason="docker has no compose plugin here")
def test_compose_itself_accepts_it(tmp_path: Path) -> None:
    filled_in = tmp_path / ".env"
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.endswith("=")]
    filled_in.write_text("".join(f"{line}0123456789abcdef\n" for line in lines))
    command = ["docker", "compose", "--env-file", str(filled_in), "-f", str(COMPOSE), "config"]
    answer = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_every_variable_is_required_and_named_in_the_example() -> None:
    text = COMPOSE.read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(REQUIRED.findall(text))
    assert text.count("${") == len(REQUIRED.findall(text))
    example = re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    assert {name for name, _ in example} == set(REQUIRED.findall(text))
    assert {value for _, value in example} == {""}


#: What is not on the network `private` alone.
NETWORKS = {
    "serve": ["private", "identity", "public"],
    "postgres": ["private", "identity"],
    "keycloak": ["identity", "public"],
    "keycloak-health": ["identity"],
}


def test_only_the_service_and_keycloak_are_published(
    compose: dict[str, Any], services: dict[str, Any]
) -> None:
    published = {name for name, service in services.items() if "ports" in service}
    assert published == {"serve", "keycloak"}
    assert compose["networks"]["private"]["internal"] is True
    assert compose["networks"]["identity"]["internal"] is True
    for name, service in services.items():
        assert service["networks"] == NETWORKS.get(name, ["private"]), name


def test_what_others_wait_for_has_a_health_check(services: dict[str, Any]) -> None:
    awaited = [
        (name, wait["condition"])
        for service in services.values()
        for name, wait in service.get("depends_on", {}).items()
    ]
    assert awaited
    for name, condition in awaited:
        if condition == "service_healthy":
            assert "healthcheck" in services[name]
        elif condition == "service_completed_successfully":
            assert services[name]["restart"] == "no"


def test_our_containers_can_write_nowhere_and_hold_no_privileges(services: dict[str, Any]) -> None:
    ours = [s for s in services.values() if str(s.get("image", "")).startswith("fhir-ext-")]
    assert len(ours) == 5
    for service in ours:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", dockerfile, re.MULTILINE)


def test_our_settings_accept_the_environment(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("migrate", "serve", "worker"):
        with monkeypatch.context() as context:
            for variable, value in services[name]["environment"].items():
                context.setenv(variable, filled(value))
            known = Settings().model_dump()
        for variable in services[name]["environment"]:
            path = variable.removeprefix("FHIR_EXT_").lower().split("__")
            assert value_at(known, path) is not None, variable


def value_at(known: dict[str, Any], path: list[str]) -> Any:
    """The setting that an environment variable names; KeyError where there is none."""
    for part in path:
        known = known[part]
    return known


def test_files_that_are_mounted_or_built_from_exist(services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
        if "build" in service:
            context = DOCKER / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
    for dockerfile in (DOCKER / "Dockerfile", DOCKER / "hapi" / "Dockerfile"):
        context = ROOT if dockerfile.parent == DOCKER else DOCKER
        for line in dockerfile.read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                for source in line.split()[1:-1]:
                    assert (context / source).exists(), source


def test_serve_trusts_the_keycloak_beside_it(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in services["serve"]["environment"].items():
        monkeypatch.setenv(variable, filled(value))
    settings = Settings()
    keycloak = {k: filled(v) for k, v in services["keycloak"]["environment"].items()}
    assert settings.auth.issuer == f"{keycloak['KC_HOSTNAME']}/realms/{REALM}"
    assert settings.auth.audience == keycloak["FHIR_BASE"] == settings.server.fhir_base
    assert settings.auth.development_issuer is False
    # The keys by the inner network, the discovery document from the public address.
    assert settings.outgoing.hosts == ("keycloak", "login.example.org")
    assert str(settings.auth.jwks_url).startswith(f"http://keycloak:8080/realms/{REALM}/")


def test_keycloak_is_the_one_that_is_tested(services: dict[str, Any]) -> None:
    keycloak = services["keycloak"]
    assert keycloak["image"] == versions.KEYCLOAK_IMAGE
    assert keycloak["environment"]["KC_FEATURES_DISABLED"].split(",") == list(FEATURES_OFF)
    (volume,) = keycloak["volumes"]
    assert (DOCKER / volume.split(":")[0]).resolve() == REALM_FILE
    placeholders = set(re.findall(r"\$\{([A-Z_]+)\}", REALM_FILE.read_text()))
    assert placeholders == set(RealmValues("", "", "").environment())
    assert placeholders <= set(keycloak["environment"])


def test_each_program_gets_a_database_of_its_own(services: dict[str, Any]) -> None:
    """The script on a real Postgres; a second run leaves what is there as it is."""
    names = {"hapi", "fhir_ext", "keycloak"}
    variables = {f"{name.upper()}_DATABASE_PASSWORD": f"secret-of-{name}" for name in names}
    assert set(variables) <= set(services["postgres"]["environment"])
    with PostgresServer.temporary(print) as server:
        # Its superuser has the name of one of the roles.
        with psycopg.connect(
            server.url("postgres").replace("+psycopg", ""), autocommit=True
        ) as connection:
            connection.execute("CREATE ROLE postgres SUPERUSER LOGIN PASSWORD 'of-superuser'")
        superuser = f"host=127.0.0.1 port={server.port} user=postgres password=of-superuser"
        with psycopg.connect(f"{superuser} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {server.username} RENAME TO embedded")
        programs = server.installation.find(PROGRAMS)
        assert programs is not None
        environment = {
            **os.environ,
            **server.environment(),
            **variables,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGPASSWORD": "of-superuser",
        }
        for _ in range(2):
            subprocess.run(
                ["sh", str(DOCKER / "postgres" / "10-databases.sh")],
                env=environment,
                check=True,
                capture_output=True,
            )
        for name in names:
            place = f"host=127.0.0.1 port={server.port} user={name} password=secret-of-{name}"
            with psycopg.connect(f"{place} dbname={name}") as connection:
                connection.execute("CREATE TABLE mine (id int)")
            for other in names - {name}:
                with pytest.raises(psycopg.OperationalError, match="permission denied"):
                    psycopg.connect(f"{place} dbname={other}")


def properties(pom: Path) -> dict[str, str]:
    found = ET.parse(pom).getroot().find(f"{POM}properties")
    assert found is not None
    return {child.tag.removeprefix(POM): str(child.text) for child in found}


def test_versions_are_those_of_their_one_home() -> None:
    declared = properties(DOCKER / "hapi-local" / "pom.xml")
    for name, value in versions.MAVEN_PROPERTIES.items():
        assert declared[name] == value, name
    assert f"FROM {versions.HAPI_IMAGE}\n" in (DOCKER / "hapi" / "Dockerfile").read_text()
    assert versions.HAPI_IMAGE.startswith(f"hapiproject/hapi:v{versions.HAPI}-")


def test_both_builds_use_the_same_libraries() -> None:
    dependencies = ET.parse(DOCKER / "hapi-local" / "server" / "pom.xml").getroot()
    declared = {
        f"{node.findtext(f'{POM}groupId')}:{node.findtext(f'{POM}artifactId')}"
        for node in dependencies.iter(f"{POM}dependency")
    }
    excluded = {
        f"{node.findtext(f'{POM}groupId')}:{node.findtext(f'{POM}artifactId')}"
        for node in dependencies.iter(f"{POM}exclusion")
    }
    libraries = {library.rpartition(":")[0] for library in versions.LIBRARIES}
    assert declared == libraries | {"io.github.fhirext.hapi:hapi-interceptors"}
    assert excluded == set(versions.UNUSED_LIBRARIES)


def test_hapi_is_told_which_interceptors_to_load() -> None:
    hapi = yaml.safe_load((DOCKER / "hapi" / "application.yaml").read_text())["hapi"]["fhir"]
    folder = DOCKER / "hapi-local" / "interceptors" / "src" / "main" / "java"
    sources = [file for file in folder.rglob("*.java") if file.stem != "package-info"]
    named = {
        ".".join(file.relative_to(folder).with_suffix("").parts): file.read_text()
        for file in sources
    }
    # Interceptors are named one by one; other beans are found in their package.
    interceptors = {name for name, text in named.items() if "@Interceptor" in text}
    assert set(hapi["custom-interceptor-classes"]) == interceptors
    assert {name.rpartition(".")[0] for name in named} == {hapi["custom-bean-packages"]}
