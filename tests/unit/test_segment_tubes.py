"""Diameters of tubes of known width, straight, tilted, bent, on grids of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from analytic import arch, geometry_of, places, structure, tube

from models.registry import Registry
from models.segment_measurements.aorta import split
from models.segment_measurements.settings import numbers_of
from models.segment_measurements.tubes import largest, sections

NUMBERS = numbers_of(Registry().manifest("segment-measurements"))
SETTINGS = NUMBERS.tube


def direction(tilt: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    angle = np.radians(tilt)
    return np.array([np.sin(angle) * np.cos(0.4), np.sin(angle) * np.sin(0.4), np.cos(angle)])


@pytest.mark.parametrize("tilt", [0, 20, 45])
@pytest.mark.parametrize("spacing", [(1.0, 0.8, 0.8), (2.5, 0.7, 0.7), (3.0, 0.8, 0.8)])
@pytest.mark.parametrize(("width", "length"), [(20.0, 50.0), (34.0, 58.0)])
def test_straight_tubes(
    tilt: float, spacing: tuple[float, float, float], width: float, length: float
) -> None:
    """Within a pixel up to 45 degrees; the line lies within 3 degrees of the axis."""
    room = length + width
    shape = tuple(round(room / size) for size in spacing)
    grid = geometry_of((shape[0], shape[1], shape[2]), spacing)
    half = direction(tilt) * length / 2
    mask = tube(places(grid, shape), tuple(-half), tuple(half), width / 2)
    cuts = sections(structure("x", mask), grid, SETTINGS)
    found = largest(cuts, SETTINGS)
    assert found is not None
    assert abs(found - width) < 0.55
    cosines = np.abs(cuts.tangents @ direction(tilt))
    assert np.degrees(np.arccos(np.clip(cosines, 0, 1))).max() < 3.0
    # A plane across the patient instead would show the width over the cosine of the tilt.
    assert found < width / np.cos(np.radians(max(tilt, 20.0))) or tilt == 0


def test_a_vessel_that_runs_along_the_slices() -> None:
    """Worst case: the stairs of 3 mm slices lie on the circumference."""
    grid = geometry_of((30, 90, 130), (3.0, 0.8, 0.8))
    mask = tube(places(grid, (30, 90, 130)), (-45.0, 0.0, 0.0), (45.0, 0.0, 0.0), 12.0)
    found = largest(sections(structure("x", mask), grid, SETTINGS), SETTINGS)
    assert found is not None
    assert abs(found - 24.0) < 3.0


def test_the_widest_place_counts() -> None:
    """A tube of 24 mm with 30 mm over 20 mm of its length."""
    grid = geometry_of((100, 60, 60), (1.0, 0.8, 0.8))
    where = places(grid, (100, 60, 60))
    mask = tube(where, (0, 0, -48), (0, 0, 48), 12.0) | tube(where, (0, 0, -5), (0, 0, 15), 15.0)
    found = largest(sections(structure("x", mask), grid, SETTINGS), SETTINGS)
    assert found is not None
    assert abs(found - 30.0) < 0.8


@pytest.mark.parametrize("legs", [(70.0, 110.0), (60.0, 60.0)])
def test_an_aorta_falls_into_its_parts(legs: tuple[float, float]) -> None:
    shape = (110, 100, 45)
    grid = geometry_of(shape, (1.5, 1.0, 1.0))
    where = places(grid, shape) - np.array([0.0, 0.0, 25.0])[:, None, None, None]
    wide = tube(where, (0, -34, -55), (0, -34, -25), 18.0)
    mask = arch(where, 13.0, 34.0, legs) | wide
    cuts = sections(structure("aorta", mask), grid, SETTINGS)
    parts = split(cuts, NUMBERS.arch)
    assert parts is not None
    ascending, descending = parts
    assert ascending.centres[:, 1].max() < 0 < descending.centres[:, 1].min()
    widths = [largest(part, SETTINGS) for part in parts]
    assert widths[0] is not None and abs(widths[0] - 36.0) < 1.0
    assert widths[1] is not None and abs(widths[1] - 26.0) < 1.0


def test_without_an_arch_no_part_is_named() -> None:
    grid = geometry_of((80, 50, 50), (1.5, 1.0, 1.0))
    mask = tube(places(grid, (80, 50, 50)), (0, 0, -55), (0, 0, 55), 13.0)
    assert split(sections(structure("aorta", mask), grid, SETTINGS), NUMBERS.arch) is None


def test_no_tube_no_diameter() -> None:
    shape = (30, 40, 40)
    grid = geometry_of(shape, (1.0, 1.0, 1.0))
    dot = np.zeros(shape, dtype=np.bool_)
    dot[10, 10, 10] = True
    plate = np.zeros(shape, dtype=np.bool_)
    plate[15, 2:38, 2:38] = True
    for mask in (dot, plate):
        assert largest(sections(structure("x", mask), grid, SETTINGS), SETTINGS) is None


def test_wider_than_the_window_is_not_measured() -> None:
    shape = (90, 140, 140)
    grid = geometry_of(shape, (2.0, 1.0, 1.0))
    mask = tube(places(grid, shape), (0, 0, -85), (0, 0, 85), 60.0)
    assert largest(sections(structure("x", mask), grid, SETTINGS), SETTINGS) is None


def test_flips_of_array_and_geometry_change_nothing() -> None:
    shape = (60, 60, 60)
    grid = geometry_of(shape, (1.0, 0.8, 0.8))
    half = direction(30) * 25
    mask = tube(places(grid, shape), tuple(-half), tuple(half), 10.0)
    first = largest(sections(structure("x", mask), grid, SETTINGS), SETTINGS)
    turned = geometry_of(shape, (-1.0, -0.8, 0.8))
    again = largest(
        sections(structure("x", np.ascontiguousarray(mask[::-1, ::-1])), turned, SETTINGS), SETTINGS
    )
    assert first is not None and again is not None
    assert abs(first - again) < 0.1
    same = largest(sections(structure("x", mask), grid, SETTINGS), SETTINGS)
    assert same == first
