"""Step 1: a reduced copy of the volume in one fixed orientation.

Everything that needs to see a whole lung at once works on this copy; the voxels
that are measured are read again at full resolution, a slab at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from fhir_ext.dicom.volume import CTVolume, Geometry

#: Voxels averaged at once: 8 MiB as float.
SLAB_VOXELS = 2_000_000
#: Most blocks of the reduced copy; larger scans get larger blocks. Bounds the memory.
MAX_BLOCKS = 8_000_000

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Reorientation:
    """How an array's axes lie in the patient.

    Canonical order is (feet to head, front to back, right to left).

    Attributes:
        order: array axis that runs along patient z, y and x.
        flipped: canonical axes whose array axis runs against head, back or left.
    """

    order: tuple[int, int, int]
    flipped: tuple[int, ...]

    def canonical_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        z, y, x = (shape[axis] for axis in self.order)
        return z, y, x

    def array_view(self, canonical: npt.NDArray[_T]) -> npt.NDArray[_T]:
        """A canonical array seen in the order of the volume's array; shares memory."""
        inverse = [self.order.index(axis) for axis in range(3)]
        return np.flip(canonical, self.flipped).transpose(inverse)


@dataclass(frozen=True, slots=True)
class CoarseVolume:
    """Block means of a CT volume, canonically oriented.

    Attributes:
        hu: int16 (feet to head, front to back, right to left), HU.
        spacing_mm: block size along those axes in mm.
        factors: voxels per block along the *array's* axes (slices, rows, columns).
        reorientation: between the two.
    """

    hu: npt.NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    factors: tuple[int, int, int]
    reorientation: Reorientation

    @property
    def block_ml(self) -> float:
        z, y, x = self.spacing_mm
        return z * y * x / 1000.0


def reorientation_of(geometry: Geometry) -> Reorientation:
    """Which array axis runs along which patient axis, from the direction cosines.

    Oblique stacks get the nearest axes; the steps need not be orthogonal.
    """
    steps = np.array([geometry.slice_step, geometry.row_step, geometry.column_step])
    cosines = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    # Columns become patient z, y, x; rows stay array axes.
    cosines = cosines[:, ::-1]
    order = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(cosines[axis, i]) for i, axis in enumerate(axes)),
    )
    flipped = tuple(i for i, axis in enumerate(order) if cosines[axis, i] < 0)
    return Reorientation((order[0], order[1], order[2]), flipped)


def reduce_volume(volume: CTVolume, target_mm: float, device: torch.device) -> CoarseVolume:
    """Average blocks of whole voxels so that each side is near `target_mm`.

    Blocks at the far borders may be smaller; they average what they hold.

    Args:
        volume: the volume; its voxels are only read.
        target_mm: wanted block side; no side is made finer than the voxels.
        device: where the averaging runs.
    """
    spacing = volume.geometry.spacing_mm
    factors = _factors(volume.voxels.shape, spacing, target_mm)
    turn = reorientation_of(volume.geometry)
    blocks = tuple(-(-n // f) for n, f in zip(volume.voxels.shape, factors, strict=True))
    hu = np.empty(turn.canonical_shape(blocks), dtype=np.int16)
    out = turn.array_view(hu)
    plane = volume.voxels[0].size * factors[0]
    layers = max(1, SLAB_VOXELS // plane)
    for block in range(0, blocks[0], layers):
        part = volume.voxels[block * factors[0] : (block + layers) * factors[0]]
        slab = torch.from_numpy(part.astype(np.float32)).to(device)
        mean = F.avg_pool3d(slab[None], factors, ceil_mode=True)[0]
        out[block : block + layers] = mean.round_().to("cpu", torch.int16).numpy()
    size = tuple(f * step for f, step in zip(factors, spacing, strict=True))
    z, y, x = (size[axis] for axis in turn.order)
    return CoarseVolume(hu, (z, y, x), factors, turn)


def _factors(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], target_mm: float
) -> tuple[int, int, int]:
    fz, fy, fx = (max(1, round(target_mm / step)) for step in spacing_mm)
    while shape[0] * shape[1] * shape[2] > MAX_BLOCKS * fz * fy * fx:
        target_mm *= 1.2
        fz, fy, fx = (max(1, round(target_mm / step)) for step in spacing_mm)
    return fz, fy, fx
