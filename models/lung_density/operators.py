"""Image operators on torch tensors: morphology, connected components, histograms.

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


def components(mask: torch.Tensor) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.int64]]:
    """6-connected components of a bool mask (z, y, x).

    Returns:
        Labels (0 is background), and voxel counts by label with the background's set to 0.
    """
    labels = cc3d.connected_components(mask.cpu().numpy(), connectivity=6)
    counts = np.bincount(labels.ravel()).astype(np.int64)
    counts[0] = 0
    return labels, counts


def plane_components(mask: torch.Tensor) -> tuple[npt.NDArray[np.int32], int]:
    """4-connected components within each axial plane of a bool mask (z, y, x).

    Returns:
        Labels, unique over the whole array (0 is background), and how many.
    """
    in_plane = np.zeros((3, 3, 3), dtype=np.bool_)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(mask.cpu().numpy(), structure=in_plane, output=np.int32)
    return labels, int(count)


def open_to_border(mask: torch.Tensor) -> torch.Tensor:
    """The part of a bool mask (z, y, x) that reaches the border of its axial plane.

    Decided plane by plane, so that the airway of a scan that reaches the mouth does not
    make the lungs part of the outside.
    """
    labels, count = plane_components(mask)
    reaches = np.zeros(count + 1, dtype=np.bool_)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        reaches[np.unique(edge)] = True
    reaches[0] = False
    return torch.from_numpy(reaches[labels])


def region_histograms(
    voxels: npt.NDArray[np.int16],
    regions: torch.Tensor,
    factors: tuple[int, int, int],
    boundary_hu: int,
    device: torch.device,
) -> npt.NDArray[np.int64]:
    """Count HU at full resolution inside a coarse region map.

    Args:
        voxels: int16 (slices, rows, columns), HU.
        regions: uint8, one value per block of `factors` voxels: 0 nothing; 2r + 1 the
            fringe and 2r + 2 the core of region r (0, 1). Core voxels all count; fringe
            voxels count below `boundary_hu`.
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
        touched = plane.nonzero()
        if touched.numel() == 0:
            continue
        (y0, x0), (y1, x1) = touched.amin(0).tolist(), (touched.amax(0) + 1).tolist()
        part = voxels[block * fz : (block + 1) * fz, y0 * fy : y1 * fy, x0 * fx : x1 * fx]
        slab = torch.from_numpy(part.copy()).to(device)
        full = plane[y0:y1, x0:x1].to(device)
        full = full.repeat_interleave(fy, 0).repeat_interleave(fx, 1)
        full = full[: slab.shape[1], : slab.shape[2]].expand(slab.shape)
        core = (full & 1) == 0
        chosen = (full > 0) & (core | (slab < boundary_hu))
        hu = slab[chosen].clamp_(HISTOGRAM_LOW, HISTOGRAM_HIGH).to(torch.int32)
        hu += (full[chosen] > 2).to(torch.int32) * bins - HISTOGRAM_LOW
        total += torch.bincount(hu, minlength=2 * bins)
    return total.view(2, bins).cpu().numpy()
