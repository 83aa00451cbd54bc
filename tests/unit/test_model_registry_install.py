"""A folder is looked at whole, copied whole, and never leads out of itself."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from registry_samples import LUNG, OPERATOR, Desk, lung_folder, lung_manifest, write_model
from safetensors.numpy import save_file

from fhir_ext.errors import ConflictError, NotFoundError, UnprocessableError
from models.lifecycle import State
from models.registry import Installed
from operations.model_registry.folder import digest_of, inspect_folder, sha256_of

LIMIT = 10_000_000
ZERO = "0" * 64


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def network_folder(folder: Path, **weights: str) -> Path:
    """A model with a file of weights and a case of tensors; hashes as given, else right."""
    folder.mkdir(parents=True)
    (folder / "cases").mkdir()
    save_file({"w": np.arange(4, dtype=np.float32)}, folder / "weights.safetensors")
    for name in ("in", "out"):
        save_file({"image": np.ones((1, 4), np.float32)}, folder / "cases" / f"{name}.safetensors")

    def file(name: str) -> dict[str, str]:
        return {"file": name, "sha256": sha256_of(folder / name)}

    tensors = file("cases/out.safetensors")
    manifest = lung_manifest(
        "2.0.0",
        id="tiny-net",
        thresholds={},
        settings={},
        runtime={
            "kind": "safetensors",
            "network": "models.breast_density.network:HistogramNetwork",
            "weights": {**file("weights.safetensors"), "licence": "Apache-2.0", **weights},
            "inputs": [{"name": "image", "shape": ["n", 1, "z", "y", "x"]}],
            "outputs": [{"name": "image", "shape": ["n", 1]}],
        },
        gates=[],
        outputs=[{"name": "a", "region": "lungs", "unit": "1", "valid": [0, 1], "tensor": "image"}],
        cases=[
            {
                "name": "one",
                "input": {"kind": "tensors", **file("cases/in.safetensors")},
                "expect": [{"output": "image", "tensors": tensors}],
            }
        ],
    )
    return write_model(folder, manifest)


def problems(folder: Path, limit: int = LIMIT) -> list[str]:
    found = inspect_folder(folder, limit)
    assert (found.manifest is None) == bool(found.problems)
    return [f"{item.line}: {item.field}: {item.reason}" for item in found.problems]


def line_of(folder: Path, text: str) -> int:
    lines = (folder / "manifest.yaml").read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_good_folder_has_no_problems(tmp_path: Path) -> None:
    assert problems(network_folder(tmp_path / "m")) == []


def test_a_wrong_hash_is_shown_with_the_right_one_and_its_line(tmp_path: Path) -> None:
    folder = network_folder(tmp_path / "m", sha256=ZERO)
    (said,) = problems(folder)
    right = sha256_of(folder / "weights.safetensors")
    line = line_of(folder, "file: weights.safetensors")
    assert said == f"{line}: runtime.weights.sha256: the file has sha256 {right}"


def test_a_missing_hash_is_shown_too(tmp_path: Path) -> None:
    folder = network_folder(tmp_path / "m")
    path = folder / "manifest.yaml"
    data = yaml.safe_load(path.read_text("utf-8"))
    del data["runtime"]["weights"]["sha256"]
    write_model(folder, data)
    said = problems(folder)
    assert any("is missing" in line for line in said)
    assert any(sha256_of(folder / "weights.safetensors") in line for line in said)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    folder = network_folder(tmp_path / "m", sha256=ZERO)
    (folder / "cases" / "in.safetensors").unlink()
    data = yaml.safe_load((folder / "manifest.yaml").read_text("utf-8"))
    write_model(folder, {**data, "review": "sometimes"})
    said = problems(folder)
    assert len(said) == 3
    assert any("review" in line for line in said)
    assert any("there is no such file" in line for line in said)
    assert any("sha256" in line for line in said)


def test_no_manifest_and_no_yaml(tmp_path: Path) -> None:
    assert "cannot be read" in problems(tmp_path)[0]
    (tmp_path / "manifest.yaml").write_text("id: [\n")
    assert problems(tmp_path)[0].startswith("2: manifest:")


def test_files_over_the_limit(tmp_path: Path) -> None:
    assert any(
        "more than 100 bytes" in line for line in problems(network_folder(tmp_path / "m"), 100)
    )


@pytest.mark.parametrize("kind", ["bare", "zip"])
def test_pickles_are_refused(tmp_path: Path, kind: str) -> None:
    folder = network_folder(tmp_path / "m")
    weights = folder / "weights.safetensors"
    if kind == "bare":
        weights.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    else:
        with zipfile.ZipFile(weights, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    data = yaml.safe_load((folder / "manifest.yaml").read_text("utf-8"))
    data["runtime"]["weights"]["sha256"] = sha256_of(weights)
    write_model(folder, data)
    (said,) = problems(folder)
    assert "is a pickle" in said


@pytest.mark.parametrize("what", ["file", "folder", "manifest"])
def test_links_are_refused(tmp_path: Path, what: str) -> None:
    folder = network_folder(tmp_path / "m")
    names = {"file": "weights.safetensors", "folder": "cases", "manifest": "manifest.yaml"}
    inside = folder / names[what]
    outside = tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside)
    assert any("is a link" in line for line in problems(folder))


def test_what_is_installed_is_what_the_manifest_names(desk: Desk) -> None:
    folder = network_folder(desk.tmp_path / "m")
    (folder / "LICENSE.weights").write_text("free")
    (folder / "train.py").write_text("raise SystemExit")
    (folder / ".git").mkdir()
    row = desk.service.install(folder, OPERATOR)
    target = desk.settings.folder / "tiny-net" / "2.0.0"
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert found == [
        "LICENSE.weights",
        "cases/in.safetensors",
        "cases/out.safetensors",
        "manifest.yaml",
        "weights.safetensors",
    ]
    assert row.state is State.DRAFT
    assert row.digest == digest_of(target)
    assert [path.name for path in target.parent.iterdir()] == ["2.0.0"]
    assert desk.registry.versions("tiny-net") == ("2.0.0",)


def test_the_same_files_again_change_nothing(desk: Desk) -> None:
    folder = lung_folder(desk.tmp_path, "1.1.0")
    first = desk.service.install(folder, OPERATOR)
    assert desk.service.install(folder, OPERATOR) == first
    assert len(desk.service.history(LUNG)) == 1


def test_a_version_that_lost_its_row_gets_it_back(desk: Desk) -> None:
    folder = lung_folder(desk.tmp_path, "1.1.0")
    first = desk.service.install(folder, OPERATOR)
    with desk.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM model_version")
    assert desk.service.install(folder, OPERATOR).digest == first.digest


def test_other_files_under_the_same_version_are_refused(desk: Desk) -> None:
    desk.service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    other = lung_folder(desk.tmp_path / "x", "1.1.0", title="Another")
    for folder in (other, lung_folder(desk.tmp_path, "1.0.0")):
        with pytest.raises(ConflictError) as caught:
            desk.service.install(folder, OPERATOR)
        assert caught.value.code == "model-exists"


def test_a_folder_that_is_wrong_leaves_nothing_behind(desk: Desk) -> None:
    with pytest.raises(UnprocessableError) as caught:
        desk.service.install(lung_folder(desk.tmp_path, "1.1.0", review="often"), OPERATOR)
    assert caught.value.code == "model-invalid"
    assert "review" in caught.value.issues[0].diagnostics
    assert str(desk.tmp_path) not in caught.value.message
    assert not desk.settings.folder.exists()
    assert desk.service.versions() == []


def test_a_disk_that_fails_leaves_nothing_behind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        desk.service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    assert list((desk.settings.folder / LUNG).iterdir()) == []
    assert desk.registry.versions(LUNG) == ("1.0.0",)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../other", "nothing", "link", "a\\b"])
def test_the_inbox_is_not_left(desk: Desk, name: str) -> None:
    desk.settings.inbox.mkdir()
    (desk.settings.inbox / "link").symlink_to(lung_folder(desk.tmp_path / "other", "1.1.0"))
    with pytest.raises(NotFoundError) as caught:
        desk.service.install_from_inbox(name, OPERATOR)
    assert caught.value.code == "model-folder"


def test_a_folder_of_the_inbox_is_installed(desk: Desk) -> None:
    lung_folder(desk.settings.inbox, "1.1.0")
    row = desk.service.install_from_inbox("lung-1.1.0", OPERATOR)
    assert (row.version, row.state) == ("1.1.0", State.DRAFT)


def test_a_broken_folder_of_the_site_hides_no_other(desk: Desk) -> None:
    broken = desk.settings.folder / "broken" / "1.0.0"
    broken.mkdir(parents=True)
    (broken / "manifest.yaml").write_text("nonsense")
    desk.service.install(lung_folder(desk.tmp_path, "1.1.0"), OPERATOR)
    found = desk.registry.find(LUNG, "1.1.0")
    assert isinstance(found, Installed)


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = yaml.safe_load((folder / "manifest.yaml").read_text("utf-8"))
    change(data)
    return write_model(folder, data)


def test_what_a_network_without_code_cannot_do_is_said_before_it_is_run(tmp_path: Path) -> None:
    folder = changed(
        network_folder(tmp_path / "m"),
        lambda data: data["runtime"]["inputs"][0].update(shape=["n", "slices"]),
    )
    said = f"{line_of(folder, 'shape:')}: runtime.inputs.0.shape: is neither of volumes nor"
    assert [line for line in problems(folder) if line.startswith(said)]


@pytest.mark.parametrize(("unit", "right"), [("HU", False), ("[hnsf'U]", True), ("mm2", True)])
def test_units_are_of_ucum(tmp_path: Path, unit: str, right: bool) -> None:
    folder = changed(
        network_folder(tmp_path / "m"), lambda data: data["outputs"][0].update(unit=unit)
    )
    assert any("UCUM" in line for line in problems(folder)) != right


@pytest.mark.parametrize("kind", ["state", "module", "text", "script"])
def test_a_checkpoint_is_no_torchscript(tmp_path: Path, kind: str) -> None:
    import torch

    folder = network_folder(tmp_path / "m")
    path = folder / "network.pt"
    if kind == "text":
        path.write_text("weights", "utf-8")
    elif kind == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(torch.nn.Identity()).save(str(path))
    else:
        whole = torch.nn.Linear(2, 2)
        torch.save(whole if kind == "module" else whole.state_dict(), path)
    weights = {"file": path.name, "sha256": sha256_of(path), "licence": "Apache-2.0"}
    changed(
        folder,
        lambda data: data.update(
            runtime={
                **{k: v for k, v in data["runtime"].items() if k != "network"},
                "kind": "torchscript",
                "weights": weights,
            }
        ),
    )
    refused = [line for line in problems(folder) if "is no file of torch.jit.save" in line]
    assert bool(refused) == (kind != "script")
