"""manifest.yaml and the registry of installed services."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import models
from fhir_ext.errors import NotFoundError
from fhir_ext.results import Region
from models.manifest import Manifest, ManifestError, read_manifest
from models.registry import NOT_INSTALLED, Registry

SHIPPED = Path(models.__file__).parent / "lung_density" / "manifest.yaml"

SMALL = """\
id: some-model
version: 0.1.0
title: Some model
licence: Apache-2.0
intended_use: Tests.
not_for: Anything else.
inputs:
  modality: [CT]
  min_slices: 3
gates:
  - rule: kvp
    min: 100
    because: Reasons.
  - rule: coverage
    applies_to: [size]
    min: 10
outputs:
  - {name: size, region: lungs, unit: mL, valid: [0, 10]}
settings:
  width: 2.0
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_manifest_names_exactly_the_measurements() -> None:
    manifest = read_manifest(SHIPPED)
    assert manifest.id == "lung-density"
    units = {"lung-volume": "mL", "mean-lung-density": "[hnsf'U]", "laa-950": "%"}
    units["perc15"] = "[hnsf'U]"
    assert {(o.name, o.region): o.unit for o in manifest.outputs} == {
        (name, region): unit
        for name, unit in units.items()
        for region in (Region.LUNGS, Region.LEFT_LUNG, Region.RIGHT_LUNG)
    }
    assert manifest.review == "always"


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("version: 0.1.0", "version: one", 2, "version: must be three numbers"),
        ("id: some-model", "id: Some_Model", 1, "id: must be lower-case"),
        ("title: Some model\n", "", 1, "title: is missing"),
        ("licence:", "license:", 1, "licence: is missing"),
        ("  min_slices: 3", "  min_slices: none", 9, "inputs.min_slices: "),
        ("    min: 100", "    mini: 100", 12, "gates.0.kvp"),
        ("  - rule: kvp", "  - rule: voltage", 11, "gates.0: "),
        (
            "[size]",
            "[length]",
            10,
            "gates: gate coverage applies to no output",
        ),
        ("region: lungs", "region: elbow", 18, "outputs.0.region: "),
        ("valid: [0, 10]", "valid: [10, 0]", 18, "outputs.0.valid: "),
        ("settings:", "surplus: 1\nsettings:", 19, "surplus: is no field here"),
        ("  width: 2.0", "  width: [2", 21, ""),
    ],
)
def test_error_names_file_line_and_reason(
    tmp_path: Path, old: str, new: str, line: int, reason: str
) -> None:
    assert old in SMALL
    path = write(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert caught.value.message.startswith(f"{path}:{line}: {reason}")
    assert caught.value.code == "manifest-invalid"


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just text"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.yaml:1: "):
        read_manifest(write(tmp_path, text))


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "manifest.yaml")


def identity_hash(text: str) -> str:
    return Manifest.model_validate(yaml.safe_load(text)).identity().settings_hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width: 2.0", "width: 2.5"),
        ("min: 100", "min: 110"),
        ("valid: [0, 10]", "valid: [0, 20]"),
        ("min_slices: 3", "min_slices: 4"),
        ("settings:", "thresholds: {limit: 5}\nsettings:"),
    ],
)
def test_what_changes_numbers_changes_the_hash(old: str, new: str) -> None:
    assert identity_hash(SMALL.replace(old, new)) != identity_hash(SMALL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("because: Reasons.", "because: Other reasons."),
        ("title: Some model", "title: Renamed"),
        ("not_for: Anything else.", "not_for: Children."),
        ("width: 2.0", "width: 2.0   # comment"),
        ("version: 0.1.0", "version: 0.1.1"),
    ],
)
def test_words_do_not_change_the_hash(old: str, new: str) -> None:
    assert identity_hash(SMALL.replace(old, new)) == identity_hash(SMALL)


def test_identity_is_stable_and_carries_the_policy() -> None:
    manifest = Manifest.model_validate(yaml.safe_load(SMALL))
    identity = manifest.identity()
    assert identity == Manifest.model_validate(yaml.safe_load(SMALL)).identity()
    assert (identity.id, identity.version, identity.title) == ("some-model", "0.1.0", "Some model")
    assert len(identity.settings_hash) == 64
    assert identity.review == "always"


def test_registry_lists_without_torch() -> None:
    program = (
        "import sys\n"
        "from models.registry import Registry\n"
        "registry = Registry()\n"
        "assert 'lung-density' in registry.services(), registry.services()\n"
        "registry.manifest('lung-density').identity()\n"
        "heavy = {'torch', 'cc3d', 'scipy', 'highdicom'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_registry_loads_once() -> None:
    registry = Registry()
    assert registry.load("lung-density") is registry.load("lung-density")


def test_unknown_service_is_not_installed() -> None:
    registry = Registry()
    for ask in (registry.manifest, registry.load):
        with pytest.raises(NotFoundError) as caught:
            ask("no-such-service")
        assert caught.value.code == NOT_INSTALLED


def test_service_without_its_code_is_not_installed(tmp_path: Path) -> None:
    write(tmp_path / "some_model", SMALL)
    registry = Registry(tmp_path)
    assert registry.services() == ("some-model",)
    with pytest.raises(NotFoundError) as caught:
        registry.load("some-model")
    assert caught.value.code == NOT_INSTALLED


def test_folder_and_id_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "other_model", SMALL)
    with pytest.raises(ManifestError, match="does not match its folder"):
        Registry(tmp_path)
