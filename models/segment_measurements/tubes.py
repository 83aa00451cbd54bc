"""Vessels as tubes: a centreline, and the cuts perpendicular to it.

1. A first line: cells of about `coarse_mm`, the two that are farthest apart inside the mask,
   and the centres of the shells between them.
2. Three times: cut the mask perpendicular to the line, move each point to the centre of its
   cut, smooth. The centre of any whole plane cut of a cylinder lies on its axis, so a line that
   starts oblique ends on the axis.
3. The last cuts are measured: largest and smallest calliper width.

Cuts nearer to an end than the radius there may run out through the end: they are not used, not
even to find the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cc3d
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from fhir_ext.dicom.volume import Geometry
from models.segmentation.structures import Structure

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Standard deviation of the blur of a mask, and the empty rim for it, in voxels.
_BLUR: Final = 1.0
_RIM: Final = 4
_ROUNDS: Final = 4
_CALLIPERS: Final = 36
#: Half angle of the cone in which a vessel must go on beyond a cut: narrow enough for a bulge.
_CONE: Final = np.radians(30)


class TubeSettings(BaseModel):
    """Numbers of the method; they come from the manifest's `settings`.

    Attributes:
        coarse_mm: side of the cells in which the first line is found.
        step_mm: distance of cuts along the line.
        smooth_mm: standard deviation of the smoothing along the line.
        pixel_mm: sampling of a cut.
        window_mm: half side of a cut; wider vessels are not measured.
        roundness: least ratio of smallest to largest width of a cut that is one vessel.
        min_sections: fewer usable cuts than this give no diameter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coarse_mm: float
    step_mm: float
    smooth_mm: float
    pixel_mm: float
    window_mm: float
    roundness: float
    min_sections: int


@dataclass(frozen=True, slots=True)
class Sections:
    """Usable cuts in order along the line.

    Attributes:
        centres: float64 (cuts, 3), LPS in mm.
        tangents: float64 (cuts, 3), unit vectors along the line.
        widest, narrowest: float64 (cuts,), calliper widths in mm.
    """

    centres: Floats
    tangents: Floats
    widest: Floats
    narrowest: Floats

    def __len__(self) -> int:
        return len(self.centres)

    def __getitem__(self, chosen: Mask) -> Sections:
        return Sections(
            self.centres[chosen],
            self.tangents[chosen],
            self.widest[chosen],
            self.narrowest[chosen],
        )


def sections(structure: Structure, geometry: Geometry, settings: TubeSettings) -> Sections:
    """Cut a vessel perpendicular to its centreline.

    Args:
        structure: the vessel; of several pieces the largest is used.
        geometry: of the volume.
        settings: numbers of the method.

    Returns:
        Usable cuts; possibly none. The order along the line is arbitrary but fixed.
    """
    tube = _Tube(structure, geometry)
    line = _first_line(tube, settings)
    if len(line) < 3:
        return _none()
    for _ in range(_ROUNDS):
        line = _even(_smooth(line, settings), settings.step_mm)
        tangents = _tangents(line)
        cuts = [
            tube.cut(p, t, 2 * settings.pixel_mm, settings)
            for p, t in zip(line, tangents, strict=True)
        ]
        kept = [
            cut.centre
            for cut, tangent in zip(cuts, tangents, strict=True)
            if cut is not None and _is_round(cut, settings) and tube.goes_on(cut, tangent)
        ]
        if len(kept) < 3:
            return _none()
        line = np.array(kept)
    line = _even(_smooth(line, settings), settings.step_mm)
    tangents = _tangents(line)
    cuts = [
        tube.cut(p, t, settings.pixel_mm, settings) for p, t in zip(line, tangents, strict=True)
    ]
    return _usable(tube, tangents, cuts, settings)


@dataclass(frozen=True, slots=True)
class _Cut:
    centre: Floats
    widest: float
    narrowest: float


class _Tube:
    """The largest piece of a mask with its place in the patient."""

    def __init__(self, structure: Structure, geometry: Geometry) -> None:
        labels, count = cc3d.connected_components(structure.mask, connectivity=26, return_N=True)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        self.mask: Mask = np.asarray(labels == int(sizes.argmax()))
        steps = (geometry.slice_step, geometry.row_step, geometry.column_step)
        self.matrix: Floats = np.array(steps).T
        start = np.array([axis.start for axis in structure.box], dtype=np.float64)
        self.origin: Floats = np.array(geometry.origin) + self.matrix @ start
        self.spacing = geometry.spacing_mm
        self._to_index = np.linalg.inv(self.matrix)
        # A rim of nothing, so that the surface at the face of the box is one too. Blurred by a
        # voxel, since the stairs of a mask would widen every calliper by almost one.
        self._soft = ndimage.gaussian_filter(np.pad(self.mask, _RIM).astype(np.float32), _BLUR)

    def cut(
        self, point: Floats, tangent: Floats, pixel_mm: float, settings: TubeSettings
    ) -> _Cut | None:
        """The piece of the mask around `point` in the plane across `tangent`.

        Returns:
            None when there is none, or when it does not end within the window.
        """
        axes = np.stack(_basis(tangent))
        half = round(settings.window_mm / pixel_mm)
        ticks = np.arange(-half, half + 1) * pixel_mm
        grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
        labels, _ = ndimage.label(self._at(point + grid @ axes) >= 0.5)
        piece = np.argwhere(labels == _nearest_label(labels, half))
        if not len(piece) or piece.min() == 0 or piece.max() == 2 * half:
            return None
        centre = point + (piece.mean(0) - half) * pixel_mm @ axes
        rim = self._rim(centre, axes, pixel_mm, settings.window_mm)
        if rim is None:
            return None
        angles = np.arange(_CALLIPERS) * np.pi / _CALLIPERS
        widths = np.ptp(rim @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
        return _Cut(centre, float(widths.max()), float(widths.min()))

    def _at(self, points: Floats) -> npt.NDArray[np.float32]:
        """The blurred mask at points (..., 3) in mm."""
        index = (points - self.origin) @ self._to_index.T + _RIM
        return np.asarray(
            ndimage.map_coordinates(self._soft, np.moveaxis(index, -1, 0), order=1, mode="constant")
        )

    def _rim(
        self, centre: Floats, axes: Floats, pixel_mm: float, window_mm: float
    ) -> Floats | None:
        """Where rays from the centre leave the mask: (rays, 2) in mm in the plane."""
        angles = np.arange(2 * _CALLIPERS) * np.pi / _CALLIPERS
        rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        radii = np.arange(0.0, window_mm, pixel_mm)
        values = self._at(centre + radii[None, :, None] * (rays @ axes)[:, None, :])
        outside = values < 0.5
        first = outside.argmax(axis=1)
        if (first == 0).any():
            return None
        every = np.arange(len(rays))
        last, past = values[every, first - 1], values[every, first]
        reach = radii[first - 1] + pixel_mm * (last - 0.5) / (last - past)
        return np.asarray(rays * reach[:, None])

    def goes_on(self, cut: _Cut, tangent: Floats) -> bool:
        """Whether the vessel goes on for its radius on both sides of a cut.

        Straight on, and within a cone: an end that is cut off obliquely lies beside the line,
        and would turn the line aside.
        """
        steps = np.arange(0.0, cut.narrowest / 2, 0.5 * min(self.spacing))
        aside = np.stack(_basis(tangent))
        cone = np.cos(_CONE) * tangent + np.sin(_CONE) * np.concatenate([aside, -aside])
        points = steps[:, None, None] * np.concatenate([tangent[None], cone])
        values = self._at(cut.centre + np.concatenate([points, -points]))
        return bool((values >= 0.5).all())


def _first_line(tube: _Tube, settings: TubeSettings) -> Floats:
    """Centres of the shells between the two ends of the mask (points, 3)."""
    factors = [max(1, round(settings.coarse_mm / size)) for size in tube.spacing]
    cells, places = _cells(tube, factors)
    size = [factor * step for factor, step in zip(factors, tube.spacing, strict=True)]
    depth = ndimage.distance_transform_edt(np.pad(cells, 1), sampling=size)[1:-1, 1:-1, 1:-1]
    weight = depth[cells] ** 2
    graph = _graph(cells, tube.matrix * np.array(factors))
    start = int(csgraph.dijkstra(graph, indices=0).argmax())
    far = csgraph.dijkstra(graph, indices=start)
    shell = np.floor(far / (2.0 * max(size))).astype(np.intp)
    # Deep cells count most: a shell that bends over at its rim keeps its middle.
    count = np.bincount(shell, weights=weight)
    sums = [np.bincount(shell, weights=weight * places[:, axis]) for axis in range(3)]
    used = count > 0
    return np.stack([total[used] / count[used] for total in sums], axis=1)


def _cells(tube: _Tube, factors: list[int]) -> tuple[Mask, Floats]:
    """Blocks that hold a voxel of the mask, and their centres in mm."""
    mask = tube.mask
    padded = np.pad(mask, [(0, -n % f) for n, f in zip(mask.shape, factors, strict=True)])
    (z, y, x), (a, b, c) = padded.shape, factors
    blocks = padded.reshape(z // a, a, y // b, b, x // c, c)
    cells: Mask = np.asarray(blocks.any(axis=(1, 3, 5)))
    # One piece again: blocks of a voxel each may have joined or left a corner apart.
    labels, count = cc3d.connected_components(cells, connectivity=26, return_N=True)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        cells = labels == int(sizes.argmax())
    index = np.argwhere(cells) * np.array(factors) + (np.array(factors) - 1) / 2
    return np.asarray(cells), tube.origin + index @ tube.matrix.T


def _graph(cells: Mask, steps: Floats) -> sparse.csr_matrix:
    """Neighbouring cells with their distance in mm."""
    number = np.full(cells.shape, -1, dtype=np.int64)
    number[cells] = np.arange(np.count_nonzero(cells))
    rows, columns, lengths = [], [], []
    offsets = [o for o in np.ndindex(3, 3, 3) if o > (1, 1, 1)]
    for offset in offsets:
        shift = [step - 1 for step in offset]
        one, two = (
            number[
                tuple(
                    slice(max(0, -s * sign), n - max(0, s * sign))
                    for s, n in zip(shift, cells.shape, strict=True)
                )
            ]
            for sign in (1, -1)
        )
        both = (one >= 0) & (two >= 0)
        rows.append(one[both])
        columns.append(two[both])
        length = float(np.linalg.norm(steps @ np.array(shift)))
        lengths.append(np.full(len(rows[-1]), length))
    size = int(np.count_nonzero(cells))
    half = sparse.csr_matrix(
        (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), (size, size)
    )
    return half + half.T


def _smooth(line: Floats, settings: TubeSettings) -> Floats:
    """Gaussian along the line; the ends are continued by reflection through the end point."""
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    sigma = settings.smooth_mm / max(float(np.median(lengths)), 1e-3)
    reach = min(len(line) - 1, int(4 * sigma) + 1)
    before = 2 * line[0] - line[reach:0:-1]
    after = 2 * line[-1] - line[-2 : -reach - 2 : -1]
    longer = np.concatenate([before, line, after])
    return np.asarray(ndimage.gaussian_filter1d(longer, sigma, axis=0)[reach : reach + len(line)])


def _even(line: Floats, step_mm: float) -> Floats:
    """Points at equal distances along the line."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], max(3, round(along[-1] / step_mm) + 1))
    return np.stack([np.interp(wanted, along, line[:, axis]) for axis in range(3)], axis=1)


def _tangents(line: Floats) -> Floats:
    found = np.gradient(line, axis=0)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _basis(tangent: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors across a direction."""
    helper = np.zeros(3)
    helper[int(np.abs(tangent).argmin())] = 1.0
    one = np.cross(tangent, helper)
    one /= np.linalg.norm(one)
    return one, np.cross(tangent, one)


def _nearest_label(labels: npt.NDArray[np.int32], half: int) -> int:
    """Label at the middle, else of the nearest pixel; -1 when the plane is empty."""
    if labels[half, half]:
        return int(labels[half, half])
    points = np.argwhere(labels)
    if not len(points):
        return -1
    nearest = points[int(((points - half) ** 2).sum(axis=1).argmin())]
    return int(labels[nearest[0], nearest[1]])


def _is_round(cut: _Cut, settings: TubeSettings) -> bool:
    return cut.narrowest >= settings.roundness * cut.widest


def _usable(
    tube: _Tube, tangents: Floats, cuts: list[_Cut | None], settings: TubeSettings
) -> Sections:
    kept = [
        (cut, tangent)
        for cut, tangent in zip(cuts, tangents, strict=True)
        if cut is not None and _is_round(cut, settings) and tube.goes_on(cut, tangent)
    ]
    if not kept:
        return _none()
    return Sections(
        np.array([cut.centre for cut, _ in kept]),
        np.array([tangent for _, tangent in kept]),
        np.array([cut.widest for cut, _ in kept]),
        np.array([cut.narrowest for cut, _ in kept]),
    )


def _none() -> Sections:
    return Sections(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


def largest(cuts: Sections, settings: TubeSettings) -> float | None:
    """Largest diameter in mm: of the running median of five cuts, so that no single cut decides.

    Returns:
        None with fewer than `min_sections` cuts.
    """
    if len(cuts) < settings.min_sections:
        return None
    return float(ndimage.median_filter(cuts.widest, size=5, mode="nearest").max())
