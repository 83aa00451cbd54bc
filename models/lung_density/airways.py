"""Find trachea and main bronchi on the reduced volume, by following them downwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.lung_density.operators import Spacing, plane_components

#: Lumen of the trachea in one axial plane, mm2; adults measure about 100 to 500.
TRACHEA_MM2 = (60.0, 750.0)
#: Widest plane of an airway, mm2: the carina, where both main bronchi still join.
WIDEST_MM2 = 1000.0
#: An airway plane is at most so many times the plane above it; more is a leak into lung.
WIDENS_AT_MOST = 3.0
#: Smallest piece that counts as a branch, mm2.
BRANCH_MM2 = 25.0
#: A chain of planes shorter than this is no trachea.
TRACHEA_MM = 40.0
#: Main bronchi end within so much below the carina (left: about 50 mm along an oblique course).
BELOW_CARINA_MM = 45.0
#: The trachea lies within so much of the middle of the body.
OFF_MIDLINE_MM = 50.0


@dataclass(frozen=True, slots=True)
class Airways:
    """Trachea and main bronchi.

    Attributes:
        lumen: bool (z, y, x) on the reduced volume.
        midline: x index (fractional) of the middle of the trachea.
    """

    lumen: torch.Tensor
    midline: float


@dataclass(slots=True)
class _Planes:
    """Air of every axial plane, labelled, with what is known of each piece."""

    labels: npt.NDArray[np.int32]
    mm2: npt.NDArray[np.float64]


def find_airways(
    hu: torch.Tensor, inner: torch.Tensor, spacing_mm: Spacing, lumen_hu: int
) -> Airways | None:
    """Follow the trachea from the head to the main bronchi.

    A plane's pieces of air below `lumen_hu` are linked by overlap with the plane above.
    The longest chain that starts as a round piece near the middle is the trachea; a
    piece that widens too fast ends its branch, and so does the depth below the carina.

    Args:
        hu: int16 (feet to head, front to back, right to left).
        inner: bool, air inside the body.
        spacing_mm: block size.
        lumen_hu: block mean below which a block may be airway lumen.

    Returns:
        None when no trachea is found.
    """
    labels, count = plane_components((hu < lumen_hu) & inner)
    plane_mm2 = spacing_mm[1] * spacing_mm[2]
    counts = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64)
    planes = _Planes(labels, counts * plane_mm2)
    planes.mm2[0] = 0.0
    best: list[npt.NDArray[np.bool_]] = []
    best_top = 0
    seen = np.zeros(count + 1, dtype=np.bool_)
    for top in range(labels.shape[0] - 1, -1, -1):
        for piece in _round_pieces(planes, top, spacing_mm, seen):
            chain = _follow(planes, top, piece, spacing_mm, seen)
            if len(chain) > len(best):
                best, best_top = chain, top
    if len(best) * spacing_mm[0] < TRACHEA_MM:
        return None
    lumen = np.zeros(labels.shape, dtype=np.bool_)
    for down, plane in enumerate(best):
        lumen[best_top - down] = plane
    upper = np.nonzero(best[0])[1]
    return Airways(torch.from_numpy(lumen), float(upper.mean()))


def _round_pieces(
    planes: _Planes, k: int, spacing_mm: Spacing, seen: npt.NDArray[np.bool_]
) -> list[int]:
    """Pieces of plane `k` that look like a cut trachea and belong to no chain yet."""
    plane = planes.labels[k]
    found = []
    for piece in np.unique(plane):
        if seen[piece] or not TRACHEA_MM2[0] <= planes.mm2[piece] <= TRACHEA_MM2[1]:
            continue
        rows, columns = np.nonzero(plane == piece)
        height = (np.ptp(rows) + 1) * spacing_mm[1]
        width = (np.ptp(columns) + 1) * spacing_mm[2]
        fills = planes.mm2[piece] / (height * width)
        off = abs(columns.mean() - (plane.shape[1] - 1) / 2) * spacing_mm[2]
        if max(height, width) <= 2.5 * min(height, width) and fills > 0.5 and off < OFF_MIDLINE_MM:
            found.append(int(piece))
    return found


def _follow(
    planes: _Planes, top: int, piece: int, spacing_mm: Spacing, seen: npt.NDArray[np.bool_]
) -> list[npt.NDArray[np.bool_]]:
    """Masks of the airway's planes from `top` downwards, starting with one piece."""
    branches = [piece]
    chain = [planes.labels[top] == piece]
    seen[piece] = True
    since_carina: int | None = None
    for k in range(top - 1, -1, -1):
        if since_carina is not None and since_carina * spacing_mm[0] >= BELOW_CARINA_MM:
            break
        below: list[int] = []
        for branch in branches:
            mask = planes.labels[k + 1] == branch
            limit = min(WIDEST_MM2, max(WIDENS_AT_MOST * planes.mm2[branch], TRACHEA_MM2[0]))
            for label in np.unique(planes.labels[k][mask]):
                fits = BRANCH_MM2 <= planes.mm2[label] <= limit
                if label and fits and label not in below:
                    below.append(int(label))
        if not below:
            break
        if since_carina is not None:
            since_carina += 1
        elif len(below) > 1:
            since_carina = 0
        branches = below
        seen[below] = True
        chain.append(np.isin(planes.labels[k], below))
    return chain
