"""Diameters of vessels that are not round, not straight, or end obliquely."""

from __future__ import annotations

import numpy as np
import pytest
from analytic import Mask, geometry_of, places, structure
from network_samples import rotation

from fhir_ext.dicom.volume import Geometry
from models.registry import Registry
from models.segment_measurements.settings import numbers_of
from models.segment_measurements.tubes import largest, sections

SETTINGS = numbers_of(Registry().manifest("segment-measurements")).tube


def diameter(mask: Mask, geometry: Geometry) -> float | None:
    return largest(sections(structure("x", mask), geometry, SETTINGS), SETTINGS)


def grid(
    spacing: tuple[float, float, float], degrees: tuple[float, float, float] = (0, 0, 0)
) -> tuple[Geometry, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """A cube of 110 mm, and where its voxels are."""
    shape = (int(110 / spacing[0]), int(110 / spacing[1]), int(110 / spacing[2]))
    geometry = geometry_of(shape, spacing, rotation(degrees))
    return geometry, places(geometry, shape)


@pytest.mark.parametrize(
    ("degrees", "tilt"), [((0, 0, 0), 0), ((0, 0, 0), 80), ((12, -25, 40), 30)]
)
def test_an_elliptical_vessel_has_its_long_axis(
    degrees: tuple[float, float, float], tilt: float
) -> None:
    geometry, where = grid((3.0, 0.7, 0.7), degrees)
    turn = rotation((tilt, 0, 0))
    one, two, along = np.tensordot(turn, where, 1)
    inside = ((one / 20) ** 2 + (two / 14) ** 2 <= 1) & (np.abs(along) < 35)
    assert diameter(inside, geometry) == pytest.approx(40, abs=0.8)


@pytest.mark.parametrize(("bend", "radius", "error"), [(40, 14, 0.5), (30, 14, 0.7), (25, 15, 1.0)])
def test_a_bent_vessel_that_is_cut_off_obliquely(bend: float, radius: float, error: float) -> None:
    """Half a ring and more, cut by a plane that lies oblique to its line."""
    geometry, (x, y, z) = grid((1.0, 0.8, 0.8))
    height = z + bend / 2
    ring = np.hypot(np.hypot(y, height) - bend, x) <= radius
    found = diameter(ring & (height >= 0.0), geometry)
    assert found == pytest.approx(2 * radius, abs=error)


def test_a_bulge_counts_less_what_the_median_of_five_cuts_takes() -> None:
    geometry, (x, y, z) = grid((1.5, 0.8, 0.8))
    radius = 14 + 8 * np.exp(-((z / 10) ** 2))
    found = diameter((np.hypot(x, y) <= radius) & (np.abs(z) < 45), geometry)
    assert found == pytest.approx(43, abs=0.5)
