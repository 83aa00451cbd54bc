"""The shape of the project: imports point one way, files stay small, the wheel owns its names."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fhir_ext", "operations", "subscriptions", "models")
PROGRAMS = {"app", "cli", "__main__"}

#: Violation of each contract: file (made when it is not there) and the line that breaks it.
VIOLATIONS = {
    "layers": ("fhir_ext/errors.py", "from operations.analyze import plan"),
    "operations": ("operations/planted/service.py", "from operations.analyze import plan"),
    "torch": ("operations/analyze/plan.py", "import torch"),
    "fastapi": ("operations/analyze/plan.py", "import fastapi"),
    "fhirpy": ("subscriptions/queue.py", "import fhirpy"),
    "dicomweb": ("fhir_ext/dicom/volume.py", "import dicomweb_client"),
}


def lint_imports(folder: Path) -> str:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def contracts() -> dict[str, str]:
    """Id of each contract to its name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    return {
        section.removeprefix(prefix): parser[section]["name"]
        for section in parser.sections()
        if section.startswith(prefix)
    }


def test_every_contract_catches_a_planted_violation(copy: Path) -> None:
    names = contracts()
    assert set(VIOLATIONS) == set(names)
    clean = lint_imports(copy)
    assert [name for name in names.values() if f"{name} KEPT" not in clean] == []
    for file, line in VIOLATIONS.values():
        path = copy / file
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        with path.open("a", encoding="utf-8") as source:
            source.write(f"\n{line}\n")
    broken = lint_imports(copy)
    assert [name for name in names.values() if f"{name} BROKEN" not in broken] == []


def test_the_lowest_layer_names_every_part_of_the_ground() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    lowest = parser["importlinter:contract:layers"]["layers"].strip().splitlines()[-1]
    named = {name.strip() for name in lowest.split(":")}
    parts = {
        f"fhir_ext.{path.stem}"
        for path in (ROOT / "fhir_ext").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists())
        and path.stem not in PROGRAMS | {"__init__"}
    }
    assert named == parts


def test_no_file_is_over_500_lines() -> None:
    folders = [*PACKAGES, "tests", "bench", "tools", "docker"]
    long = {
        str(path.relative_to(ROOT)): count
        for folder in folders
        for suffix in ("py", "java", "ts")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert long == {}


def test_there_are_no_packages_below_tests() -> None:
    """`tests/models/__init__.py` would hide our `models`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert not (ROOT / "docker" / "__init__.py").exists()


def _existing(names: list[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is not None]


LIGHT = _existing(
    [
        "fhir_ext.settings",
        "fhir_ext.logs",
        "fhir_ext.telemetry",
        "fhir_ext.outcome",
        "fhir_ext.cli",
        "fhir_ext.app",
    ]
)


def test_the_ground_exists() -> None:
    assert "fhir_ext.settings" in LIGHT


@pytest.mark.parametrize("module", LIGHT)
def test_the_http_side_and_the_command_line_start_without_heavy_libraries(module: str) -> None:
    program = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    heavy = {"torch", "torchvision", "monai", "highdicom", "SimpleITK", "spacy", "openvino"}
    assert loaded & heavy == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sources and unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], capture_output=True, check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    unpacked = folder / "site"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_wheel_holds_our_four_packages_and_nothing_else(wheel: Path) -> None:
    found = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert found == set(PACKAGES)


def test_the_wheel_holds_the_data_files(wheel: Path) -> None:
    """Everything beside the sources that the programs read at run time."""
    kinds = {".yaml", ".json", ".html", ".css", ".js", ".mako", ".svg"}
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in kinds and "__pycache__" not in path.parts
    }
    assert "operations/analyze/rules.yaml" in wanted
    assert {name for name in wanted if not (wheel / name).exists()} == set()


def test_each_of_our_names_has_one_owner(wheel: Path) -> None:
    """pip silently lets another distribution overwrite a package called `models`."""
    program = (
        "import importlib.metadata, json, fhir_ext\n"
        "owners = importlib.metadata.packages_distributions()\n"
        f"names = {PACKAGES!r}\n"
        "print(json.dumps([fhir_ext.__file__, {name: owners[name] for name in names}]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(wheel)},
        cwd=wheel.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    imported, owners = json.loads(done.stdout)
    assert Path(imported).is_relative_to(wheel)
    assert {name: set(who) for name, who in owners.items()} == {p: {"fhir-ext"} for p in PACKAGES}
