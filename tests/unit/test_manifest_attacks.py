"""Manifests that are written to break whoever reads them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from registry_samples import lung_manifest

from models.manifest import Manifest, ManifestError, read_manifest
from models.manifest.reader import MOST_PROBLEMS

BASE = yaml.safe_dump(lung_manifest("9.0.0"), sort_keys=False)


def read(tmp_path: Path, version: str = "9.0.0", more: str = "") -> Manifest:
    path = tmp_path / "manifest.yaml"
    path.write_text(BASE.replace("version: 9.0.0", f"version: {version}") + more, "utf-8")
    return read_manifest(path)


@pytest.mark.parametrize(
    "scalar",
    [
        "2024-99-99",
        "!!int abc",
        '!!int ""',
        "!!timestamp x",
        "!!bool x",
        "!!float x",
        "9" * 5000,
        "{a: !!int x}",
        "!!python/object/apply:os.getcwd []",
    ],
)
def test_a_scalar_that_yaml_cannot_make_is_an_error_with_its_line(
    tmp_path: Path, scalar: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, scalar)
    line = BASE.splitlines().index("version: 9.0.0") + 1
    assert f"manifest.yaml:{line}: " in str(caught.value)


def test_a_number_to_the_base_of_60_costs_no_minutes(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(ManifestError, match="a number is too long"):
        read(tmp_path, ":".join(["1"] * 200_000))
    assert time.monotonic() - begin < 3


def test_of_very_many_problems_the_first_are_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, more="".join(f"k{number}: 1\n" for number in range(2000)))
    assert len(caught.value.problems) == MOST_PROBLEMS


def test_a_pipe_in_place_of_a_manifest_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.yaml")
    with pytest.raises(ManifestError, match="is no file"):
        read_manifest(tmp_path / "manifest.yaml")


@pytest.mark.parametrize(
    "version",
    [
        "1.2\u0663.0",
        "1.0.\uff10",
        "1.0.0-..",
        "1.0.0-../x",
        "1.0.0-a..b",
        "1.0.0-" + "a" * 300,
        '"1.0.0\\n"',
    ],
)
def test_versions_that_are_no_names_of_folders(tmp_path: Path, version: str) -> None:
    with pytest.raises(ManifestError, match="version"):
        read(tmp_path, version)


def test_a_version_before_a_release_stays_one(tmp_path: Path) -> None:
    assert read(tmp_path, "1.0.0-rc.1").version == "1.0.0-rc.1"


@pytest.mark.parametrize("name", ['"a\\0b"', ".w/net.pt", "a/.hidden", "__pycache__/x", "a\\b"])
def test_files_that_no_hash_over_the_folder_would_see(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=r"card\.file|control character"):
        read(tmp_path, more=f"card: {{file: {name}}}\n")
