"""Manifests for detectors that a site brings: right but for the files that are not ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nodule_samples import chest, volume

import models.nodule_detection
from models.manifest import read_manifest
from models.network.service import create
from models.runtime.base import ModelFailure
from models.runtime.host import Host
from models.runtime.weights import MAX_BYTES
from models.service import ModelInput
from operations.model_registry.folder import inspect_folder, sha256_of

EXAMPLES = Path(models.nodule_detection.__file__).parent / "examples"
MISSING = "sha256: to be filled in"
#: Example to the files that a site puts beside it.
FILES = {
    "monai_retinanet_luna16.yaml": (
        "bundle/configs/inference.json",
        "bundle/configs/metadata.json",
        "bundle/models/model.pt",
    ),
    "torchvision_detection.yaml": ("network.safetensors",),
}


def folder_of(name: str, folder: Path) -> Path:
    """The example as a site has it before it knows the hashes; the files hold one byte each."""
    (folder / "manifest.yaml").write_text((EXAMPLES / name).read_text("utf-8"), "utf-8")
    for file in FILES[name]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(file[-1].encode())
    return folder


def filled(folder: Path, files: tuple[str, ...]) -> None:
    path = folder / "manifest.yaml"
    text = path.read_text("utf-8")
    for file in files:
        text = text.replace(MISSING, f"sha256: {sha256_of(folder / file)}", 1)
    path.write_text(text, "utf-8")


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_only_hashes_are_missing_and_validate_tells_them(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    found = inspect_folder(folder, MAX_BYTES)
    assert found.manifest is None
    assert {problem.field.rpartition(".")[2] for problem in found.problems} == {"sha256"}
    said = " ".join(problem.reason for problem in found.problems)
    for file in FILES[name]:
        assert sha256_of(folder / file) in said
    filled(folder, FILES[name])
    found = inspect_folder(folder, MAX_BYTES)
    assert found.problems == ()
    assert found.manifest is not None
    assert not found.manifest.switched_on
    assert found.manifest.review == "always"


@pytest.mark.parametrize("name", FILES)
def test_without_weights_the_answer_is_not_installed(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    filled(folder, FILES[name])
    for file in FILES[name]:
        (folder / file).unlink()
    manifest = read_manifest(folder / "manifest.yaml")
    thin = volume(chest(), slice_thickness_mm=1.25)
    if "spacing" in {gate.rule for gate in manifest.gates}:
        manifest = manifest.model_copy(update={"gates": ()})
    host = Host()
    try:
        with pytest.raises(ModelFailure) as caught:
            create(manifest, folder, host).run(ModelInput(thin))
    finally:
        host.close()
    assert caught.value.code == "model-not-installed"


def test_the_docs_show_how(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "services" / "nodule-detection.md").read_text(
        "utf-8"
    )
    for name in FILES:
        assert f"models/nodule_detection/examples/{name}" in page
    assert re.search(r"fhir-ext model validate", page)
    assert re.search(r"fhir-ext model activate nodule-detection 1\.0\.0", page)
