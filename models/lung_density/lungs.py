"""Find the two lungs on the reduced volume and check that they can be believed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

from fhir_ext.results import Refusal
from models.lung_density.airways import Airways, find_airways
from models.lung_density.operators import (
    close,
    components,
    dilate,
    grow,
    open_to_border,
    shrink,
)
from models.lung_density.preprocess import CoarseVolume

Labels = npt.NDArray[np.unsignedinteger]


class LungSettings(BaseModel):
    """Numbers of the method; they come from the manifest's `settings`.

    Attributes:
        air_hu: block mean below which a block is air or lung.
        lumen_hu: block mean below which a block may be airway lumen.
        gas_hu: a component whose median is below this is gas, not lung.
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


def find_lungs(coarse: CoarseVolume, settings: LungSettings, device: torch.device) -> torch.Tensor:
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
    air = coarse.hu < settings.air_hu
    outside = open_to_border(air)
    inner = air & ~outside
    airways = find_airways(coarse.hu, inner, coarse.spacing_mm, settings.lumen_hu)
    if airways is None:
        raise LungsNotFoundError(_implausible("no trachea", "a trachea from the upper chest down"))
    blocked = dilate(airways.lumen.to(device), settings.airway_wall_mm, coarse.spacing_mm).cpu()
    # One block more than the wall where blocks are larger than the wall.
    blocked |= grow(airways.lumen)
    inner &= ~blocked
    left, right = _two_lungs(inner, coarse, airways, settings)
    _check_cut(left, right, outside, coarse, settings)
    regions = _region_map(left, right, blocked, coarse, settings, device)
    return coarse.reorientation.to_array(regions)


def _two_lungs(
    inner: torch.Tensor, coarse: CoarseVolume, airways: Airways, settings: LungSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of the left and the right lung without closing."""
    labels, counts = components(inner)
    smallest = settings.min_lung_ml / coarse.block_ml
    large = [int(i) for i in np.argsort(counts)[::-1][:6] if counts[i] >= smallest]
    hu = coarse.hu.numpy()
    large = [i for i in large if np.median(hu[labels == i]) >= settings.gas_hu]
    if not large:
        raise LungsNotFoundError(_implausible("no lung", "two lungs"))
    if _spans(labels == large[0], airways.midline):
        return _part(torch.from_numpy(labels == large[0]), coarse, airways.midline, settings)
    sides: dict[bool, torch.Tensor] = {}
    for i in large:
        mask = labels == i
        sides.setdefault(_centre_x(mask) > airways.midline, torch.from_numpy(mask))
    if len(sides) < 2:
        raise LungsNotFoundError(_implausible("one lung", "two lungs"))
    return sides[True], sides[False]


def _part(
    joined: torch.Tensor, coarse: CoarseVolume, midline: float, settings: LungSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Part lungs that touch: erode until two large pieces remain, then grow them back.

    The pieces grow back one block at a time inside `joined`, so that the border between
    them runs through the bridge; a block that both reach at once goes to the left lung.
    """
    depth = max(1, round(settings.separation_mm / min(coarse.spacing_mm)))
    smallest = settings.min_lung_ml / coarse.block_ml / 2
    eroded = joined
    for steps in range(1, depth + 1):
        eroded = shrink(eroded)
        labels, counts = components(eroded)
        pieces = [int(i) for i in np.argsort(counts)[::-1][:2] if counts[i] >= smallest]
        if len(pieces) == 2:
            one, two = (labels == i for i in pieces)
            if (_centre_x(one) > midline) != (_centre_x(two) > midline):
                left, right = (one, two) if _centre_x(one) > midline else (two, one)
                return _grow_back(torch.from_numpy(left), torch.from_numpy(right), joined, steps)
    raise LungsNotFoundError(_implausible("lungs joined too widely to part", "two lungs"))


def _grow_back(
    left: torch.Tensor, right: torch.Tensor, joined: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    # Thin rims vanish wholly under erosion and are reached along the surface, later.
    for _ in range(3 * steps + 3):
        left = (grow(left) & joined & ~right) | left
        right = (grow(right) & joined & ~left) | right
    return left, right


def _check_cut(
    left: torch.Tensor,
    right: torch.Tensor,
    outside: torch.Tensor,
    coarse: CoarseVolume,
    settings: LungSettings,
) -> None:
    """Refuse lungs that the first or last plane or the field of view cuts."""
    for lung in (left, right):
        areas = lung.sum((1, 2))
        widest = float(areas.max())
        ends = max(float(areas[0]), float(areas[-1])) / widest
        open_above = (lung[:-1] & outside[1:]).sum((1, 2))
        open_below = (lung[1:] & outside[:-1]).sum((1, 2))
        sides = max(float(open_above.max()), float(open_below.max())) / widest
        worst = max(ends, sides)
        if worst > settings.cut_limit:
            raise LungsNotFoundError(
                Refusal(
                    "coverage",
                    f"lung cut by the edge over {100 * worst:.0f} % of its widest plane",
                    f"at most {100 * settings.cut_limit:.0f} %",
                )
            )


def _region_map(
    left: torch.Tensor,
    right: torch.Tensor,
    blocked: torch.Tensor,
    coarse: CoarseVolume,
    settings: LungSettings,
    device: torch.device,
) -> torch.Tensor:
    """Close each lung by itself, and tell inner blocks from those on its surface."""
    masks = [
        close(lung.to(device), settings.closing_mm, coarse.spacing_mm).cpu() & ~blocked
        for lung in (left, right)
    ]
    # Where both closings meet, a block belongs to the lung that held it before closing.
    masks[0] &= ~right
    masks[1] &= ~left & ~masks[0]
    regions = torch.zeros(left.shape, dtype=torch.uint8)
    for value, mask in ((1, masks[0]), (3, masks[1])):
        regions[grow(mask) & ~blocked & (regions == 0)] = value
    for value, mask in ((1, masks[0]), (3, masks[1])):
        regions[mask] = value
        regions[~grow(~mask)] = value + 1
    return regions


def _spans(mask: npt.NDArray[np.bool_], midline: float) -> bool:
    """Whether a good share of the mask lies on either side of the midline."""
    per_column = mask.sum((0, 1))
    left = per_column[round(midline) :].sum() / per_column.sum()
    return bool(0.2 < left < 0.8)


def _centre_x(mask: npt.NDArray[np.bool_]) -> float:
    per_column = mask.sum((0, 1))
    return float((per_column * np.arange(per_column.size)).sum() / per_column.sum())


def _implausible(seen: str, needed: str) -> Refusal:
    return Refusal("lung-mask-implausible", seen, needed)
