"""Segments reach the volume's grid from any grid: the same, shifted, coarser, turned."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from analytic import ball, geometry_of, places
from scipy.spatial.transform import Rotation
from seg_samples import SPLEEN, seg, segment

from fhir_ext.dicom.seg import Segmentation
from fhir_ext.dicom.seg_place import PlacedSegment, place
from fhir_ext.dicom.volume import Geometry
from fhir_ext.errors import RefusedInput

SHAPE = (16, 30, 28)
GRID = geometry_of(SHAPE, (2.0, 1.0, 1.0))
Mask = npt.NDArray[np.bool_]


def placed(found: Segmentation, geometry: Geometry = GRID, number: int = 1) -> PlacedSegment:
    identity = next(one for one in found.segments if one.number == number)
    return place(found, identity, geometry, SHAPE)


def full(found: Segmentation, geometry: Geometry = GRID, number: int = 1) -> Mask:
    return placed(found, geometry, number).full(SHAPE)


def blob() -> Mask:
    """Nothing that looks the same from two sides; one slice in its middle is empty."""
    found = np.zeros(SHAPE, dtype=bool)
    found[3:12, 5:14, 6:20] = True
    found[3:8, 14:20, 6:9] = True
    found[6] = False
    found[2, 5, 6] = True
    return found


def test_same_grid_is_copied() -> None:
    one = placed(seg(GRID, blob()))
    np.testing.assert_array_equal(one.full(SHAPE), blob())
    assert one.outside == 0
    assert one.own_ml == pytest.approx(blob().sum() * GRID.voxel_volume_ml)
    assert one.mask.any((1, 2))[[0, -1]].all()


def test_overlapping_segments_keep_what_is_theirs() -> None:
    both = np.stack([blob(), np.roll(blob(), 3, axis=2)], axis=-1)
    found = seg(GRID, both, segment(1), segment(2, SPLEEN))
    np.testing.assert_array_equal(full(found), both[..., 0])
    np.testing.assert_array_equal(full(found, number=2), both[..., 1])


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_every_kind(kind: str) -> None:
    pixels = blob().astype(np.float32 if kind == "FRACTIONAL" else np.uint8)
    np.testing.assert_array_equal(full(seg(GRID, pixels, kind=kind)), blob())


@pytest.mark.parametrize(
    ("order", "flips"),
    [
        *((order, (1, 1, 1)) for order in permutations(range(3))),
        *(((0, 1, 2), flips) for flips in product((1, -1), repeat=3)),
        ((2, 0, 1), (-1, 1, -1)),
        ((1, 2, 0), (1, -1, -1)),
    ],
)
def test_any_order_and_direction_of_the_axes(
    order: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    """The same voxels in the same places, written by somebody who stacks them otherwise."""
    steps = np.array([GRID.slice_step, GRID.row_step, GRID.column_step])
    turned = np.transpose(blob(), order)[tuple(slice(None, None, flip) for flip in flips)]
    new_steps = steps[list(order)] * np.array(flips)[:, None]
    sizes = np.array(SHAPE)[list(order)]
    start = np.array(GRID.origin) + sum(
        steps[axis] * (sizes[i] - 1) for i, axis in enumerate(order) if flips[i] < 0
    )
    # The slices of a SEG may go down along the normal, but a source image always has one.
    grid = Geometry(tuple(start), *(tuple(new_steps[i]) for i in (2, 1, 0)), "1.2.826.3.9")
    np.testing.assert_array_equal(full(seg(grid, turned)), blob())


def moved(geometry: Geometry, by: npt.NDArray[np.float64]) -> Geometry:
    x, y, z = np.array(geometry.origin) + by
    return replace(geometry, origin=(float(x), float(y), float(z)))


def test_cropped_grid() -> None:
    """Producers write the box of the organ only."""
    z, y, x = slice(2, 13), slice(4, 25), slice(5, 22)
    corner = moved(GRID, np.array([5.0, 4.0, 2 * 2.0]))
    found = seg(corner, np.ascontiguousarray(blob()[z, y, x]))
    np.testing.assert_array_equal(full(found), blob())


@pytest.mark.parametrize("factor", [2, 3])
def test_finer_and_coarser_in_plane(factor: int) -> None:
    finer = geometry_of(
        (SHAPE[0], SHAPE[1] * factor, SHAPE[2] * factor), (2.0, 1.0 / factor, 1.0 / factor)
    )
    repeated = blob().repeat(factor, 1).repeat(factor, 2)
    np.testing.assert_array_equal(full(seg(finer, repeated)), blob())


def test_thicker_slices_fill_what_they_cover() -> None:
    """5 mm of a reader's series on 1 mm slices: every voxel takes its nearest slice."""
    shape = (30, 20, 20)
    volume = geometry_of(shape, (1.0, 1.0, 1.0))
    coarse = geometry_of((6, 20, 20), (5.0, 1.0, 1.0))
    drawn = np.zeros((6, 20, 20), dtype=bool)
    drawn[2:4, 5:10, 5:12] = True
    found = seg(coarse, drawn)
    one = place(found, found.segments[0], volume, shape)
    expected = np.zeros(shape, dtype=bool)
    expected[10:20, 5:10, 5:12] = True
    np.testing.assert_array_equal(one.full(shape), expected)


def test_left_out_frames_leave_a_hole() -> None:
    """The header says 2 mm, so that two far slices do not fill what lies between them."""
    drawn = np.zeros(SHAPE, dtype=bool)
    drawn[[3, 9], 5:10, 5:10] = True
    np.testing.assert_array_equal(full(seg(GRID, drawn)), drawn)


@pytest.mark.parametrize("angles", [(20, 0, 0), (0, 35, 10), (12, -25, 40)])
def test_oblique_grid(angles: tuple[float, float, float]) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    oblique = geometry_of((40, 44, 44), (0.8, 0.7, 0.7), turn)
    drawn = ball(places(oblique, (40, 44, 44)), (1.0, -2.0, 0.5), 9.0)
    one = placed(seg(oblique, drawn))
    truth = ball(places(GRID, SHAPE), (1.0, -2.0, 0.5), 9.0)
    # Only voxels whose centre lies within half a diagonal of the surface may differ.
    assert abs(int(one.mask.sum()) - int(truth.sum())) < 0.02 * truth.sum()
    shell = ball(places(GRID, SHAPE), (1.0, -2.0, 0.5), 9.7) & ~ball(
        places(GRID, SHAPE), (1.0, -2.0, 0.5), 8.3
    )
    assert not ((one.full(SHAPE) ^ truth) & ~shell).any()


def test_share_outside() -> None:
    half = moved(GRID, np.array([0.0, 0.0, 2.0 * 8]))
    drawn = np.zeros(SHAPE, dtype=bool)
    drawn[4:12, 5:10, 5:10] = True
    one = placed(seg(half, drawn))
    assert one.outside == pytest.approx(0.5)
    assert one.mask.sum() == drawn.sum() / 2


def test_sheared_volume() -> None:
    """A tilted gantry: the slices of the volume do not lie straight above each other."""
    sheared = replace(GRID, slice_step=(0.0, 0.6, 2.0))
    truth = ball(places(sheared, SHAPE), (0.0, 5.0, 0.0), 7.0)
    drawn = ball(places(GRID, SHAPE), (0.0, 5.0, 0.0), 7.0)
    differing = int((full(seg(GRID, drawn), sheared) ^ truth).sum())
    assert differing < 0.1 * truth.sum()


def refusal(work: Any) -> str:
    with pytest.raises(RefusedInput) as caught:
        work()
    return caught.value.code


def test_refusals() -> None:
    found = seg(GRID, blob())
    other = replace(GRID, frame_of_reference_uid="1.2.3")
    assert refusal(lambda: placed(found, other)) == "seg-frame-of-reference"
    away = moved(GRID, np.array([500.0, 0.0, 0.0]))
    assert refusal(lambda: placed(found, away)) == "seg-outside-volume"
    two = seg(GRID, blob(), segment(1), segment(2, SPLEEN), kind="LABELMAP")
    assert refusal(lambda: placed(two, number=2)) == "seg-empty"
