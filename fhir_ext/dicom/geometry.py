"""Which frames form a stack, in which order, and whether the stack is regular.

Pure geometry: nothing here looks at pixels. Frames are ordered by position along the
normal of their plane; InstanceNumber says nothing about place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.instances import Frame
from fhir_ext.dicom.volume import Geometry, GeometryIssue

Vectors = npt.NDArray[np.float64]

#: Steps may differ by what rounding positions to 0.01 mm does to a step, ...
STEP_TOLERANCE_MM = 0.011
#: ... or by 1 % of the step, which changes a volume by less than any segmentation does.
STEP_TOLERANCE_SHARE = 0.01
#: Slices closer than this along the normal lie at the same place.
SAME_PLACE_MM = 0.01
#: A step this many times the usual one is a gap and not jitter.
GAP_FACTOR = 1.5
#: Thickness of a single slice whose header does not tell a usable one.
_THINNEST_MM = 0.1
#: Directions whose components differ by less are the same (headers carry six decimals).
SAME_DIRECTION = 1e-3
#: Relative difference under which pixel spacings are the same.
SAME_SPACING_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Slot:
    """One frame as the grouping sees it.

    Attributes:
        frame: place and belonging.
        rows, columns: size of the image.
        identity: (SOP Instance UID, frame index); breaks ties, so that the result does not
            depend on the order of arrival.
    """

    frame: Frame
    rows: int
    columns: int
    identity: tuple[str, int]


#: Indices of frames at one place, and such places in order along the normal.
Place = tuple[int, ...]
Stack = tuple[Place, ...]


def find_stacks(slots: Sequence[Slot]) -> tuple[Stack, ...]:
    """Sort frames into stacks.

    Frames of one stack share frame of reference, orientation, matrix, pixel spacing, kernel,
    slice thickness and tube voltage. Where such a group holds several slices at one place, or is
    uneven, it is split by acquisition number, temporal position or image type, if that helps.

    Returns:
        Stacks of places of indices into `slots`; a place holds more than one index where
        frames lie on each other. Places go up along the normal.
    """
    stacks: list[Stack] = []
    for group in _alike(slots):
        stacks += _split(slots, group, 0)
    return tuple(stacks)


def measure(slots: Sequence[Slot], order: Sequence[int]) -> tuple[Geometry, list[GeometryIssue]]:
    """Geometry of a stack without duplicates, and what is odd about it.

    Args:
        slots: frames.
        order: indices of the stack's frames in order along the normal; at least one.
    """
    first = slots[order[0]].frame
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = _normal(first)
    positions = _positions(slots, order)
    issues = list(_oddities(positions, normal))
    if len(order) > 1:
        step = (positions[-1] - positions[0]) / (len(order) - 1)
    else:
        # One slice says nothing of a distance: its thickness is the best guess.
        step = normal * max(first.reconstruction[1], _THINNEST_MM)
    geometry = Geometry(
        origin=_vector(positions[0]),
        column_step=_vector(row * first.pixel_spacing[1]),
        row_step=_vector(column * first.pixel_spacing[0]),
        slice_step=_vector(step),
        frame_of_reference_uid=first.frame_of_reference_uid,
    )
    return geometry, issues


def height(frame: Frame) -> float:
    """Position along the frame's own normal, in mm."""
    return float(np.dot(_normal(frame), frame.position))


def _alike(slots: Sequence[Slot]) -> Iterable[list[int]]:
    """Groups of frames whose planes and reconstruction are the same."""
    exact: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, slot in enumerate(slots):
        frame = slot.frame
        exact[
            frame.frame_of_reference_uid,
            slot.rows,
            slot.columns,
            frame.reconstruction,
        ].append(index)
    for indices in exact.values():
        planes = np.array(
            [(*slots[i].frame.orientation, *np.log(slots[i].frame.pixel_spacing)) for i in indices]
        )
        tolerance = np.array([SAME_DIRECTION] * 6 + [SAME_SPACING_SHARE] * 2)
        left = np.arange(len(indices))
        while len(left):
            same = (np.abs(planes[left] - planes[left[0]]) <= tolerance).all(axis=1)
            yield [indices[i] for i in left[same]]
            left = left[~same]


def _split(slots: Sequence[Slot], group: list[int], level: int) -> list[Stack]:
    """The group as one stack, or as several where a property of the frames explains it."""
    stack = _order(slots, group)
    crowded = {index for place in stack if len(place) > 1 for index in place}
    if not crowded and not _uneven(slots, stack):
        return [stack]
    for next_level, key in enumerate(_ACQUISITION_KEYS[level:], start=level + 1):
        parts: defaultdict[Hashable, list[int]] = defaultdict(list)
        for index in group:
            parts[key(slots[index].frame)].append(index)
        if len(parts) < 2:
            continue
        smaller = sorted(parts.values(), key=len)[:-1]
        # Numbers that count up with the table explain nothing: every part but the largest
        # must lie at least half on others, or all of them be good stacks by themselves.
        repeated = all(2 * len(crowded.intersection(part)) >= len(part) for part in smaller)
        if repeated or all(_clean(slots, _order(slots, part)) for part in parts.values()):
            return [found for part in parts.values() for found in _split(slots, part, next_level)]
    return [stack]


def _clean(slots: Sequence[Slot], stack: Stack) -> bool:
    """An even stack without duplicates and more than a fragment."""
    return len(stack) > 2 and all(len(place) == 1 for place in stack) and not _uneven(slots, stack)


_ACQUISITION_KEYS: tuple[Callable[[Frame], Hashable], ...] = (
    lambda frame: frame.acquisition[0],
    lambda frame: frame.acquisition[1],
    lambda frame: frame.acquisition[2],
)


def _order(slots: Sequence[Slot], group: Sequence[int]) -> Stack:
    normal = _normal(slots[group[0]].frame)
    heights = _positions(slots, group) @ normal
    ordered = sorted(
        zip(heights.tolist(), group, strict=True),
        key=lambda item: (item[0], slots[item[1]].identity),
    )
    places: list[list[int]] = []
    base = -np.inf
    for at, index in ordered:
        if at - base > SAME_PLACE_MM:
            places.append([])
            base = at
        places[-1].append(index)
    return tuple(tuple(sorted(place, key=lambda index: slots[index].identity)) for place in places)


def _uneven(slots: Sequence[Slot], stack: Stack) -> bool:
    order = [place[0] for place in stack]
    normal = _normal(slots[order[0]].frame)
    codes = {issue.code for issue in _oddities(_positions(slots, order), normal)}
    return bool(codes & {"gap", "irregular-spacing"})


def _oddities(positions: Vectors, normal: Vectors) -> Iterable[GeometryIssue]:
    """Issues of positions in order along the normal, no two at the same place."""
    count = len(positions)
    if count == 1:
        yield GeometryIssue("single-slice", "1 slice")
        return
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    usual = float(np.median(along))
    tolerance = max(STEP_TOLERANCE_MM, STEP_TOLERANCE_SHARE * usual)
    odd = np.abs(along - usual) > tolerance
    gaps = odd & (along > GAP_FACTOR * usual)
    if gaps.any():
        missing = int(np.rint(along[gaps] / usual - 1).sum())
        yield GeometryIssue(
            "gap", f"{int(gaps.sum())} gaps, about {missing} slices of {usual:.3f} mm missing"
        )
    # Slices must also follow one another on a straight line.
    mean = (positions[-1] - positions[0]) / (positions[-1] - positions[0]).dot(normal)
    sideways = steps - np.outer(along, mean)
    drift = np.linalg.norm(sideways, axis=1) > tolerance
    jitter = odd & ~gaps
    if jitter.any() or drift.any():
        yield GeometryIssue(
            "irregular-spacing",
            f"{int((jitter | drift).sum())} of {count - 1} steps, "
            f"{float(along.min()):.3f} to {float(along.max()):.3f} mm",
        )
    # Rounded positions may lean a short stack by up to one tolerance in all.
    total = positions[-1] - positions[0]
    lean = float(np.linalg.norm(total - total.dot(normal) * normal))
    if lean > max(STEP_TOLERANCE_MM, STEP_TOLERANCE_SHARE * float(total.dot(normal))):
        angle = float(np.degrees(np.arctan2(lean, total.dot(normal))))
        yield GeometryIssue("gantry-tilt", f"{angle:.1f} degrees")


def _normal(frame: Frame) -> Vectors:
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def _positions(slots: Sequence[Slot], indices: Sequence[int]) -> Vectors:
    return np.array([slots[index].frame.position for index in indices], np.float64)


def _vector(values: Vectors) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
