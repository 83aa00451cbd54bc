"""Agatston score and volume of calcium (Agatston et al., J Am Coll Cardiol 1990)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

Mask = npt.NDArray[np.bool_]

#: Pixels that touch by a corner belong to one lesion.
_NEIGHBOURS: Final = np.ones((3, 3), dtype=np.int8)
#: Slice distance for which the score was defined, in mm.
REFERENCE_INCREMENT_MM: Final = 3.0
#: Keeps an area of exactly the smallest size, whatever its rounding.
_AREA_SLACK: Final = 1e-6


class CalciumSettings(BaseModel):
    """Numbers of the method; they come from the manifest's `settings`.

    Attributes:
        calcium_hu: voxels from here on are calcium.
        min_lesion_mm2: smaller lesions of a slice do not count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calcium_hu: int
    min_lesion_mm2: float


@dataclass(frozen=True, slots=True)
class Calcium:
    """What one set of arteries holds.

    Attributes:
        score: Agatston score.
        volume_mm3: volume of all voxels that count.
        lesions: number of lesions, slice by slice.
    """

    score: float
    volume_mm3: float
    lesions: int


def score_calcium(
    hu: npt.NDArray[np.int16],
    mask: Mask,
    pixel_mm2: float,
    increment_mm: float,
    settings: CalciumSettings,
) -> Calcium:
    """Score axial slices.

    A lesion is a connected piece (8 neighbours) of one slice. It adds its area times 1, 2, 3 or
    4 for a peak of 130 to 199, 200 to 299, 300 to 399, and 400 HU or more. Slices that are not
    3 mm apart are scaled by their distance over 3 mm.

    Args:
        hu: int16 (slices, rows, columns).
        mask: bool, same shape: the arteries; nothing outside of it counts.
        pixel_mm2: area of a pixel.
        increment_mm: distance of slices, not their thickness.
        settings: numbers of the method.
    """
    weighted = counted = lesions = 0
    smallest = settings.min_lesion_mm2 - _AREA_SLACK
    for plane, inside in zip(hu, mask, strict=True):
        labels, count = ndimage.label(inside & (plane >= settings.calcium_hu), _NEIGHBOURS)
        if not count:
            continue
        pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        peaks = np.asarray(ndimage.maximum(plane, labels, np.arange(1, count + 1)), dtype=int)
        kept = pixels * pixel_mm2 >= smallest
        weights = np.clip(peaks // 100, 1, 4)
        # Whole pixels until the end, so that the order of slices changes nothing.
        weighted += int((pixels * weights)[kept].sum())
        counted += int(pixels[kept].sum())
        lesions += int(np.count_nonzero(kept))
    return Calcium(
        score=weighted * pixel_mm2 * increment_mm / REFERENCE_INCREMENT_MM,
        volume_mm3=counted * pixel_mm2 * increment_mm,
        lesions=lesions,
    )
