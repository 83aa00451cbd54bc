"""The reference nodule detector on a scanned chest: inserted nodules, and the real tumour.

The left side of this patient is what the network learnt from; the tumour in it was left out of the
training. The right side it never saw.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import models.nodule_detection
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Detection
from models.manifest import Detections
from models.nodule_detection.train.backgrounds import (
    Background,
    from_volume,
    halves,
    read_annotations,
    read_series,
)
from models.nodule_detection.train.nodules import Nodule, insert, place
from models.registry import Registry
from models.runtime.host import Host
from models.service import ModelInput

ARCHIVE = Path("ct_lung_pet_ct_dx") / "A0001_L_and_B_kernels.zip"
SERVICE = "nodule-detection"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    host = Host()
    yield Registry(host=host)
    host.close()


@pytest.fixture(scope="module")
def series(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CTVolume]:
    """Convolution kernel to volume: the same scan, reconstructed twice."""
    folder = tmp_path_factory.mktemp("a0001")
    with zipfile.ZipFile(real_data / ARCHIVE) as archive:
        for name in archive.namelist():
            if name.endswith((".dcm", ".xml")):
                archive.extract(name, folder)
    found = read_series(folder)
    _ANNOTATED.update(read_annotations(folder))
    return {volume.acquisition.convolution_kernel or "": volume for volume in found}


_ANNOTATED: dict[str, list[tuple[int, ...]]] = {}


def detections(registry: Registry, volume: CTVolume) -> tuple[Detection, ...]:
    output = registry.load(SERVICE).run(ModelInput(volume))
    assert output.searched
    return output.detections


def in_patient(volume: CTVolume, centre: tuple[float, float, float]) -> np.ndarray:
    """(x, y, z) in mm of a voxel (z, y, x); these series lie head first and supine."""
    geometry = volume.geometry
    steps = np.array([geometry.slice_step, geometry.row_step, geometry.column_step])
    found: np.ndarray = np.asarray(geometry.origin) + np.asarray(centre) @ steps
    return found


def with_nodules(
    volume: CTVolume, background: Background, nodules: list[Nodule], seed: int
) -> CTVolume:
    hu = insert(background, nodules, 0, np.random.default_rng(seed))
    assert hu.shape == volume.voxels.shape
    return replace(volume, voxels=hu)


@pytest.mark.parametrize("kernel", ["B", "L"])
def test_inserted_nodules_on_the_side_it_never_saw(
    registry: Registry, series: dict[str, CTVolume], kernel: str
) -> None:
    volume = series[kernel]
    _, background = halves(from_volume(volume, kernel, _ANNOTATED), "left")
    placed = [
        item
        for item in place(background, 14, np.random.default_rng(77))
        if item.diameter_mm >= 8 and item.density == "solid"
    ]
    assert len(placed) >= 4
    found = detections(registry, with_nodules(volume, background, placed, 5))
    hit = 0
    for item in placed:
        at = in_patient(volume, item.centre)
        near = [np.linalg.norm(np.subtract(other.centre_mm, at)) for other in found]
        hit += min(near, default=np.inf) <= item.diameter_mm / 2
    assert hit / len(placed) >= 0.5


@pytest.mark.parametrize("kernel", ["B", "L"])
def test_few_marks_where_nothing_was_inserted(
    registry: Registry, series: dict[str, CTVolume], kernel: str
) -> None:
    assert len(detections(registry, series[kernel])) <= 8


def test_the_card_says_what_became_of_the_real_tumour(
    registry: Registry, series: dict[str, CTVolume]
) -> None:
    """It is larger than anything that was learnt."""
    folder = Path(models.nodule_detection.__file__).parent
    told = json.loads((folder / "training.json").read_text("utf-8"))["tumours"]
    (output,) = registry.manifest(SERVICE).outputs
    assert isinstance(output, Detections)
    for kernel in ("B", "L"):
        volume = series[kernel]
        ((low, high),) = (
            [in_patient(volume, tuple(pair[i] for pair in box)) for i in (0, 1)]  # type: ignore[misc]
            for box in from_volume(volume, kernel, _ANNOTATED).tumours
        )
        inside = [
            item
            for item in detections(registry, volume)
            if (np.minimum(low, high) <= item.centre_mm).all()
            and (np.maximum(low, high) >= item.centre_mm).all()
        ]
        (stated,) = [item for item in told if f"kernel {kernel}," in item["series"]]
        if stated["best_score"] >= output.score + 0.01:
            assert inside[0].score == pytest.approx(stated["best_score"], abs=0.01)
        elif stated["best_score"] < output.score - 0.01:
            assert inside == []
        # Whatever is marked in it is a spot; its extent is not.
        assert min(stated["size_mm"]) > 40
        assert all(max(item.size_mm) < min(stated["size_mm"]) / 2 for item in inside)
