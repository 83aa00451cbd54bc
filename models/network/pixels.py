"""The pixels that a network sees, a slab at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fhir_ext.dicom.volume import CTVolume
from models.manifest.inputs import Preprocessing
from models.network.grid import Axis, Floats, Grid
from models.runtime.base import Array

#: Voxels of the volume that are resampled at once: 8 MB as float32, some of it four times.
AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where values along one axis come from: `low` and `high`, and the share of `high`."""

    low: Array
    high: Array
    share: Array

    def along(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """`values` sampled along one of their axes."""
        low = values.index_select(axis, torch.from_numpy(self.low))
        if not self.share.any():
            return low
        high = values.index_select(axis, torch.from_numpy(self.high))
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        return torch.lerp(low, high, torch.from_numpy(self.share).reshape(shape))


def sampling(places: Floats, length: int, *, linear: bool) -> Sampling:
    """Sample an axis of this length at places; beyond its ends the last value is repeated."""
    inside = np.clip(places, 0, length - 1)
    if not linear:
        nearest = np.floor(inside + 0.5).astype(np.int64)
        return Sampling(nearest, nearest, np.zeros(len(places), np.float32))
    low = np.floor(inside).astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    return Sampling(low, high, (inside - low).astype(np.float32))


class Pixels:
    """A volume as the network sees it; nothing is computed before it is asked for.

    Each plane is computed by itself, so that the same values come in slabs of any thickness.

    Args:
        volume: only read.
        grid: where the array lies.
        asked: interpolation, window, normalisation, padding.
    """

    def __init__(self, volume: CTVolume, grid: Grid, asked: Preprocessing) -> None:
        self._voxels = grid.oriented(volume.voxels)
        self._grid, self._asked = grid, asked
        self._linear = asked.interpolation == "linear"
        _, self._rows, self._columns = (self._sampling(axis) for axis in grid.axes)

    def slab(self, start: int, stop: int) -> Array:
        """Planes `start` to `stop` of the array: float32 (stop - start, y, x)."""
        z, y, x = self._grid.axes
        shape = (stop - start, y.padded, x.padded)
        found = np.full(shape, self._asked.pad_value, np.float32)
        first, last = max(start, z.before), min(stop, z.before + z.length)
        if first < last:
            image = found[first - start : last - start]
            image = image[:, y.before : y.before + y.length, x.before : x.before + x.length]
            step = max(1, AT_ONCE // self._voxels[0].size)
            for at in range(first, last, step):
                part = image[at - first : at - first + step]
                part[...] = self._planes(at, min(at + step, last)).numpy()
        return found

    def _sampling(self, axis: Axis) -> Sampling | None:
        if not axis.resampled:
            return None
        places = axis.inward(np.arange(axis.length, dtype=np.float64) + axis.before)
        return sampling(places, axis.voxels, linear=self._linear)

    def _planes(self, first: int, last: int) -> torch.Tensor:
        z = self._grid.axes[0]
        if not z.resampled:
            values = self._read(np.arange(first - z.before, last - z.before))
        else:
            places = z.inward(np.arange(first, last, dtype=np.float64))
            where = sampling(places, z.voxels, linear=self._linear)
            needed = np.unique(np.concatenate([where.low, where.high]))
            low, high = (np.searchsorted(needed, part) for part in (where.low, where.high))
            values = Sampling(low, high, where.share).along(self._read(needed), 0)
        for axis, where_in_plane in ((1, self._rows), (2, self._columns)):
            if where_in_plane is not None:
                values = where_in_plane.along(values, axis)
        return self._scaled(values)

    def _read(self, planes: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._voxels[planes], np.float32))

    def _scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Window and normalisation; `values` are ours and change."""
        window, normalise = self._asked.window, self._asked.normalise
        if window is not None:
            (low, high), (to_low, to_high) = window.input, window.output
            if window.clip:
                values.clamp_(low, high)
            values.sub_(low).mul_((to_high - to_low) / (high - low)).add_(to_low)
        if normalise is not None:
            values.sub_(normalise.mean).div_(normalise.sd)
        return values
