"""Attenuation in the core of an organ, volumes, and fat inside a sac."""

from __future__ import annotations

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]


def core(mask: Mask, depth_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels that lie more than `depth_mm` from every voxel outside; of several pieces the largest.

    Distances are Euclidean, between voxel centres. What lies beyond the array is outside.
    """
    padded = np.pad(mask, 1)
    deep = ndimage.distance_transform_edt(padded, sampling=spacing_mm) > depth_mm
    inner = np.asarray(deep[1:-1, 1:-1, 1:-1])
    labels, count = cc3d.connected_components(inner, connectivity=6, return_N=True)
    if count < 2:
        return inner
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(sizes.argmax()))


def mean_hu(hu: npt.NDArray[np.int16], mask: Mask) -> float:
    """Mean of the voxels of a mask that holds at least one."""
    chosen = hu[mask]
    return int(chosen.sum(dtype=np.int64)) / chosen.size


def volume_ml(mask: Mask, voxel_ml: float) -> float:
    """Volume by counting voxels."""
    return int(np.count_nonzero(mask)) * voxel_ml


def fat_ml(
    hu: npt.NDArray[np.int16], mask: Mask, bounds_hu: tuple[int, int], voxel_ml: float
) -> float:
    """Volume of the voxels of a mask within closed bounds."""
    low, high = bounds_hu
    return volume_ml(mask & (hu >= low) & (hu <= high), voxel_ml)
