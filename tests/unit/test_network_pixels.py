"""What a network is shown: other implementations, in slabs of any thickness, in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import network_samples as samples
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from network_samples import SEGMENTED, WINDOW, Above
from scipy import ndimage

from fhir_ext.dicom.volume import CTVolume, Geometry
from models.manifest.inputs import Patches, Preprocessing
from models.network.grid import Grid, grid_of
from models.network.layout import Layout
from models.network.patches import Blender, starts, tiling
from models.network.pixels import Pixels
from models.runtime.host import Host

VOLUME = Layout("image", np.dtype(np.float32), False, 1, ("d", "h", "w"))
SHAPE, SPACING = (12, 21, 26), (2.0, 1.0, 0.9)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    found = Host()
    yield found
    found.close()


def noise(axes: str = "SPL", shape: tuple[int, int, int] = SHAPE) -> CTVolume:
    drawn = np.random.default_rng(5).integers(-1000, 1000, shape)
    return samples.volume_of(drawn, samples.geometry_of(shape, SPACING, axes))


def shown(volume: CTVolume, **asked: Any) -> tuple[Grid, Pixels]:
    wanted = Preprocessing.model_validate(asked)
    grid = grid_of(volume, wanted, VOLUME)
    assert isinstance(grid, Grid)
    return grid, Pixels(volume, grid, wanted)


def test_half_the_voxels_are_those_of_torch() -> None:
    """Where both grids have the same edges, the geometry is `align_corners=False`."""
    volume = noise(shape=(12, 20, 26))
    grid, pixels = shown(volume, spacing_mm=[4.0, 0.5, 1.8])
    assert grid.shape == (6, 40, 13)
    whole = torch.from_numpy(volume.voxels.astype(np.float32))[None, None]
    wanted = F.interpolate(whole, (6, 40, 13), mode="trilinear", align_corners=False)[0, 0]
    assert np.abs(pixels.slab(0, 6) - wanted.numpy()).max() < 1e-3


@pytest.mark.parametrize(("interpolation", "order"), [("linear", 1), ("nearest", 0)])
def test_every_voxel_is_what_another_program_finds_at_its_place(
    interpolation: str, order: int
) -> None:
    volume = noise("LAI")
    grid, pixels = shown(
        volume, spacing_mm=[1.3, 1.7, 0.8], orientation="SPL", interpolation=interpolation
    )
    index = np.stack(np.indices(grid.shape), -1).reshape(-1, 3).astype(np.float64)
    places = grid.to_patient(index)
    steps = np.array(
        [volume.geometry.slice_step, volume.geometry.row_step, volume.geometry.column_step]
    )
    back = (places - volume.geometry.origin) @ np.linalg.inv(steps)
    wanted = ndimage.map_coordinates(
        volume.voxels.astype(np.float64), back.T, order=order, mode="nearest"
    )
    found = pixels.slab(0, grid.shape[0]).reshape(-1)
    # Nearest: voxels just between two may be given to either.
    assert np.mean(np.abs(found - wanted) > 0.01) < (1e-9 if order else 0.01)


@pytest.mark.parametrize("orientation", ["SPL", "RAS", "LPS", "IAR", "PIR"])
def test_indices_grow_towards_the_sides_that_were_asked_for(orientation: str) -> None:
    sides = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    for axes in ("SPL", "IRA", "LIP"):
        grid, _ = shown(noise(axes), orientation=orientation, spacing_mm=[1.5, 1.25, 1.0])
        first = grid.to_patient(np.zeros((1, 3)))[0]
        for at, letter in enumerate(orientation):
            axis, sign = sides[letter]
            step = grid.to_patient(np.eye(3)[at : at + 1])[0] - first
            wanted = np.zeros(3)
            wanted[axis] = sign * (1.5, 1.25, 1.0)[at]
            assert step == pytest.approx(wanted, abs=1e-9)


def test_padding_lies_on_both_sides() -> None:
    grid, pixels = shown(noise(), sizes=[[15, 21, 30]], pad_value=-7)
    whole = pixels.slab(0, 15)
    assert [axis.before for axis in grid.axes] == [1, 0, 2]
    assert (whole[0] == -7).all() and (whole[13:] == -7).all()
    assert (whole[:, :, :2] == -7).all() and (whole[:, :, 28:] == -7).all()
    assert np.array_equal(whole[1:13, :, 2:28], noise().voxels)
    centre = grid.to_patient(np.array([[1.0, 0, 2]]))[0]
    assert centre == pytest.approx(noise().geometry.origin)


def test_slabs_of_any_thickness_hold_the_same_values() -> None:
    _, pixels = shown(
        noise("IPR"), orientation="SPL", spacing_mm=[1.1] * 3, window=WINDOW, sizes=[[30, 30, 30]]
    )
    whole = pixels.slab(0, 30)
    for size in (1, 4, 7):
        parts = [pixels.slab(z, min(z + size, 30)) for z in range(0, 30, size)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_a_spacing_that_is_already_there_changes_no_value() -> None:
    volume = noise()
    grid, pixels = shown(volume, spacing_mm=[2.0 + 1e-6, 1.0 - 1e-6, 0.9])
    assert np.array_equal(pixels.slab(0, grid.shape[0]), volume.voxels)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "wanted"),
    [
        (10, 10, 0.25, (0,)),
        (11, 10, 0.25, (0, 1)),
        (24, 10, 0.25, (0, 7, 14)),
        (25, 10, 0.0, (0, 10, 15)),
        (12, 4, 0.99, tuple(range(9))),
    ],
)
def test_starts(length: int, size: int, overlap: float, wanted: tuple[int, ...]) -> None:
    assert starts(length, size, overlap) == wanted


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_blended_patches_are_the_weighted_mean(blend: str) -> None:
    """Against a sum over all patches, with answers that differ; in any order in a layer."""
    asked = Patches.model_validate({"size": [6, 7, 8], "overlap": 0.4, "blend": blend})
    shape = (17, 20, 23)
    tiles = tiling(shape, (6, 7, 8), asked)
    generator = np.random.default_rng(3)
    found = np.full((2, *shape), np.nan, np.float32)

    def take(first: int, planes: Any) -> None:
        found[:, first : first + planes.shape[1]] = planes

    axes = []
    for size in (6, 7, 8):
        away = (np.arange(size) - (size - 1) / 2) / (0.125 * size)
        axes.append(np.maximum(np.exp(-(away**2) / 2), 1e-3) if blend == "gaussian" else away**0)
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    total, sums = np.zeros(shape), np.zeros((2, *shape))
    blender = Blender(tiles, 2, take)
    for z, places in tiles.layers():
        for at in generator.permutation(len(places)):
            y, x = places[at]
            answer = generator.random((2, 6, 7, 8)).astype(np.float32)
            blender.add((z, y, x), answer)
            where = (slice(z, z + 6), slice(y, y + 7), slice(x, x + 8))
            total[where] += weight
            sums[(slice(None), *where)] += weight * answer
    blender.finish()
    assert np.abs(found - sums / total).max() < 1e-6


def test_memory_is_that_of_a_layer_of_patches(host: Host, tmp_path: Path) -> None:
    """A long scan: the array as the network sees it would take 4 bytes a voxel."""
    shape = (400, 128, 128)
    geometry = Geometry((0, 0, 0), (0.8, 0, 0), (0, 0.8, 0), (0, 0, 0.8), "")
    volume = samples.volume_of(np.full(shape, -800, np.int16), geometry)
    asked = {
        "window": WINDOW,
        "orientation": "SPL",
        "spacing_mm": [0.8, 0.7, 0.7],
        "patches": {"size": [16, 64, 64], "overlap": 0.25},
    }
    service = samples.service_of(tmp_path, Above(), [SEGMENTED], host, preprocessing=asked)
    samples.run(service, samples.volume_of(volume.voxels[:16], geometry))
    peaks = []
    # What other threads of this process allocate meanwhile counts too, but not each time.
    for _ in range(3):
        tracemalloc.start()
        said = samples.run(service, volume)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert said.masks[0].labels.shape == shape
    array = 400 * 146 * 146 * 4
    # The mask is one byte a voxel of the volume.
    assert min(peaks) - volume.voxels.size < array / 4
