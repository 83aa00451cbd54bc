"""Synthetic nodules and vessels, drawn into a volume as a scanner would average them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.nodule_detection.train.backgrounds import Background

Floats = npt.NDArray[np.float32]
Density = Literal["solid", "part-solid", "ground-glass"]

#: Diameters in mm that are drawn, evenly over their logarithm.
SMALLEST_MM, LARGEST_MM = 4.0, 20.0
#: A ground-glass nodule that is smaller cannot be seen in slices of some mm.
_SMALLEST_GLASS_MM = 6.0
#: Fine samples along z lie about so far apart.
_FINE_MM = 1.0
#: Share of nodules at the surface of the lung or of a vessel.
_AT_SURFACE = 0.5


@dataclass(frozen=True, slots=True)
class Nodule:
    """One inserted nodule.

    Attributes:
        centre: voxel (z, y, x) of the background, fractions of a voxel count.
        diameter_mm: of the sphere of its nominal radius.
        density: what it is made of.
    """

    centre: tuple[float, float, float]
    diameter_mm: float
    density: Density


@dataclass(frozen=True, slots=True)
class _Shape:
    """A ball that is stretched along the axes and dented by a few waves over the sphere."""

    stretch: Floats
    waves: Floats
    turns: Floats
    heights: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Shape:
        stretch = rng.uniform(0.8, 1.25, 3)
        directions = rng.normal(size=(4, 3))
        directions *= rng.uniform(1.5, 4.0, (4, 1)) / np.linalg.norm(
            directions, axis=1, keepdims=True
        )
        return cls(
            (stretch / stretch.prod() ** (1 / 3)).astype(np.float32),
            directions.astype(np.float32),
            rng.uniform(0, 2 * np.pi, 4).astype(np.float32),
            rng.uniform(0.0, 0.09, 4).astype(np.float32),
        )

    def depth(self, offsets: Floats, radius: float) -> Floats:
        """mm below the surface, about; offsets (..., 3) in mm from the centre."""
        scaled = offsets / self.stretch
        distance = np.linalg.norm(scaled, axis=-1)
        unit = scaled / np.maximum(distance, 1e-3)[..., None]
        surface = 1.0 + (self.heights * np.cos(unit @ self.waves.T + self.turns)).sum(-1)
        return np.asarray(radius * surface - distance, dtype=np.float32)


def place(background: Background, count: int, rng: np.random.Generator) -> list[Nodule]:
    """Where nodules go: in the lungs, half of them at a surface, none touching another or an
    annotated tumour."""
    inner, outer = _rooms(background)
    spacing = np.asarray(background.spacing_mm)
    found: list[Nodule] = []
    for _ in range(20 * count):
        if len(found) == count:
            break
        room = outer if rng.random() < _AT_SURFACE else inner
        if not len(room):
            continue
        flat = int(room[rng.integers(len(room))])
        cell = np.array(np.unravel_index(flat, background.hu.shape))
        centre = cell + rng.uniform(-0.5, 0.5, 3)
        diameter = float(np.exp(rng.uniform(np.log(SMALLEST_MM), np.log(LARGEST_MM))))
        kinds: list[Density] = ["solid", "part-solid", "ground-glass"]
        density = kinds[int(rng.choice(3, p=(0.7, 0.15, 0.15)))]
        if density != "solid" and diameter < _SMALLEST_GLASS_MM:
            density = "solid"
        if _free(centre * spacing, diameter, found, background):
            z, y, x = (float(value) for value in centre)
            found.append(Nodule((z, y, x), diameter, density))
    return found


def insert(
    background: Background, nodules: list[Nodule], vessels: int, rng: np.random.Generator
) -> npt.NDArray[np.int16]:
    """A copy of the background's voxels with nodules, and with pieces of vessels that are none."""
    hu = background.hu.astype(np.float32)
    inner, _ = _rooms(background)
    for _ in range(vessels if len(inner) else 0):
        flat = int(inner[rng.integers(len(inner))])
        centre = np.array(np.unravel_index(flat, hu.shape), dtype=np.float64)
        radius, length, bend = rng.uniform(0.8, 2.5), rng.uniform(25, 60), rng.uniform(-0.01, 0.01)
        along = rng.normal(size=3)
        along /= np.linalg.norm(along)
        across = np.cross(along, rng.normal(size=3))
        across /= np.linalg.norm(across)
        tube = _tube(along, across, radius, length, bend)
        _draw(hu, background, centre, length / 2 + 3, tube, float(rng.uniform(0, 60)))
    for nodule in nodules:
        _draw_nodule(hu, background, nodule, rng)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def _draw_nodule(
    hu: Floats, background: Background, nodule: Nodule, rng: np.random.Generator
) -> None:
    shape, radius = _Shape.draw(rng), nodule.diameter_mm / 2
    softness = rng.uniform(0.3, 0.7)
    solid, glass = float(rng.uniform(-30, 90)), float(rng.uniform(-650, -450))
    core = float(rng.uniform(0.35, 0.65))
    centre, reach = np.asarray(nodule.centre), 1.5 * radius + 2

    def member(part: float) -> Callable[[Floats], Floats]:
        return lambda at: _soft(shape.depth(at, radius * part), softness)

    if nodule.density != "solid":
        _draw(hu, background, centre, reach, member(1.0), glass)
    if nodule.density != "ground-glass":
        part = core if nodule.density == "part-solid" else 1.0
        _draw(hu, background, centre, reach, member(part), solid)


def _draw(
    hu: Floats,
    background: Background,
    centre: npt.NDArray[np.float64],
    reach_mm: float,
    member: Callable[[Floats], Floats],
    level: float,
) -> None:
    """Raise voxels towards `level` by the share of them that is inside; nothing gets darker.

    Args:
        member: offsets (..., 3) in mm from the centre to 0 (outside) to 1 (inside).
    """
    spacing = np.asarray(background.spacing_mm)
    low = np.maximum(np.floor(centre - reach_mm / spacing).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach_mm / spacing).astype(int) + 1, hu.shape)
    if (high <= low).any():
        return
    fine = max(1, round(background.thickness_mm / _FINE_MM))
    within = (np.arange(fine) + 0.5) / fine - 0.5
    z = (np.arange(low[0], high[0]) - centre[0])[:, None] * spacing[0]
    z = (z + within * background.thickness_mm).ravel()
    y, x = ((np.arange(low[i], high[i]) - centre[i]) * spacing[i] for i in (1, 2))
    offsets = np.stack(np.meshgrid(z, y, x, indexing="ij"), -1).astype(np.float32)
    share = member(offsets)
    share = share.reshape(high[0] - low[0], fine, *share.shape[1:]).mean(1)
    part = hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    part += share * np.maximum(0.0, level - part)


def _tube(
    along: npt.NDArray[np.float64],
    across: npt.NDArray[np.float64],
    radius: float,
    length: float,
    bend: float,
) -> Callable[[Floats], Floats]:
    """A bent tube whose ends fade, so that they are no balls."""

    def member(offsets: Floats) -> Floats:
        t = offsets @ along.astype(np.float32)
        s = offsets @ across.astype(np.float32) - bend * t * t
        rest = np.maximum((offsets**2).sum(-1) - t * t, 0) - (offsets @ across) ** 2
        distance = np.sqrt(np.maximum(rest, 0) + s * s)
        taper = np.clip(1.0 - np.abs(t) / (length / 2), 0.0, 1.0)
        return np.asarray(_soft(radius * np.sqrt(taper) - distance, 0.5) * (taper > 0))

    return member


def _soft(depth: Floats, softness: float) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(depth / softness, -30, 30))), dtype=np.float32)


def _rooms(background: Background) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Flat indices of lung voxels, and of those within some 3 mm of a surface in plane."""
    key = id(background.lungs)
    if key not in _ROOMS:
        lungs = background.lungs
        deep = lungs.copy()
        for axis in (1, 2):
            for step in range(1, max(1, round(3.0 / background.spacing_mm[axis])) + 1):
                deep &= np.roll(lungs, step, axis) & np.roll(lungs, -step, axis)
        _ROOMS[key] = (np.flatnonzero(lungs), np.flatnonzero(lungs & ~deep), lungs)
    inner, outer, _ = _ROOMS[key]
    return inner, outer


#: By id of the mask, which is kept, so that the id stays its own.
_ROOMS: dict[int, tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.bool_]]] = {}


def _free(
    centre_mm: npt.NDArray[np.float64],
    diameter: float,
    others: list[Nodule],
    background: Background,
) -> bool:
    spacing = np.asarray(background.spacing_mm)
    for other in others:
        gap = np.linalg.norm(np.asarray(other.centre) * spacing - centre_mm)
        if gap < (diameter + other.diameter_mm) / 2 + 6:
            return False
    for box in background.ignored:
        low = np.array([pair[0] for pair in box]) * spacing - diameter / 2 - 6
        high = np.array([pair[1] for pair in box]) * spacing + diameter / 2 + 6
        if ((centre_mm >= low) & (centre_mm <= high)).all():
            return False
    return True
