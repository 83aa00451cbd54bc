"""The cache folder: complete or absent, built once, keyed by content."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from fhir_ext.embedded import hapi
from fhir_ext.embedded.cache import cache_root, cached, content_key, install, size_mb
from fhir_ext.embedded.hapi import HapiBuild, HapiDatabase, HapiServer, ensure_hapi
from fhir_ext.embedded.java import Toolchain
from fhir_ext.errors import SettingsError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FHIR_EXT_CACHE", str(folder))
    return folder


def no_progress(line: str) -> None:
    pass


def write_file(target: Path) -> None:
    (target / "file").write_bytes(b"x" * 1000)


def test_folder_is_named_by_the_variable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == root
    monkeypatch.delenv("FHIR_EXT_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/fhir-ext")


def test_install_builds_once(root: Path) -> None:
    built: list[Path] = []

    def build(target: Path) -> None:
        built.append(target)
        write_file(target)

    assert cached("part", "key") is None
    first = install("part", "key", build, no_progress)
    assert install("part", "key", build, no_progress) == first == cached("part", "key")
    assert first == root / "part" / "key"
    assert len(built) == 1
    assert size_mb(first) == pytest.approx(0.001)


def test_a_failed_build_leaves_nothing_and_can_be_repeated() -> None:
    def fail(target: Path) -> None:
        write_file(target)
        raise SettingsError("no network")

    with pytest.raises(SettingsError, match="no network"):
        install("part", "key", fail, no_progress)
    assert cached("part", "key") is None
    assert [path.name for path in (cache_root() / "part").iterdir()] == ["key.lock"]
    assert (install("part", "key", write_file, no_progress) / "file").is_file()


def test_what_a_killed_build_left_is_removed() -> None:
    left = cache_root() / "part" / "key.part-abc"
    left.mkdir(parents=True)
    install("part", "key", write_file, no_progress)
    assert not left.exists()


def test_a_second_process_waits_for_the_first() -> None:
    home = cache_root() / "part"
    home.mkdir(parents=True)
    said: list[str] = []
    waits = threading.Event()

    def progress(line: str) -> None:
        said.append(line)
        waits.set()

    def never(target: Path) -> None:
        raise AssertionError("built twice")

    found: list[Path] = []
    second = threading.Thread(
        target=lambda: found.append(install("part", "key", never, progress)), daemon=True
    )
    with (home / "key.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        assert waits.wait(10)
        (home / "key").mkdir()
    second.join(10)
    assert found == [home / "key"]
    assert said == ["another process is building the same; waiting for it"]


def test_key_changes_with_facts_names_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.java"
    file.write_text("class A {}")
    keys = {content_key(["1"], [file], tmp_path), content_key(["2"], [file], tmp_path)}
    file.write_text("class A { }")
    keys.add(content_key(["1"], [file], tmp_path))
    renamed = file.rename(tmp_path / "b.java")
    keys.add(content_key(["1"], [renamed], tmp_path))
    assert len(keys) == 4
    assert content_key(["1"], [renamed], tmp_path) in keys


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which builds were asked for; none is done."""
    ways: list[str] = []
    monkeypatch.setattr(hapi, "build_with_maven", lambda *_: ways.append("maven"))
    monkeypatch.setattr(hapi, "build_with_wheels", lambda *_: ways.append("wheels"))
    monkeypatch.setattr(hapi, "find_toolchain", lambda: Toolchain(Path("/jdk"), Path("/mvn")))
    return ways


def test_maven_is_taken_where_it_is(built: list[str]) -> None:
    build = ensure_hapi(no_progress)
    assert (build.way, build.java) == ("maven", Path("/jdk/bin/java"))
    assert ensure_hapi(no_progress) == build
    assert built == ["maven"]


def test_wheels_are_taken_without_maven(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hapi, "find_toolchain", lambda: None)
    build = ensure_hapi(no_progress)
    assert (build.way, build.java) == ("wheels", build.directory / "jre" / "bin" / "java")
    with pytest.raises(SettingsError, match="JDK of at least 17 is missing"):
        ensure_hapi(no_progress, "maven")


def test_wheels_are_taken_when_maven_fails(
    built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SettingsError("Maven failed with exit code 1\nits output")

    monkeypatch.setattr(hapi, "build_with_maven", fail)
    said: list[str] = []
    assert ensure_hapi(said.append).way == "wheels"
    assert "Maven failed with exit code 1; building from Python wheels instead" in said
    with pytest.raises(SettingsError, match="Maven failed"):
        ensure_hapi(no_progress, "maven")


def test_database_password_is_in_the_environment_only(tmp_path: Path) -> None:
    database = HapiDatabase.postgres("127.0.0.1", 5432, "hapi", "hapi", "of-this-test")
    build = HapiBuild(tmp_path, tmp_path / "java", "maven")
    server = HapiServer(build, tmp_path, 8080, database=database)
    assert server.environment()["HAPI_DATABASE_PASSWORD"] == "of-this-test"
    assert "of-this-test" not in " ".join(server.command()) + repr(database)
