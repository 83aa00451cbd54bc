"""Widths of heart and chest along the rows of a frontal radiograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fhir_ext.results import Refusal

Mask = npt.NDArray[np.bool_]

#: Pieces smaller than this share of the largest are islands that programs leave behind.
_ISLAND = 0.1


@dataclass(frozen=True, slots=True)
class Lungs:
    """Segments of both lungs.

    Attributes:
        both: bool (rows, columns).
        left, right: of the patient; None where the segments do not tell the sides apart.
    """

    both: Mask
    left: Mask | None = None
    right: Mask | None = None


def without_islands(mask: Mask) -> Mask:
    """A mask without its small pieces: one pixel in the wrong place would decide a width."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= _ISLAND * sizes.max())[labels] & mask)


def ratio(heart: Mask, lungs: Lungs) -> float | Refusal:
    """Widest extent of the heart over the widest extent of the lungs in one row.

    The heart's extent is from its first to its last column: as Danzer measured it, the largest
    distances to the right and to the left of a vertical line, wherever each of them is.

    Args:
        heart: bool (rows, columns), at least one pixel; rows lie across the patient.
        lungs: of the same shape.
    """
    rows, columns = np.nonzero(lungs.both)
    first = np.full(heart.shape[0], heart.shape[1])
    last = np.full(heart.shape[0], -1)
    np.minimum.at(first, rows, columns)
    np.maximum.at(last, rows, columns)
    if first.min() == 0 or last.max() == heart.shape[1] - 1:
        return Refusal("coverage", "lungs at the edge of the image", "a margin on both sides")
    widest = int((last - first).argmax())
    across = np.flatnonzero(heart.any(axis=0))
    left, right = int(across[0]), int(across[-1])
    if left < first.min() or right > last.max():
        return Refusal("heart-position", "the heart beyond the lungs", "the heart between them")
    return (right - left + 1) / int(last[widest] - first[widest] + 1)


def check_lungs(lungs: Lungs, towards_left: bool | None, side_by_side: float) -> Refusal | None:
    """Refuse lungs that do not lie beside each other, or on the other sides than is said.

    Args:
        lungs: the segments.
        towards_left: whether columns count towards the patient's left; None: not stated.
        side_by_side: share of the rows of the shorter lung that the other one must have too.
    """
    one, other = lungs.left, lungs.right
    if one is None or other is None:
        pieces = _largest_two(lungs.both)
        if pieces is None:
            return None
        one, other = pieces
    one_rows, other_rows = one.any(axis=1), other.any(axis=1)
    shared = int((one_rows & other_rows).sum()) / min(int(one_rows.sum()), int(other_rows.sum()))
    if shared < side_by_side:
        return Refusal("patient-orientation", "lungs above each other", "lungs beside each other")
    if lungs.left is None or towards_left is None:
        return None
    if (_middle(one) > _middle(other)) is not towards_left:
        seen = "the lungs in each other's place"
        return Refusal("patient-orientation", seen, "as the header says")
    return None


def _largest_two(mask: Mask) -> tuple[Mask, Mask] | None:
    """The two largest pieces; None when there is one only."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    first, second = np.argsort(sizes, kind="stable")[-2:]
    return np.asarray(labels == first), np.asarray(labels == second)


def _middle(mask: Mask) -> float:
    return float(np.nonzero(mask)[1].mean())
