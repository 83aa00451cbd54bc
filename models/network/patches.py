"""Sliding windows: where they lie, and how overlapping answers become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.manifest.inputs import Patches
from models.network.layout import Shape

Weights = npt.NDArray[np.float32]
Blend = Literal["constant", "gaussian"]

#: Standard deviation of a gaussian blend, as part of the patch; and the least weight.
GAUSSIAN_SD = 0.125
LEAST_WEIGHT = 1e-3


def starts(length: int, size: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the patches along one axis that is at least as long as a patch.

    They are `size x (1 - overlap)` apart, rounded down; the last one ends with the axis.
    """
    step = max(1, int(size * (1 - overlap)))
    count = ceil((length - size) / step) + 1
    return tuple(min(i * step, length - size) for i in range(count))


@dataclass(frozen=True, slots=True)
class Tiling:
    """The patches of one array.

    Attributes:
        shape: of the array.
        size: of a patch.
        starts: first voxels along z, y, x; the patches are their product.
        blend: how overlapping answers are averaged.
    """

    shape: Shape
    size: Shape
    starts: tuple[tuple[int, ...], ...]
    blend: Blend

    @property
    def whole(self) -> bool:
        """One patch is all."""
        return self.shape == self.size

    def layers(self) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
        """z of each layer of patches, with their (y, x)."""
        z, y, x = self.starts
        places = tuple(product(y, x))
        return ((start, places) for start in z)

    def shares(self) -> tuple[dict[int, Weights], ...]:
        """For z, y, x: start to the share that a patch has in each voxel that it covers.

        The share in a voxel is the product of three; all patches together have 1.
        """
        return tuple(
            _shares(length, size, where, self.blend)
            for length, size, where in zip(self.shape, self.size, self.starts, strict=True)
        )


def tiling(shape: Shape, size: Shape, asked: Patches | None) -> Tiling:
    """Patches over an array that is nowhere smaller than one; without overlap unless asked."""
    overlap = asked.overlap if asked else 0.0
    where = tuple(starts(n, patch, overlap) for n, patch in zip(shape, size, strict=True))
    return Tiling(shape, size, where, asked.blend if asked else "constant")


def _shares(length: int, size: int, where: tuple[int, ...], blend: Blend) -> dict[int, Weights]:
    weights = np.ones(size)
    if blend == "gaussian":
        from_middle = (np.arange(size) - (size - 1) / 2) / (GAUSSIAN_SD * size)
        weights = np.maximum(np.exp(-0.5 * from_middle**2), LEAST_WEIGHT)
    total = np.zeros(length)
    for start in where:
        total[start : start + size] += weights
    return {s: (weights / total[s : s + size]).astype(np.float32) for s in where}


class Blender:
    """Averages the answers of patches, and hands on every plane that no further patch covers.

    Memory is that of one layer of patches, whatever the length of z.

    Args:
        tiling: the patches; they are added layer by layer, in any order within a layer.
        channels: of an answer.
        take: gets the first z and float32 (channels, planes, y, x), in order; only read there.
    """

    def __init__(self, tiling: Tiling, channels: int, take: Callable[[int, Weights], None]) -> None:
        self._tiling, self._take = tiling, take
        self._shares = tiling.shares()
        self._first = 0
        depth, (_, rows, columns) = tiling.size[0], tiling.shape
        shape = (channels, 0 if tiling.whole else depth, rows, columns)
        self._sum = np.zeros(shape, np.float32)

    def add(self, start: Shape, answer: Weights) -> None:
        """The answer (channels, z, y, x) of the patch that begins at `start`."""
        if self._tiling.whole:
            self._take(0, answer)
            return
        if start[0] > self._first:
            self._hand_on(start[0] - self._first)
        z, y, x = (shares[at] for shares, at in zip(self._shares, start, strict=True))
        (_, dy, dx), (_, top, left) = self._tiling.size, start
        weights = z[:, None, None] * y[:, None] * x
        self._sum[:, :, top : top + dy, left : left + dx] += answer * weights

    def finish(self) -> None:
        """Hand on what is left."""
        if not self._tiling.whole:
            self._hand_on(self._sum.shape[1])

    def _hand_on(self, planes: int) -> None:
        self._take(self._first, self._sum[:, :planes])
        kept = self._sum[:, planes:].copy()
        self._sum[:, : kept.shape[1]] = kept
        self._sum[:, kept.shape[1] :] = 0
        self._first += planes
