"""Image operators: morphology and histograms on torch tensors, components by cc3d and scipy.

All are deterministic: they move booleans and count integers.
"""

from __future__ import annotations

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

#: HU range of the histograms; voxels outside fall into the first or last bin.
HISTOGRAM_LOW, HISTOGRAM_HIGH = -1200, 1023

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.unsignedinteger]
Spacing = tuple[float, float, float]


def dilate(mask: torch.Tensor, radius_mm: float, spacing_mm: Spacing) -> torch.Tensor:
    """Dilate a bool mask (z, y, x) by about a ball of `radius_mm`.

    The ball is built of one-voxel steps, by turns with the 6 and the 26 neighbours.
    An axis takes round(radius / spacing) steps, and none where one voxel is longer than
    the radius.

    Returns:
        A new bool mask on the same device.
    """
    steps = [round(radius_mm / size) if size <= radius_mm else 0 for size in spacing_mm]
    most = max(steps)
    for turn in range(most):
        axes = [a for a, n in enumerate(steps) if turn * n // most != (turn + 1) * n // most]
        mask = _step(mask, axes, box=turn % 2 == 1)
    return mask.clone() if most == 0 else mask


def erode(mask: torch.Tensor, radius_mm: float, spacing_mm: Spacing) -> torch.Tensor:
    """Erode like `dilate`; what lies outside the array counts as set."""
    return ~dilate(~mask, radius_mm, spacing_mm)


def close(mask: torch.Tensor, radius_mm: float, spacing_mm: Spacing) -> torch.Tensor:
    """Morphological closing with the structuring element of `dilate`."""
    return erode(dilate(mask, radius_mm, spacing_mm), radius_mm, spacing_mm) | mask


def grow(mask: torch.Tensor) -> torch.Tensor:
    """Dilate by one voxel to all 26 neighbours."""
    return _step(mask, [0, 1, 2], box=True)


def shrink(mask: torch.Tensor) -> torch.Tensor:
    """Erode by one voxel from all 6 neighbours."""
    return ~_step(~mask, [0, 1, 2], box=False)


def _step(mask: torch.Tensor, axes: list[int], *, box: bool) -> torch.Tensor:
    out = mask.clone()
    for axis in axes:
        source = out.clone() if box else mask
        n = mask.shape[axis] - 1
        out.narrow(axis, 1, n).logical_or_(source.narrow(axis, 0, n))
        out.narrow(axis, 0, n).logical_or_(source.narrow(axis, 1, n))
    return out


def components(mask: Mask) -> tuple[Labels, npt.NDArray[np.int64]]:
    """6-connected components of a mask (z, y, x).

    Returns:
        Labels (0 is background), and voxel counts by label with the background's set to 0.
    """
    labels: Labels
    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    counts = np.zeros(count + 1, dtype=np.int64)
    # Plane by plane: bincount makes an int64 copy of what it counts.
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=count + 1)
    counts[0] = 0
    return labels, counts


def enclosed_air(hu: npt.NDArray[np.int16], air_hu: int) -> Mask:
    """Air below `air_hu` (z, y, x) that does not reach the border of its axial plane.

    Decided plane by plane, so that the airway of a scan that reaches the mouth does not
    make the lungs part of the outside.
    """
    enclosed = np.empty(hu.shape, dtype=np.bool_)
    for plane, out in zip(hu, enclosed, strict=True):
        labels, count = ndimage.label(plane < air_hu)
        keep = np.ones(count + 1, dtype=np.bool_)
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = False
        keep[0] = False
        out[...] = keep[labels]
    return enclosed


def region_histograms(
    voxels: npt.NDArray[np.int16],
    regions: npt.NDArray[np.uint8],
    factors: tuple[int, int, int],
    boundary_hu: int,
    device: torch.device,
) -> npt.NDArray[np.int64]:
    """Count HU at full resolution inside a coarse region map.

    Args:
        voxels: int16 (slices, rows, columns), HU.
        regions: one value per block of `factors` voxels: 0 nothing; 2r + 1 the fringe and
            2r + 2 the core of region r (0, 1). Core voxels all count; fringe voxels count
            below `boundary_hu`.
        factors: voxels per block (slices, rows, columns).
        boundary_hu: HU that separates lung from soft tissue.
        device: where the counting runs.

    Returns:
        int64 (2, HISTOGRAM_HIGH - HISTOGRAM_LOW + 1), one bin per HU.
    """
    bins = HISTOGRAM_HIGH - HISTOGRAM_LOW + 1
    total = torch.zeros(2 * bins, dtype=torch.int64, device=device)
    fz, fy, fx = factors
    for block, plane in enumerate(regions):
        rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
        if rows.size == 0:
            continue
        y0, y1 = int(rows[0]), int(rows[-1]) + 1
        x0, x1 = int(columns[0]), int(columns[-1]) + 1
        part = voxels[block * fz : (block + 1) * fz, y0 * fy : y1 * fy, x0 * fx : x1 * fx]
        slab = torch.from_numpy(part.copy()).to(device)
        full = torch.from_numpy(plane[y0:y1, x0:x1].copy()).to(device)
        full = full.repeat_interleave(fy, 0).repeat_interleave(fx, 1)
        full = full[: slab.shape[1], : slab.shape[2]].expand(slab.shape)
        core = (full & 1) == 0
        chosen = (full > 0) & (core | (slab < boundary_hu))
        hu = slab[chosen].clamp_(HISTOGRAM_LOW, HISTOGRAM_HIGH).to(torch.int32)
        hu += (full[chosen] > 2).to(torch.int32) * bins - HISTOGRAM_LOW
        total += torch.bincount(hu, minlength=2 * bins)
    return total.view(2, bins).cpu().numpy()
