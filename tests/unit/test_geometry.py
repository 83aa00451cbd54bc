"""Stacks and their oddities, from positions alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_ext.dicom.geometry import Slot, find_stacks, measure
from fhir_ext.dicom.instances import Frame, Rescale

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def slot(number: int, position: tuple[float, float, float], **changes: object) -> Slot:
    frame = Frame(
        position=position,
        orientation=AXIAL,
        pixel_spacing=(0.8, 0.7),
        rescale=Rescale(1, -1024),
        frame_of_reference_uid="1.2.3",
        reconstruction=("B30f", 2.0, 120.0),
        acquisition=("1", "", ("ORIGINAL", "PRIMARY", "AXIAL")),
    )
    return Slot(replace(frame, **changes), 4, 5, (f"1.{number}", 0))  # type: ignore[arg-type]


def row(heights: list[float], start: int = 0, **changes: object) -> list[Slot]:
    return [slot(start + i, (1.0, 2.0, z), **changes) for i, z in enumerate(heights)]


def only_stack(slots: list[Slot]) -> list[int]:
    (stack,) = find_stacks(slots)
    assert all(len(place) == 1 for place in stack)
    return [place[0] for place in stack]


def codes(slots: list[Slot]) -> set[str]:
    order = only_stack(slots)
    return {issue.code for issue in measure(slots, order)[1]}


def test_regular_stack_whatever_the_order_of_arrival() -> None:
    slots = row([2.0 * index for index in range(20)])
    random.Random(1).shuffle(slots)
    geometry, issues = measure(slots, only_stack(slots))
    assert issues == []
    assert geometry.origin == (1.0, 2.0, 0.0)
    assert geometry.slice_step == pytest.approx((0, 0, 2))
    assert geometry.column_step == pytest.approx((0.7, 0, 0))
    assert geometry.row_step == pytest.approx((0, 0.8, 0))
    assert geometry.spacing_mm == pytest.approx((2.0, 0.8, 0.7))
    assert geometry.frame_of_reference_uid == "1.2.3"


@given(
    angle=st.floats(-3, 3),
    count=st.integers(2, 12),
    spacing=st.floats(0.3, 10),
    seed=st.integers(0, 99),
)
def test_any_rotation_orders_along_its_own_normal(
    angle: float, count: int, spacing: float, seed: int
) -> None:
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    row_direction, column_direction = (cosine, sine, 0.0), (0.0, 0.0, -1.0)
    normal = np.cross(row_direction, column_direction)
    slots = [
        slot(
            i, tuple((normal * spacing * i).tolist()), orientation=row_direction + column_direction
        )
        for i in range(count)
    ]
    shuffled = slots.copy()
    random.Random(seed).shuffle(shuffled)
    order = only_stack(shuffled)
    assert [shuffled[i].identity for i in order] == [item.identity for item in slots]
    geometry, issues = measure(shuffled, order)
    assert issues == []
    steps = np.array([geometry.slice_step, geometry.row_step, geometry.column_step])
    # The three steps form a right-handed frame: column, row, slice.
    assert np.linalg.det(steps[::-1]) > 0
    assert np.linalg.norm(geometry.slice_step) == pytest.approx(spacing)


def test_positions_rounded_to_hundredths_are_regular() -> None:
    assert codes(row([round(index * 2 / 3, 2) for index in range(50)])) == set()


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0, 1, 2, 4, 5, 6], {"gap"}),
        ([0, 1, 2, 3.05, 4, 5], {"irregular-spacing"}),
        ([0, 1, 2, 3.005, 4, 5], set()),
        ([0, 5, 10, 15.04, 20], set()),
        ([0, 5, 10, 15.06, 20], {"irregular-spacing"}),
        ([0, 1, 2, 2.4, 3.4, 4.4], {"irregular-spacing"}),
        ([0, 1, 2, 4, 5, 6.2, 7], {"gap", "irregular-spacing"}),
        ([7.0], {"single-slice"}),
        ([0, 3], set()),
    ],
)
def test_oddities_of_spacing(heights: list[float], expected: set[str]) -> None:
    assert codes(row(heights)) == expected


def test_gap_counts_missing_slices() -> None:
    slots = row([0, 1, 2, 6, 7, 8, 10, 11])
    _, issues = measure(slots, only_stack(slots))
    assert issues[0].detail == "2 gaps, about 4 slices of 1.000 mm missing"


def test_gantry_tilt() -> None:
    lean = float(np.tan(np.radians(20)))
    slots = [slot(i, (0.0, i * 3.0 * lean, i * 3.0)) for i in range(10)]
    geometry, issues = measure(slots, only_stack(slots))
    assert [(issue.code, issue.detail) for issue in issues] == [("gantry-tilt", "20.0 degrees")]
    assert geometry.slice_step == pytest.approx((0, 3 * lean, 3))
    # The volume of a voxel is that of the sheared box.
    assert geometry.voxel_volume_ml == pytest.approx(3 * 0.7 * 0.8 / 1000)


def test_slices_that_leave_the_line_are_irregular() -> None:
    slots = row([0, 1, 2, 3, 4])
    slots[2] = slot(2, (1.0, 2.5, 2.0))
    assert codes(slots) == {"irregular-spacing"}


def test_single_slice_is_as_thick_as_its_header_says() -> None:
    slots = row([5])
    geometry, _ = measure(slots, [0])
    assert geometry.slice_step == pytest.approx((0, 0, 2.0))


@pytest.mark.parametrize(
    "change",
    [
        {"orientation": CORONAL},
        {"frame_of_reference_uid": "1.2.4"},
        {"pixel_spacing": (0.9, 0.7)},
        {"reconstruction": ("B70f", 2.0, 120.0)},
        {"reconstruction": ("B30f", 5.0, 120.0)},
        {"reconstruction": ("B30f", 2.0, 80.0)},
    ],
)
def test_what_never_shares_a_stack(change: dict[str, object]) -> None:
    slots = row([0, 2, 4]) + row([1, 3, 5, 7], start=10, **change)
    stacks = find_stacks(slots)
    assert {frozenset(i for place in stack for i in place) for stack in stacks} == {
        frozenset(range(3)),
        frozenset(range(3, 7)),
    }


def test_matrix_size_separates() -> None:
    slots = row([0, 2, 4])
    slots += [replace(item, rows=8) for item in row([6, 8], start=10)]
    assert sorted(len(stack) for stack in find_stacks(slots)) == [2, 3]


def test_jitter_of_directions_and_spacing_does_not() -> None:
    slots = row([0, 2, 4])
    slots[1] = slot(
        1,
        (1.0, 2.0, 2.0),
        orientation=(1.0, 0.0000004, 0.0, 0.0, 0.9999996, 0.0002),
        pixel_spacing=(0.80001, 0.7),
    )
    only_stack(slots)


def acquired(number: str, phase: str = "", kind: str = "AXIAL") -> dict[str, object]:
    return {"acquisition": (number, phase, ("ORIGINAL", "PRIMARY", kind))}


@pytest.mark.parametrize("second", [acquired("2"), acquired("1", "2"), acquired("1", kind="MIP")])
def test_repeated_scan_becomes_two_stacks(second: dict[str, object]) -> None:
    slots = row([0, 2, 4, 6], **acquired("1")) + row([2, 4, 6, 8, 10], start=10, **second)
    random.Random(2).shuffle(slots)
    stacks = find_stacks(slots)
    assert sorted(len(stack) for stack in stacks) == [4, 5]
    assert all(len(place) == 1 for stack in stacks for place in stack)


def test_interleaved_scans_become_two_stacks() -> None:
    slots = row([0, 2, 4, 6], **acquired("1")) + row([0.7, 2.7, 4.7], start=10, **acquired("2"))
    assert sorted(len(stack) for stack in find_stacks(slots)) == [3, 4]


def test_acquisition_that_counts_with_the_table_is_one_stack() -> None:
    slots = [slot(i, (0.0, 0.0, 5.0 * i), **acquired(str(i // 2))) for i in range(12)]
    assert len(only_stack(slots)) == 12
    # Not even a duplicate makes twelve fragments of it.
    slots.append(slot(99, (0.0, 0.0, 10.0), **acquired("7")))
    (stack,) = find_stacks(slots)
    assert [len(place) for place in stack] == [1, 1, 2] + [1] * 9


def test_unexplained_duplicates_stay_together() -> None:
    slots = row([0, 2, 4, 4.004, 6])
    (stack,) = find_stacks(slots)
    assert [len(place) for place in stack] == [1, 1, 2, 1]


def test_many_different_planes_end_in_time() -> None:
    slots = [slot(i, (0.0, 0.0, 0.0), pixel_spacing=(1.002**i, 1.002**i)) for i in range(3000)]
    assert len(find_stacks(slots)) == 3000
