"""The service that docs/add-a-model.md shows, run as it stands there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import models
from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry
from fhir_ext.results import Refusal, Uncertainty
from models.manifest import ManifestError
from models.registry import Registry
from models.service import ModelInput, ServiceOutput

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-model.md").read_text("utf-8")
VOXEL = 10.0


def block(language: str) -> str:
    """The one whole file of a language that the page shows; its fragments are shorter."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(max(found, key=len))


def registry(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> Registry:
    """A folder below `models`, as the page says; texts of its manifest are replaced."""
    service = folder / "air_volume"
    service.mkdir()
    manifest = block("yaml")
    for old, new in changes.items():
        manifest = manifest.replace(old, new)
    (service / "__init__.py").touch()
    (service / "manifest.yaml").write_text(manifest, "utf-8")
    (service / "service.py").write_text(block("python"), "utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    return Registry(folder)


def volume(air: int) -> CTVolume:
    """40 slices of water with so many voxels of air, each of 1 mL."""
    voxels = np.zeros((40, 30, 30), np.int16)
    voxels.reshape(-1)[:air] = -1000
    geometry = Geometry((0, 0, 0), (VOXEL, 0, 0), (0, VOXEL, 0), (0, 0, VOXEL), "")
    acquisition = Acquisition("CT", "SIEMENS", "B30f", 2.5, 120.0)
    return CTVolume(voxels, geometry, acquisition, "1.2", "1.3", ("1.4",) * 40)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return registry(tmp_path, monkeypatch)


def run(made: Registry, shown: CTVolume) -> ServiceOutput:
    return made.load("air-volume").run(ModelInput(shown))


def test_a_number_with_what_the_manifest_says_of_it(made: Registry) -> None:
    (found,) = run(made, volume(2999)).measurements
    assert (found.name, found.region, found.unit) == ("organ-volume", "lungs", "mL")
    assert (found.value, found.uncertainty) == (2999, Uncertainty("sd", 25))


def test_a_cut_off_that_is_reached_is_told(made: Registry) -> None:
    assert run(made, volume(2999)).notes == ()
    said = "much-air: at or above 3000 mL. Who says so."
    assert run(made, volume(3000)).notes == (("organ-volume", said),)


def test_what_no_body_shows_is_withheld(made: Registry) -> None:
    output = run(made, volume(99))
    assert output.measurements[0].refusal == Refusal("implausible-value", "99", "100 to 30000")
    assert not output.stands


def test_the_gate_refuses(made: Registry) -> None:
    shown = volume(2999)
    thick = replace(shown, acquisition=replace(shown.acquisition, slice_thickness_mm=6.0))
    (found,) = run(made, thick).measurements
    assert found.refusal is not None
    assert found.refusal.rule == "slice-thickness"


@pytest.mark.parametrize(
    ("old", "new"), [("air_hu", "air_hus"), ("region: lungs", "region: liver")]
)
def test_what_it_does_not_know_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    with pytest.raises(ManifestError):
        registry(tmp_path, monkeypatch, **{old: new}).load("air-volume")
