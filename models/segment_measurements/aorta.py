"""Ascending and descending part of an aorta that was segmented as a whole."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from models.segment_measurements.tubes import Mask, Sections


class ArchSettings(BaseModel):
    """Numbers of the method; they come from the manifest's `settings`.

    Attributes:
        leg_mm: both legs of the arch must reach so far below its top.
        upright: cuts count to a leg while the line's direction has at least this share along
            the patient's axis; what lies between is the arch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    leg_mm: float
    upright: float


def split(cuts: Sections, settings: ArchSettings) -> tuple[Sections, Sections] | None:
    """Ascending and descending cuts.

    The line is followed from either end up to its highest point; the leg that lies further in
    front is the ascending aorta. The arch belongs to neither.

    Args:
        cuts: of the whole aorta, in order along its line.
        settings: numbers of the method.

    Returns:
        None where the line has no two legs: then nobody can say which part it is.
    """
    if len(cuts) < 3:
        return None
    height = cuts.centres[:, 2]
    top = int(height.argmax())
    first = np.arange(len(cuts)) < top
    last = np.arange(len(cuts)) > top
    for leg in (first, last):
        if not leg.any() or height[top] - height[leg].min() < settings.leg_mm:
            return None
    upright = np.abs(cuts.tangents[:, 2]) >= settings.upright
    # At one height both legs are cut, so that their depth can be compared.
    common = max(float(height[first].min()), float(height[last].min()))
    depth = [float(np.mean(cuts.centres[leg & (height >= common), 1])) for leg in (first, last)]
    front, back = (first, last) if depth[0] < depth[1] else (last, first)
    ascending: Mask = front & upright
    descending: Mask = back & upright
    return cuts[ascending], cuts[descending]
