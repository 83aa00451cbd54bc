"""Smooth random fields and kernel noise, the same on every machine for one seed.

Every slice draws from its own counter-based generator (Philox), so that slices can
be made in any order, and by several threads, with the same result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def generator(seed: int, stream: int, index: int = 0) -> np.random.Generator:
    """The generator of one slice (`index`) of one random quantity (`stream`)."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, (stream << 32) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class SmoothField:
    """Trilinear interpolation of a coarse random lattice: unit variance at the nodes.

    Args:
        seed, stream: which random numbers.
        extent_mm: (z, y, x) size of the box that is covered.
        pitch_mm: distance between lattice nodes.
    """

    def __init__(
        self, seed: int, stream: int, extent_mm: tuple[float, float, float], pitch_mm: float
    ) -> None:
        self._pitch = pitch_mm
        nodes = tuple(int(np.ceil(size / pitch_mm)) + 2 for size in extent_mm)
        self._lattice = generator(seed, stream).standard_normal(nodes, dtype=np.float32)

    def plane(self, z_mm: float, y_mm: Field, x_mm: Field) -> Field:
        """Values at one height: (len(y), len(x)); coordinates in mm from the box's corner."""
        low, share = self._split(np.array([z_mm], dtype=np.float32))
        layer = self._lattice[low[0]] * (1 - share[0]) + self._lattice[low[0] + 1] * share[0]
        row, down = self._split(y_mm)
        rows = layer[row] * (1 - down)[:, None] + layer[row + 1] * down[:, None]
        column, right = self._split(x_mm)
        return np.asarray(
            rows[:, column] * (1 - right) + rows[:, column + 1] * right, dtype=np.float32
        )

    def _split(self, at_mm: Field) -> tuple[npt.NDArray[np.intp], Field]:
        at = at_mm / self._pitch
        low = np.floor(at).astype(np.intp)
        return low, (at - low).astype(np.float32)


def kernel_noise(
    rng: np.random.Generator, shape: tuple[int, int], sd_hu: float, *, sharp: bool
) -> Field:
    """In-plane noise of one slice (rows, columns) in HU with standard deviation `sd_hu`.

    Soft kernels smooth white noise with binomial weights (1, 2, 1) / 4 along both
    axes; sharp kernels keep what that smoothing takes away.
    """
    white = rng.standard_normal((shape[0] + 2, shape[1] + 2), dtype=np.float32)
    smooth = white[:-2] + 2 * white[1:-1] + white[2:]
    smooth = (smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]) / 16
    if sharp:
        # Weights: 1 - 4/16 in the centre, the binomial weights around it.
        smooth = white[1:-1, 1:-1] - smooth
    smooth *= np.float32(sd_hu / (_SHARP_GAIN if sharp else _SOFT_GAIN))
    return np.asarray(smooth, dtype=np.float32)


_SOFT_GAIN = float(np.sqrt((6 / 16) ** 2))
_SHARP_GAIN = float(np.sqrt((6 / 16) ** 2 - (4 / 16) ** 2 + (1 - 4 / 16) ** 2))
