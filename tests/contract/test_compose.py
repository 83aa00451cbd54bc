"""The container deployment, as far as it can be checked without a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from fhir_ext.embedded import versions
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
    values = {"PUBLISH_ADDRESS": "127.0.0.1:8000", "PUBLIC_URL": "https://fhir-ext.example.org"}
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


def test_only_the_service_is_published(compose: dict[str, Any], services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["serve"]
    assert compose["networks"]["private"]["internal"] is True
    for name, service in services.items():
        expected = ["private", "public"] if name == "serve" else ["private"]
        assert service["networks"] == expected, name


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
    assert len(ours) == 4
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
