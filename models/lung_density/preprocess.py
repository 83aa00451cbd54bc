"""Step 1: a reduced copy of the volume in one fixed orientation.

Everything that needs to see a whole lung at once works on this copy; the voxels
that are measured are read again at full resolution, a slab at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from fhir_ext.dicom.volume import CTVolume, Geometry

#: Slices read at once; keeps the float copy of a 512 x 512 slab near 8 MiB.
SLAB_SLICES = 8


@dataclass(frozen=True, slots=True)
class Reorientation:
    """How an array's axes lie in the patient.

    Attributes:
        order: array axis that runs along patient z, y and x.
        flipped: canonical axes whose array axis runs against head, back or left.
    """

    order: tuple[int, int, int]
    flipped: tuple[int, ...]

    def to_canonical(self, array: torch.Tensor) -> torch.Tensor:
        """Array order to (feet to head, front to back, right to left); contiguous."""
        return array.permute(self.order).flip(self.flipped).contiguous()

    def to_array(self, canonical: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_canonical`; contiguous."""
        inverse = [self.order.index(axis) for axis in range(3)]
        return canonical.flip(self.flipped).permute(inverse).contiguous()


@dataclass(frozen=True, slots=True)
class CoarseVolume:
    """Block means of a CT volume, canonically oriented.

    Attributes:
        hu: int16 (feet to head, front to back, right to left), HU, on the CPU.
        spacing_mm: block size along those axes in mm.
        factors: voxels per block along the *array's* axes (slices, rows, columns).
        reorientation: between the two.
    """

    hu: torch.Tensor
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
    # Patient axes in canonical order z, y, x; rows stay array axes.
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
    fz, fy, fx = (max(1, round(target_mm / step)) for step in spacing)
    slab = max(1, SLAB_SLICES // fz) * fz
    means = []
    for start in range(0, volume.voxels.shape[0], slab):
        part = torch.from_numpy(volume.voxels[start : start + slab].astype(np.float32)).to(device)
        mean = F.avg_pool3d(part[None], (fz, fy, fx), ceil_mode=True)[0]
        means.append(mean.round_().to("cpu", torch.int16))
    turn = reorientation_of(volume.geometry)
    size = tuple(f * step for f, step in zip((fz, fy, fx), spacing, strict=True))
    z, y, x = (size[axis] for axis in turn.order)
    return CoarseVolume(turn.to_canonical(torch.cat(means)), (z, y, x), (fz, fy, fx), turn)
