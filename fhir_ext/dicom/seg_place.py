"""A segment onto the grid of a volume, whatever grid and orientation it came in.

A voxel of the volume belongs to the segment when the nearest voxel of the segmentation does:
nearest along the normal within half a plane distance, and nearest pixel in that plane. Where
both grids agree this copies; nothing is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.seg import SAME_PLACE_MM, SegGrid, Segmentation, SegmentIdentity
from fhir_ext.dicom.volume import Geometry
from fhir_ext.errors import RefusedInput

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]

#: Axes count as parallel when this, in voxels, is all they drift over the whole segment.
_PARALLEL = 0.02
#: Keeps what lies exactly between two voxels on one side, against rounding.
_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class PlacedSegment:
    """One segment on the grid of a volume.

    Attributes:
        identity: what it says it is.
        box: where `mask` lies in the volume (slices, rows, columns).
        mask: bool, the shape of `box`; every face of the box touches the segment.
        outside: share of the segment's own voxels whose centre lies outside of the volume.
        own_ml: volume on the segmentation's own grid, for comparison.
    """

    identity: SegmentIdentity
    box: Box
    mask: Mask
    outside: float
    own_ml: float

    def full(self, shape: tuple[int, int, int]) -> Mask:
        """The mask in the shape of the volume."""
        found = np.zeros(shape, dtype=np.bool_)
        found[self.box] = self.mask
        return found


def check_reference(segmentation: Segmentation, geometry: Geometry) -> None:
    """Refuse a segmentation that was not drawn in the patient coordinates of the volume.

    Raises:
        RefusedInput: `seg-frame-of-reference`.
    """
    if segmentation.frame_of_reference_uid != geometry.frame_of_reference_uid:
        raise RefusedInput(
            "segmentation and images have different frames of reference",
            code="seg-frame-of-reference",
        )


def place(
    segmentation: Segmentation,
    identity: SegmentIdentity,
    geometry: Geometry,
    shape: tuple[int, int, int],
) -> PlacedSegment:
    """Put one segment onto the grid of a volume.

    Args:
        segmentation: the object.
        identity: one of its segments.
        geometry, shape: of the volume (slices, rows, columns).

    Raises:
        RefusedInput: `seg-frame-of-reference`; `seg-empty`: the segment has no pixel;
            `seg-outside-volume`: none of it lies in the volume; `corrupt-pixels`.
    """
    check_reference(segmentation, geometry)
    stack = _stack(segmentation, identity.number)
    matrix = np.array([geometry.slice_step, geometry.row_step, geometry.column_step]).T
    origin = np.array(geometry.origin)
    to_index = np.linalg.inv(matrix)
    box = _target_box(stack, to_index, origin, shape)
    if box is None:
        raise RefusedInput("a segment lies outside of the images", code="seg-outside-volume")
    start = np.array([axis.start for axis in box], dtype=np.float64)
    size = tuple(axis.stop - axis.start for axis in box)
    mask = _sample(stack, matrix, origin + matrix @ start, (size[0], size[1], size[2]))
    tight = _tight(mask)
    if tight is None:
        raise RefusedInput("a segment lies outside of the images", code="seg-outside-volume")
    voxels = int(np.count_nonzero(stack.mask))
    inside = _inside(stack, to_index, origin, shape)
    return PlacedSegment(
        identity=identity,
        box=_shift(tight, box),
        mask=np.ascontiguousarray(mask[tight]),
        outside=1.0 - inside / voxels,
        own_ml=voxels * segmentation.grid.voxel_ml,
    )


@dataclass(frozen=True, slots=True)
class _Stack:
    """The planes of one segment, cut to its pixels, in order along the normal.

    Attributes:
        mask: bool (planes, rows, columns).
        heights: of the planes along the normal, mm.
        origins: (planes, 3), centre of pixel [0, 0] of the cut.
    """

    grid: SegGrid
    mask: Mask
    heights: Floats
    origins: Floats


def _stack(segmentation: Segmentation, number: int) -> _Stack:
    grid = segmentation.grid
    frames = segmentation.frames_of(number)
    kept: list[tuple[int, npt.NDArray[np.uint8]]] = []
    rows = np.zeros(segmentation.frames.rows, bool)
    columns = np.zeros(segmentation.frames.columns, bool)
    for frame in frames.tolist():
        mask = segmentation.mask(frame, number)
        if mask.any():
            # Packed, since a body of many frames would hold a byte for every pixel twice.
            kept.append((frame, np.packbits(mask)))
            rows |= mask.any(1)
            columns |= mask.any(0)
    if not kept:
        raise RefusedInput("a segment has no pixel", code="seg-empty")
    cut_rows, cut_columns = _span(rows), _span(columns)
    places = grid.origins[[frame for frame, _ in kept]]
    heights = places @ grid.normal
    order = np.argsort(heights, kind="stable")
    first = np.concatenate([[True], np.diff(heights[order]) > SAME_PLACE_MM])
    planes = np.cumsum(first) - 1
    shape = (segmentation.frames.rows, segmentation.frames.columns)
    size = (cut_rows.stop - cut_rows.start, cut_columns.stop - cut_columns.start)
    stack = np.zeros((int(planes[-1]) + 1, *size), dtype=np.bool_)
    for plane, at in zip(planes.tolist(), order.tolist(), strict=True):
        whole = np.unpackbits(kept[at][1], count=shape[0] * shape[1]).reshape(shape)
        stack[plane] |= whole[cut_rows, cut_columns].astype(np.bool_)
    corner = (
        cut_columns.start * grid.spacing[1] * grid.column_direction
        + cut_rows.start * grid.spacing[0] * grid.row_direction
    )
    chosen = order[first]
    return _Stack(grid, stack, heights[chosen], places[chosen] + corner)


def _span(used: npt.NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(used)
    return slice(int(found[0]), int(found[-1]) + 1)


def _target_box(
    stack: _Stack, to_index: Floats, origin: Floats, shape: tuple[int, int, int]
) -> Box | None:
    """Voxels of the volume that the segment may reach; None when there are none."""
    grid = stack.grid
    _, rows, columns = stack.mask.shape
    half = grid.plane_step / 2
    corners = [
        place
        + grid.normal * side * half
        + grid.row_direction * grid.spacing[0] * row
        + grid.column_direction * grid.spacing[1] * column
        for place in stack.origins
        for side in (-1, 1)
        for row in (-0.5, rows - 0.5)
        for column in (-0.5, columns - 0.5)
    ]
    index = (np.array(corners) - origin) @ to_index.T
    low = np.floor(index.min(0)).astype(int)
    high = np.ceil(index.max(0)).astype(int) + 1
    found = tuple(
        slice(max(0, int(a)), min(size, int(b)))
        for a, b, size in zip(low, high, shape, strict=True)
    )
    if any(axis.start >= axis.stop for axis in found):
        return None
    return found[0], found[1], found[2]


def _sample(stack: _Stack, matrix: Floats, corner: Floats, size: tuple[int, int, int]) -> Mask:
    """Nearest voxel of the segment for a block of the volume that starts at `corner`."""
    grid = stack.grid
    axes = np.stack(
        [
            grid.normal,
            grid.row_direction / grid.spacing[0],
            grid.column_direction / grid.spacing[1],
        ]
    )
    steps = axes @ matrix
    start = axes @ corner
    offsets = stack.origins @ axes[1:].T
    order = _parallel(steps, size, np.ptp(offsets, axis=0))
    if order is not None:
        return _copy(stack, steps, start, offsets[0], size, order)
    found = np.zeros(size, dtype=np.bool_)
    y = np.arange(size[1], dtype=np.float64)[:, None]
    x = np.arange(size[2], dtype=np.float64)[None, :]
    for k in range(size[0]):
        height, row, column = (
            start[i] + steps[i, 0] * k + steps[i, 1] * y + steps[i, 2] * x for i in range(3)
        )
        plane, near = _nearest_plane(stack, height)
        r = np.floor(row - offsets[plane, 0] + 0.5 + _TIE).astype(np.intp)
        c = np.floor(column - offsets[plane, 1] + 0.5 + _TIE).astype(np.intp)
        near &= (r >= 0) & (r < stack.mask.shape[1]) & (c >= 0) & (c < stack.mask.shape[2])
        found[k][near] = stack.mask[plane[near], r[near], c[near]]
    return found


def _parallel(
    steps: Floats, size: tuple[int, int, int], drift: Floats
) -> tuple[int, int, int] | None:
    """Volume axis along (normal, rows, columns) of the segmentation; None when oblique."""
    order = np.abs(steps).argmax(axis=1)
    if sorted(order.tolist()) != [0, 1, 2] or drift.max() > _PARALLEL:
        return None
    aside = np.abs(steps) * np.array(size)
    aside[np.arange(3), order] = 0
    if aside.sum(axis=1).max() > _PARALLEL:
        return None
    return int(order[0]), int(order[1]), int(order[2])


def _copy(
    stack: _Stack,
    steps: Floats,
    start: Floats,
    offset: Floats,
    size: tuple[int, int, int],
    order: tuple[int, int, int],
) -> Mask:
    """As `_sample`, for parallel axes: each axis has its own table of indices."""
    along = [start[i] + steps[i, order[i]] * np.arange(size[order[i]]) for i in range(3)]
    plane, near = _nearest_plane(stack, along[0])
    tables, good = [plane], [near]
    for i in (1, 2):
        index = np.floor(along[i] - offset[i - 1] + 0.5 + _TIE).astype(np.intp)
        inside = (index >= 0) & (index < stack.mask.shape[i])
        tables.append(np.where(inside, index, 0))
        good.append(inside)
    picked = stack.mask[np.ix_(*tables)]
    picked &= good[0][:, None, None] & good[1][:, None] & good[2]
    back = [order.index(axis) for axis in range(3)]
    return np.ascontiguousarray(picked.transpose(back))


def _nearest_plane(stack: _Stack, height: Floats) -> tuple[npt.NDArray[np.intp], Mask]:
    """Index of the nearest plane, and whether it is within half a plane distance."""
    between = (stack.heights[1:] + stack.heights[:-1]) / 2
    tie = _TIE * stack.grid.plane_step
    plane = np.searchsorted(between, height + tie, side="right")
    distance = height - stack.heights[plane] + tie
    half = stack.grid.plane_step / 2
    return plane, np.asarray((distance >= -half) & (distance < half))


def _inside(stack: _Stack, to_index: Floats, origin: Floats, shape: tuple[int, int, int]) -> int:
    """How many voxels of the segment have their centre in the volume."""
    grid = stack.grid
    steps = to_index @ np.stack(
        [grid.row_direction * grid.spacing[0], grid.column_direction * grid.spacing[1]], axis=1
    )
    count = 0
    for plane, place in zip(stack.mask, stack.origins, strict=True):
        row, column = np.nonzero(plane)
        index = (to_index @ (place - origin))[:, None] + steps @ np.stack([row, column])
        within = (index > -0.5 - _PARALLEL) & (index < np.array(shape)[:, None] - 0.5 + _PARALLEL)
        count += int(np.count_nonzero(within.all(axis=0)))
    return count


def _tight(mask: Mask) -> Box | None:
    if not mask.any():
        return None
    z, y, x = (_span(np.asarray(mask.any(axes))) for axes in ((1, 2), (0, 2), (0, 1)))
    return z, y, x


def _shift(inner: Box, outer: Box) -> Box:
    z, y, x = (
        slice(a.start + b.start, a.stop + b.start) for a, b in zip(inner, outer, strict=True)
    )
    return z, y, x
