"""Agatston: exact on lesions that fill whole voxels, by the definition written out again here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from analytic import geometry_of

from models.registry import Registry
from models.segment_measurements.calcium import score_calcium
from models.segment_measurements.conclusions import Thresholds, cac_drs
from models.segment_measurements.placing import pixel_mm2, slice_distance_mm
from models.segment_measurements.settings import numbers_of

MANIFEST = Registry().manifest("segment-measurements")
SETTINGS = numbers_of(MANIFEST).calcium
LIMITS = Thresholds.model_validate(dict(MANIFEST.thresholds))
SHAPE = (4, 20, 20)
EVERYWHERE = np.ones(SHAPE, dtype=np.bool_)


def blank() -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.full(SHAPE, 40, dtype=np.int16)


@pytest.mark.parametrize(
    ("peak", "weight"),
    [(129, 0), (130, 1), (199, 1), (200, 2), (299, 2), (300, 3), (399, 3), (400, 4), (1500, 4)],
)
def test_weight_by_peak(peak: int, weight: int) -> None:
    hu = blank()
    # 12 pixels of 0.25 mm2 and one peak: 3 mm2.
    hu[1, 4:7, 4:8] = min(130, peak)
    hu[1, 5, 5] = peak
    found = score_calcium(hu, EVERYWHERE, 0.25, 3.0, SETTINGS)
    assert found.score == 3.0 * weight
    assert found.volume_mm3 == (9.0 if weight else 0.0)
    assert found.lesions == (1 if weight else 0)


@pytest.mark.parametrize(("pixels", "counts"), [(3, False), (4, True)])
def test_smallest_lesion(pixels: int, counts: bool) -> None:
    """1 mm2 is four pixels of 0.25 mm2."""
    hu = blank()
    hu[0, 0, :pixels] = 500
    found = score_calcium(hu, EVERYWHERE, 0.25, 3.0, SETTINGS)
    assert found.score == (4.0 if counts else 0.0)


def test_smallest_lesion_at_a_rounded_pixel() -> None:
    """0.7 x 0.7 mm: three pixels are 1.47 mm2; 1/3 mm2 three times is 1 mm2 exactly."""
    hu = blank()
    hu[0, 0, :3] = 150
    assert score_calcium(hu, EVERYWHERE, 0.49, 3.0, SETTINGS).score == pytest.approx(1.47)
    assert score_calcium(hu, EVERYWHERE, 1 / 3, 3.0, SETTINGS).lesions == 1


def test_lesions_are_those_of_one_slice_and_join_at_corners() -> None:
    hu = blank()
    hu[0, 0:2, 0:2] = 150
    hu[0, 2:4, 2:4] = 450
    hu[1, 0:2, 0:2] = 150
    found = score_calcium(hu, EVERYWHERE, 1.0, 3.0, SETTINGS)
    # Slice 0: one lesion of 8 mm2 with weight 4; slice 1: one of 4 mm2 with weight 1.
    assert (found.score, found.lesions, found.volume_mm3) == (36.0, 2, 36.0)


def test_what_lies_outside_the_arteries_does_not_count() -> None:
    hu = blank()
    hu[:, 5:9, 5:9] = 500
    arteries = np.zeros(SHAPE, dtype=np.bool_)
    arteries[1:3, 5:7] = True
    found = score_calcium(hu, arteries, 1.0, 3.0, SETTINGS)
    assert found.score == 2 * 8 * 4


@pytest.mark.parametrize("increment", [0.75, 1.0, 1.5, 2.5, 3.0])
def test_increment_scales_the_score_not_the_threshold(increment: float) -> None:
    """Ten slices of a bar are ten slices of a bar: half the distance is half the score."""
    hu = blank()
    hu[:, 2:6, 2:6] = 350
    found = score_calcium(hu, EVERYWHERE, 0.5, increment, SETTINGS)
    assert found.score == pytest.approx(4 * 8.0 * 3 * increment / 3)
    assert found.volume_mm3 == pytest.approx(4 * 8.0 * increment)


def test_another_implementation() -> None:
    """Flood fill over a dictionary, slice by slice."""
    random = np.random.default_rng(7)
    hu = random.integers(-50, 260, SHAPE, dtype=np.int16)
    mask = random.random(SHAPE) < 0.8
    expected = volume = 0.0
    for plane, inside in zip(hu, mask, strict=True):
        left = {(int(y), int(x)) for y, x in np.argwhere((plane >= 130) & inside)}
        while left:
            lesion, edge = set(), {left.pop()}
            while edge:
                y, x = edge.pop()
                lesion.add((y, x))
                near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
                left -= near
                edge |= near
            area = 0.36 * len(lesion)
            if area >= 1.0:
                peak = max(int(plane[place]) for place in lesion)
                expected += area * (1 if peak < 200 else 2)
                volume += area * 2.5
    found = score_calcium(hu, mask, 0.36, 2.5, SETTINGS)
    assert expected > 50
    assert found.score == pytest.approx(expected * 2.5 / 3)
    assert found.volume_mm3 == pytest.approx(volume)


@pytest.mark.parametrize(
    ("score", "category"),
    [(0, "A0"), (0.4, "A1"), (1, "A1"), (99.9, "A1"), (100, "A2"), (299, "A2"), (300, "A3"),
     (4000, "A3")],
)  # fmt: skip
def test_cac_drs(score: float, category: str) -> None:
    assert cac_drs(score, LIMITS) == category


def test_geometry_of_slices() -> None:
    grid = geometry_of(SHAPE, (3.0, 0.5, 0.4))
    assert pixel_mm2(grid) == pytest.approx(0.2)
    assert slice_distance_mm(grid) == pytest.approx(3.0)
    sheared = replace(grid, slice_step=(0.0, 1.0, 3.0))
    assert slice_distance_mm(sheared) == pytest.approx(3.0)
