"""Find trachea and main bronchi on the reduced volume, by following them downwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.lung_density.operators import Mask, Spacing

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
#: Over this length of the chain no lung may touch it: destroyed lung is as dark, but not alone.
ALONE_MM = 25.0
#: A piece stands alone when the air around it, up to the tissue, is at most so much larger.
ALONE_WITHIN = 2.5
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

    lumen: Mask
    midline: float


class _Plane:
    """The pieces of dark air of one axial plane."""

    __slots__ = ("alone", "boxes", "labels", "mm2", "seen")

    def __init__(self, dark: Mask, air: Mask, pixel_mm2: float) -> None:
        labels, count = ndimage.label(dark)
        self.labels: npt.NDArray[np.int32] = labels
        self.mm2 = np.bincount(labels.ravel(), minlength=count + 1) * pixel_mm2
        around, _ = ndimage.label(air)
        around_mm2 = np.bincount(around.ravel()) * pixel_mm2
        # Every piece lies within one piece of air, so any of its pixels tells which.
        within = np.zeros(count + 1, dtype=np.intp)
        within[labels[dark]] = around[dark]
        self.alone = around_mm2[within] <= ALONE_WITHIN * self.mm2
        self.mm2[0] = 0.0
        self.boxes: list[tuple[slice, slice]] = ndimage.find_objects(labels)
        self.seen: set[int] = set()

    def box(self, piece: int) -> tuple[slice, slice]:
        return self.boxes[piece - 1]

    def mask(self, piece: int) -> Mask:
        """The piece inside its box."""
        return np.asarray(self.labels[self.box(piece)] == piece)


def find_airways(
    hu: npt.NDArray[np.int16], inner: Mask, spacing_mm: Spacing, lumen_hu: int
) -> Airways | None:
    """Follow the trachea from the head to the main bronchi.

    A plane's pieces of air below `lumen_hu` are linked by overlap with the plane above.
    The longest chain that starts as a round piece near the middle, walled off from the
    lungs, is the trachea; a piece that widens too fast ends its branch, and so does the
    depth below the carina.

    Args:
        hu: int16 (feet to head, front to back, right to left), cut to the body.
        inner: bool, air inside the body.
        spacing_mm: block size.
        lumen_hu: block mean below which a block may be airway lumen.

    Returns:
        None when no trachea is found.
    """
    pixel_mm2 = spacing_mm[1] * spacing_mm[2]
    # From the head down, so that index i + 1 lies below index i.
    planes = [
        _Plane((plane < lumen_hu) & air, air, pixel_mm2)
        for plane, air in zip(hu[::-1], inner[::-1], strict=True)
    ]
    best: list[list[int]] = []
    first = 0
    for top, plane in enumerate(planes):
        for piece in _round_pieces(plane, spacing_mm):
            chain = _follow(planes, top, piece, spacing_mm[0])
            alone = sum(planes[top + i].alone[pieces].all() for i, pieces in enumerate(chain))
            if len(chain) > len(best) and alone * spacing_mm[0] >= ALONE_MM:
                best, first = chain, top
    if len(best) * spacing_mm[0] < TRACHEA_MM:
        return None
    lumen = np.zeros(hu.shape, dtype=np.bool_)
    for down, pieces in enumerate(best):
        lumen[-1 - first - down] = np.isin(planes[first + down].labels, pieces)
    columns = planes[first].box(best[0][0])[1]
    return Airways(lumen, (columns.start + columns.stop - 1) / 2)


def _round_pieces(plane: _Plane, spacing_mm: Spacing) -> list[int]:
    """Pieces that look like a cut trachea and belong to no chain yet."""
    found = []
    middle = plane.labels.shape[1] / 2
    low, high = TRACHEA_MM2
    for piece in np.flatnonzero((plane.mm2 >= low) & (plane.mm2 <= high)).tolist():
        rows, columns = plane.box(piece)
        height = (rows.stop - rows.start) * spacing_mm[1]
        width = (columns.stop - columns.start) * spacing_mm[2]
        fills = plane.mm2[piece] / (height * width)
        off = abs((columns.start + columns.stop) / 2 - middle) * spacing_mm[2]
        compact = max(height, width) <= 2.5 * min(height, width) and fills > 0.5
        central = off < OFF_MIDLINE_MM
        if compact and central and plane.alone[piece] and piece not in plane.seen:
            found.append(piece)
    return found


def _follow(planes: list[_Plane], top: int, piece: int, plane_mm: float) -> list[list[int]]:
    """The airway's pieces in every plane from `top` downwards, starting with one piece."""
    chain = [[piece]]
    planes[top].seen.add(piece)
    below_carina = 0
    for above, plane in zip(planes[top:], planes[top + 1 :], strict=False):
        pieces = sorted({found for branch in chain[-1] for found in _below(above, branch, plane)})
        if below_carina or len(pieces) > 1:
            below_carina += 1
        if not pieces or below_carina * plane_mm > BELOW_CARINA_MM:
            break
        plane.seen.update(pieces)
        chain.append(pieces)
    return chain


def _below(above: _Plane, branch: int, plane: _Plane) -> list[int]:
    """Pieces of `plane` under one branch that are no leak into the lung."""
    limit = min(WIDEST_MM2, max(WIDENS_AT_MOST * above.mm2[branch], TRACHEA_MM2[0]))
    under = plane.labels[above.box(branch)][above.mask(branch)]
    return [p for p in np.unique(under).tolist() if p and BRANCH_MM2 <= plane.mm2[p] <= limit]
