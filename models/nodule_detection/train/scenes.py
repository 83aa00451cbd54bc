"""From a background with nodules to patches and the maps that the network should give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from models.nodule_detection.network import PATCH, SPACING_MM, STRIDE, WINDOW_HU
from models.nodule_detection.train.backgrounds import Background
from models.nodule_detection.train.nodules import Nodule, insert, place

#: Nodules and pieces of vessels of one scene.
NODULES, VESSELS = 30, 10
#: Patches of one scene: around nodules, and anywhere.
AROUND, ANYWHERE = 18, 6
#: Annotated tumours are neither right nor wrong, so far around them.
MARGIN_MM = 6.0
#: Spread in mm of the hill in the heat map, at least and for each mm of the nodule.
_SPREAD_MM, _SPREAD_SHARE = 2.0, 0.16


@dataclass(frozen=True, slots=True)
class Target:
    """A nodule on the grid of the network.

    Attributes:
        centre: voxel (z, y, x).
        diameter_mm: as if the voxels had the nominal size.
        nodule: where it comes from.
    """

    centre: npt.NDArray[np.float64]
    diameter_mm: float
    nodule: Nodule


@dataclass(frozen=True, slots=True)
class Scene:
    """A background with nodules, as the network sees it.

    Attributes:
        image: float32 (z, y, x) in 0 to 1.
        targets: what is in it.
        ignored: boxes of annotated tumours, (first, last) voxel (z, y, x).
    """

    image: torch.Tensor
    targets: tuple[Target, ...]
    ignored: tuple[npt.NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches and what the network should give.

    Attributes:
        image: (n, 1, z, y, x).
        heat: (n, 1, cells), 1 at a centre.
        rest: (n, 4, cells), offsets and logarithm of the diameter.
        near: (n, 1, cells), where `rest` counts.
        counts: (n, 1, cells), 0 where nothing is known.
    """

    image: torch.Tensor
    heat: torch.Tensor
    rest: torch.Tensor
    near: torch.Tensor
    counts: torch.Tensor


def resample(
    hu: npt.NDArray[np.int16], spacing_mm: Sequence[float], wanted_mm: Sequence[float]
) -> torch.Tensor:
    """Linear; the middle of the first voxel stays where it is. float32 (z, y, x) in HU.

    In place of a reduction that averages, so that it is what the service does.
    """
    found = torch.from_numpy(hu.astype(np.float32))
    # Pixels first: there are fewer of them afterwards.
    for axis in (2, 1, 0):
        length = found.shape[axis]
        count = int((length - 1) * spacing_mm[axis] / wanted_mm[axis]) + 1
        at = torch.arange(count, dtype=torch.float64) * (wanted_mm[axis] / spacing_mm[axis])
        low = at.floor().clamp(max=length - 1).long()
        high = (low + 1).clamp(max=length - 1)
        share = (at - low).to(torch.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        first = found.index_select(axis, low)
        found = first + share * (found.index_select(axis, high) - first)
    return found


def windowed(hu: torch.Tensor) -> torch.Tensor:
    """HU to 0 to 1, clipped."""
    low, high = WINDOW_HU
    return ((hu - low) / (high - low)).clamp(0.0, 1.0)


def scene(
    background: Background,
    nodules: Sequence[Nodule],
    rng: np.random.Generator,
    *,
    vessels: int = 0,
    zoom: float = 1.0,
    noise_hu: float = 0.0,
) -> Scene:
    """Draw nodules into a background and bring it onto the grid of the network.

    Args:
        zoom: size of a voxel of the grid, relative to the nominal one.
        noise_hu: standard deviation of further noise, in HU.
    """
    hu = insert(background, list(nodules), vessels, rng)
    wanted = [step * zoom for step in SPACING_MM]
    image = resample(hu, background.spacing_mm, wanted)
    if noise_hu > 2:
        image += noise_hu * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    scale = np.asarray(background.spacing_mm) / np.asarray(wanted)
    targets = tuple(
        Target(np.asarray(item.centre) * scale, item.diameter_mm / zoom, item) for item in nodules
    )
    margin = MARGIN_MM / np.asarray(wanted)[:, None]
    ignored = tuple(
        np.asarray(box) * scale[:, None] + margin * np.array([-1.0, 1.0])
        for box in background.ignored
    )
    return Scene(windowed(image), targets, ignored)


def training_batch(background: Background, seed: Sequence[int]) -> Batch:
    """Patches of one new scene; the same seed gives the same."""
    rng = np.random.default_rng(list(seed))
    nodules = place(background, NODULES, rng)
    made = scene(
        background,
        nodules,
        rng,
        vessels=VESSELS,
        zoom=float(rng.uniform(0.88, 1.12)),
        noise_hu=float(rng.uniform(-15, 20)),
    )
    size = np.asarray(made.image.shape)
    starts = []
    for index in range(AROUND + ANYWHERE):
        if index < AROUND and made.targets:
            centre = made.targets[index % len(made.targets)].centre
            at = centre - np.asarray(PATCH) * rng.uniform(0.1, 0.9, 3)
        else:
            at = rng.uniform(-0.15, 1.0, 3) * (size - np.asarray(PATCH) * 0.6)
        starts.append(np.rint(at).astype(int))
    flips = [tuple(axis for axis in range(3) if rng.random() < 0.5) for _ in starts]
    parts = [_patch(made, at, axes) for at, axes in zip(starts, flips, strict=True)]
    return Batch(*(torch.stack(items) for items in zip(*parts, strict=True)))


def _patch(made: Scene, start: npt.NDArray[np.int_], flips: tuple[int, ...]) -> list[torch.Tensor]:
    """image, heat, rest, near and counts of one patch; what lies outside is air."""
    image = cut(made.image, start)
    cells = [length // step for length, step in zip(PATCH, STRIDE, strict=True)]
    heat, near = torch.zeros(cells), torch.zeros(cells)
    rest, counts = torch.zeros([4, *cells]), torch.ones(cells)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in cells), indexing="ij"), -1)
    stride, last = np.asarray(STRIDE), np.asarray(PATCH) - 1
    for target in made.targets:
        centre = target.centre - start
        if (centre < -4).any() or (centre > last + 4).any():
            continue
        if 1 in flips or 0 in flips or 2 in flips:
            centre = np.array([last[i] - centre[i] if i in flips else centre[i] for i in range(3)])
        place = centre / stride
        spread = max(_SPREAD_MM, _SPREAD_SHARE * target.diameter_mm)
        away = (grid - np.rint(place)) * stride * np.asarray(SPACING_MM)
        hill = torch.from_numpy(np.exp(-(away**2).sum(-1) / (2 * spread**2)).astype(np.float32))
        mine = (hill > 0.5) & (hill >= heat)
        heat = torch.maximum(heat, hill)
        values = np.concatenate(
            [place - grid, np.full((*cells, 1), np.log(target.diameter_mm))], -1
        )
        rest = torch.where(mine, torch.from_numpy(values.astype(np.float32)).movedim(-1, 0), rest)
        near = torch.where(mine, torch.ones(()), near)
    for box in made.ignored:
        low, high = (box[:, i] - start for i in (0, 1))
        if flips:
            turned = [(last[i] - high[i], last[i] - low[i]) for i in range(3)]
            pairs = [turned[i] if i in flips else (low[i], high[i]) for i in range(3)]
            low, high = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
        first = np.clip(np.floor(low / stride), 0, cells).astype(int)
        end = np.clip(np.ceil(high / stride) + 1, 0, cells).astype(int)
        counts[tuple(slice(a, b) for a, b in zip(first, end, strict=True))] = 0.0
    if flips:
        image = image.flip(flips)
    return [image[None], heat[None], rest, near[None], counts[None]]


def cut(image: torch.Tensor, start: Sequence[int] | npt.NDArray[np.int_]) -> torch.Tensor:
    """One patch; 0 where it reaches over the border."""
    low = [max(0, int(at)) for at in start]
    high = [min(n, int(at) + p) for at, p, n in zip(start, PATCH, image.shape, strict=True)]
    if any(b <= a for a, b in zip(low, high, strict=True)):
        return torch.zeros(PATCH)
    part = image[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    pads: list[int] = []
    for axis in (2, 1, 0):
        before = low[axis] - int(start[axis])
        pads += [before, PATCH[axis] - before - part.shape[axis]]
    return F.pad(part, pads)
