"""Free-response ROC: how many nodules are found at how many false marks for each scan.

As in LUNA16 (Setio et al., Med Image Anal 2017, doi 10.1016/j.media.2017.06.015) a mark hits a
nodule when it lies within its radius; here within `SLACK_MM` too, for slices of some mm leave no
more. Further marks on the same nodule count neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: False marks for each scan at which the sensitivity is told.
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: Marks so near to a centre are hits, however small the nodule is.
SLACK_MM = 4.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Marked:
    """What was found in one scene.

    Attributes:
        scores: best score of a mark on each nodule; 0 where there is none.
        diameters: of the nodules in mm.
        false: scores of marks on none.
        scans: how much of a scan was looked at.
    """

    scores: tuple[float, ...]
    diameters: tuple[float, ...]
    false: tuple[float, ...]
    scans: float


def match(
    marks: Floats, scores: Floats, centres: Floats, diameters: Sequence[float], scans: float
) -> Marked:
    """Compare marks with nodules.

    Args:
        marks: (n, 3) in mm, without those where nothing counts.
        scores: (n,).
        centres: (m, 3) in mm.
        diameters: (m,) in mm.
        scans: see `Marked`.
    """
    best = np.zeros(len(centres))
    hit = np.zeros(len(marks), dtype=bool)
    for index, (centre, diameter) in enumerate(zip(centres, diameters, strict=True)):
        near = np.linalg.norm(marks - centre, axis=1) <= max(diameter / 2, SLACK_MM)
        hit |= near
        best[index] = scores[near].max(initial=0.0)
    return Marked(
        tuple(map(float, best)),
        tuple(map(float, diameters)),
        tuple(map(float, scores[~hit])),
        scans,
    )


def threshold(marked: Sequence[Marked], rate: float) -> float:
    """Smallest score above which there are at most `rate` false marks for each scan."""
    false = np.sort(np.array([score for item in marked for score in item.false]))[::-1]
    allowed = int(rate * sum(item.scans for item in marked) + 1e-9)
    # Strictly above the first one that is too many.
    return float(false[allowed]) if len(false) > allowed else 0.0


def sensitivity(
    marked: Sequence[Marked], above: float, low_mm: float = 0.0, high_mm: float = np.inf
) -> tuple[float, int]:
    """(share of nodules with a mark scored above, number of nodules) of these diameters."""
    pairs = [
        score
        for item in marked
        for score, diameter in zip(item.scores, item.diameters, strict=True)
        if low_mm <= diameter < high_mm
    ]
    if not pairs:
        return float("nan"), 0
    return sum(score > above for score in pairs) / len(pairs), len(pairs)


def interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); as if the nodules were independent."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))
