"""Find the two lungs on the reduced volume and check that they can be believed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

from fhir_ext.results import Refusal
from models.lung_density.airways import find_airways
from models.lung_density.operators import (
    Mask,
    Spacing,
    close,
    components,
    dilate,
    enclosed_air,
    grow,
    shrink,
)
from models.lung_density.preprocess import CoarseVolume


class LungSettings(BaseModel):
    """Numbers of the method; they come from the manifest's `settings`.

    Attributes:
        air_hu: block mean below which a block is air or lung.
        lumen_hu: block mean below which a block may be airway lumen.
        gas_hu: a component is gas, not lung, when 70 % of it is below this.
        airway_wall_mm: kept away from the lumen of trachea and main bronchi.
        closing_mm: radius of the closing that takes vessels into the lung.
        separation_mm: deepest erosion tried to part lungs that touch.
        min_lung_ml: smallest lung.
        cut_limit: largest share of a lung's widest plane that may lie on the volume's edge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    air_hu: int
    lumen_hu: int
    gas_hu: int
    airway_wall_mm: float
    closing_mm: float
    separation_mm: float
    min_lung_ml: float
    cut_limit: float


class LungsNotFoundError(Exception):
    """The mask cannot be believed; carries the refusal that says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal


def find_lungs(
    coarse: CoarseVolume, settings: LungSettings, device: torch.device
) -> npt.NDArray[np.uint8]:
    """Left and right lung as a region map for `operators.region_histograms`.

    Args:
        coarse: the reduced volume.
        settings: numbers of the method.
        device: where the morphology runs.

    Returns:
        uint8 (slices, rows, columns of blocks, in the *array's* orientation): 1 fringe and
        2 core of the left lung, 3 fringe and 4 core of the right lung, 0 elsewhere.

    Raises:
        LungsNotFoundError: no trachea, not two lungs, or lungs cut by the volume's edge.
    """
    inner = enclosed_air(coarse.hu, settings.air_hu)
    # The closing must not reach the box, whose outside counts as set.
    margin = 2 + round(settings.closing_mm / min(coarse.spacing_mm))
    box = _body_box(inner, margin)
    # A copy, so that the rest of the mask is freed.
    hu, inner = coarse.hu[box], inner[box].copy()
    airways = find_airways(hu, inner, coarse.spacing_mm, settings.lumen_hu)
    if airways is None:
        raise LungsNotFoundError(_implausible("no trachea", "a trachea from the upper chest down"))
    lumen = torch.from_numpy(airways.lumen).to(device)
    # At least one block, where blocks are larger than the wall.
    blocked = dilate(lumen, settings.airway_wall_mm, coarse.spacing_mm) | grow(lumen)
    outside = (hu < settings.air_hu) & ~inner
    lungs = _two_lungs(inner & ~blocked.cpu().numpy(), hu, coarse, airways.midline, settings)
    for lung in lungs:
        _check_cut(lung, outside, settings.cut_limit)
    left, right = (torch.from_numpy(lung).to(device) for lung in lungs)
    regions = np.zeros(coarse.hu.shape, dtype=np.uint8)
    regions[box] = _region_map(left, right, blocked, coarse.spacing_mm, settings.closing_mm)
    return coarse.reorientation.array_view(regions)


def _body_box(inner: Mask, margin: int) -> tuple[slice, slice, slice]:
    """All planes, and the rows and columns that hold air inside the body, with a margin."""
    rows, columns = np.flatnonzero(inner.any((0, 2))), np.flatnonzero(inner.any((0, 1)))
    if rows.size == 0:
        raise LungsNotFoundError(_implausible("no air inside the body", "two lungs"))
    return (
        slice(None),
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )


def _two_lungs(
    air: Mask,
    hu: npt.NDArray[np.int16],
    coarse: CoarseVolume,
    midline: float,
    settings: LungSettings,
) -> tuple[Mask, Mask]:
    """Masks of the left and the right lung, before closing."""
    labels, counts = components(air)
    smallest = settings.min_lung_ml / coarse.block_ml
    large = [int(i) for i in np.argsort(counts)[::-1][:6] if counts[i] >= smallest]
    large = [i for i in large if not _is_gas(hu[labels == i], settings.gas_hu)]
    if not large:
        raise LungsNotFoundError(_implausible("no lung", "two lungs"))
    if _spans(labels == large[0], midline):
        depth = max(1, round(settings.separation_mm / min(coarse.spacing_mm)))
        return _part(labels == large[0], midline, depth, smallest / 2)
    sides: dict[bool, Mask] = {}
    for i in large:
        mask = labels == i
        sides.setdefault(_centre_x(mask) > midline, mask)
    if len(sides) < 2:
        raise LungsNotFoundError(_implausible("one lung", "two lungs"))
    return sides[True], sides[False]


def _part(joined: Mask, midline: float, depth: int, smallest: float) -> tuple[Mask, Mask]:
    """Part lungs that touch: erode until two large pieces remain, then grow them back.

    The pieces grow back one block at a time inside `joined`, so that the border between
    them runs through the bridge; a block that both reach at once goes to the left lung.
    """
    eroded = torch.from_numpy(joined)
    for steps in range(1, depth + 1):
        eroded = shrink(eroded)
        labels, counts = components(eroded.numpy())
        pieces = [int(i) for i in np.argsort(counts)[::-1][:2] if counts[i] >= smallest]
        if len(pieces) == 2:
            one, two = (labels == i for i in pieces)
            if (_centre_x(one) > midline) != (_centre_x(two) > midline):
                left, right = (one, two) if _centre_x(one) > midline else (two, one)
                return _grow_back(left, right, joined, steps)
    raise LungsNotFoundError(_implausible("lungs joined too widely to part", "two lungs"))


def _grow_back(left: Mask, right: Mask, joined: Mask, steps: int) -> tuple[Mask, Mask]:
    one, two, room = (torch.from_numpy(mask) for mask in (left, right, joined))
    # Thin rims vanish wholly under erosion and are reached along the surface, later.
    for _ in range(3 * steps + 3):
        one = (grow(one) & room & ~two) | one
        two = (grow(two) & room & ~one) | two
    return one.numpy(), two.numpy()


def _check_cut(lung: Mask, outside: Mask, limit: float) -> None:
    """Refuse a lung that the first or last plane or the field of view cuts."""
    areas = lung.sum((1, 2))
    above = max(int((a & b).sum()) for a, b in zip(lung[:-1], outside[1:], strict=True))
    below = max(int((a & b).sum()) for a, b in zip(lung[1:], outside[:-1], strict=True))
    worst = max(int(areas[0]), int(areas[-1]), above, below) / int(areas.max())
    if worst > limit:
        raise LungsNotFoundError(
            Refusal(
                "coverage",
                f"lung cut by the edge over {100 * worst:.0f} % of its widest plane",
                f"at most {100 * limit:.0f} %",
            )
        )


def _region_map(
    left: torch.Tensor,
    right: torch.Tensor,
    blocked: torch.Tensor,
    spacing_mm: Spacing,
    closing_mm: float,
) -> npt.NDArray[np.uint8]:
    """Close each lung by itself, and tell inner blocks from those on its surface."""
    closed = [close(lung, closing_mm, spacing_mm) & ~blocked for lung in (left, right)]
    # Where both closings meet, a block belongs to the lung that held it before closing.
    closed[0] &= ~right
    closed[1] &= ~left & ~closed[0]
    regions = torch.zeros(left.shape, dtype=torch.uint8, device=left.device)
    for value, mask in ((1, closed[0]), (3, closed[1])):
        regions[grow(mask) & ~blocked & (regions == 0)] = value
    for value, mask in ((1, closed[0]), (3, closed[1])):
        regions[mask] = value
        regions[~grow(~mask)] = value + 1
    return regions.cpu().numpy()


def _is_gas(hu: npt.NDArray[np.int16], gas_hu: int) -> bool:
    """Whether 70 % of a component is as dark as gas.

    The rest of a gas bubble is its blurred surface; the rest of the most destroyed
    lung still holds vessels and tissue.
    """
    return bool(np.quantile(hu, 0.7) < gas_hu)


def _spans(mask: Mask, midline: float) -> bool:
    """Whether a good share of the mask lies on either side of the midline."""
    per_column = mask.sum((0, 1))
    left = per_column[round(midline) :].sum() / per_column.sum()
    return bool(0.2 < left < 0.8)


def _centre_x(mask: Mask) -> float:
    per_column = mask.sum((0, 1))
    return float((per_column * np.arange(per_column.size)).sum() / per_column.sum())


def _implausible(seen: str, needed: str) -> Refusal:
    return Refusal("lung-mask-implausible", seen, needed)
