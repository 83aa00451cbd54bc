"""Which series a manifest wants, and why it does not want the others."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any, get_args

import pytest

from fhir_ext.resources import codes
from models.manifest.inputs import Inputs, SeriesSelection
from models.manifest.selection import (
    BODY_PART,
    DESCRIPTION,
    NOT_PREFERRED,
    SeriesFacts,
    select,
    softness,
)

SOFT = SeriesFacts("1.1", 300, "Thorax soft", "CHEST", 2.0, "B30f", 2)
LUNG = SeriesFacts("1.2", 600, "Thorax LUNG", "CHEST", 1.0, "B70f", 3)
THICK = SeriesFacts("1.3", 60, "Thorax 5 mm", "THORAX", 5.0, "Br36d\\3", 4)
SCOUT = SeriesFacts("1.4", 2, "Scout", None, None, None, 1)
HEAD = SeriesFacts("1.5", 200, "Brain", "head", 1.0, "J40s", 5)
ALL = (SOFT, LUNG, THICK, SCOUT, HEAD)


def inputs(body_part: tuple[str, ...] = (), **series: Any) -> Inputs:
    selection = SeriesSelection(**series) if series else None
    return Inputs(modality=("CT",), min_slices=40, body_part=body_part, series=selection)


def kept(wanted: Inputs, candidates: tuple[SeriesFacts, ...] = ALL) -> list[str]:
    return [series.series_instance_uid for series in select(wanted, candidates).kept]


def test_without_wishes_all_are_kept_by_number_and_short_ones_last() -> None:
    assert kept(inputs()) == ["1.1", "1.2", "1.3", "1.5", "1.4"]
    assert select(inputs(), ALL).dropped == ()


def test_another_body_part_is_dropped_and_an_unknown_one_is_not() -> None:
    found = select(inputs(("Chest", "THORAX")), ALL)
    assert [item.series_instance_uid for item in found.kept] == ["1.1", "1.2", "1.3", "1.4"]
    assert [(d.series, d.reason, d.seen) for d in found.dropped] == [
        (HEAD, BODY_PART, "another body part")
    ]


def test_descriptions() -> None:
    wanted = inputs(description=["thorax", "brain"], exclude_description=[r"\blung\b"])
    found = select(wanted, ALL)
    assert [item.series_instance_uid for item in found.kept] == ["1.1", "1.3", "1.5"]
    assert [(d.series.series_instance_uid, d.reason, d.seen) for d in found.dropped] == [
        ("1.2", DESCRIPTION, r"matches \blung\b"),
        ("1.4", DESCRIPTION, "matches none of thorax, brain"),
    ]


@pytest.mark.parametrize(
    ("prefer", "order"),
    [
        (["most-slices"], ["1.2", "1.1", "1.5", "1.3"]),
        (["thinnest"], ["1.2", "1.5", "1.1", "1.3"]),
        (["thickest"], ["1.3", "1.1", "1.2", "1.5"]),
        (["softest-kernel"], ["1.1", "1.3", "1.5", "1.2"]),
        (["first"], ["1.1", "1.2", "1.3", "1.5"]),
        (["latest"], ["1.5", "1.3", "1.2", "1.1"]),
        (["thinnest", "softest-kernel"], ["1.5", "1.2", "1.1", "1.3"]),
    ],
)
def test_what_is_preferred_comes_first(prefer: list[str], order: list[str]) -> None:
    assert kept(inputs(prefer=prefer)) == [*order, "1.4"]


def test_every_wish_is_known() -> None:
    field = SeriesSelection.model_fields["prefer"].annotation
    for name in get_args(get_args(field)[0]):
        assert kept(inputs(prefer=[name]), (SOFT,)) == ["1.1"]


def test_at_most_and_the_order_of_the_candidates_does_not_matter() -> None:
    wanted = inputs(prefer=["thinnest"], at_most=2)
    first = select(wanted, ALL)
    assert [item.series_instance_uid for item in first.kept] == ["1.2", "1.5"]
    assert [(d.series.series_instance_uid, d.reason, d.seen) for d in first.dropped] == [
        ("1.1", NOT_PREFERRED, "2 shown"),
        ("1.3", NOT_PREFERRED, "2 shown"),
        ("1.4", NOT_PREFERRED, "2 shown"),
    ]
    assert all(select(wanted, order) == first for order in permutations(ALL))


def test_what_is_not_known_comes_last() -> None:
    silent = SeriesFacts("1.0", 100)
    for name in ("thinnest", "thickest", "softest-kernel", "first", "latest"):
        assert kept(inputs(prefer=[name]), (silent, SOFT)) == ["1.1", "1.0"]


def test_twins_are_told_apart_by_their_uid() -> None:
    twin = replace(SOFT, series_instance_uid="1.0")
    wanted = inputs(prefer=["thinnest"], at_most=1)
    assert kept(wanted, (SOFT, twin)) == kept(wanted, (twin, SOFT)) == ["1.0"]


@pytest.mark.parametrize(
    "order",
    [
        ["B20f", "B30f", "B45f", "B70f", "B80s"],
        ["Br36d\\3", "Br59d", "Bl64d"],
        ["SOFT", "STANDARD", "CHST", "LUNG", "BONEPLUS"],
        ["A", "B", "C", "D", "L"],
        ["FC08", "FC18", "FC52", "FC86"],
    ],
)
def test_kernels_of_one_manufacturer_from_smooth_to_sharp(order: list[str]) -> None:
    found = [softness(kernel) for kernel in order]
    values = [value for value in found if value is not None]
    assert found == values == sorted(values)
    assert values[0] != values[-1]


@pytest.mark.parametrize("kernel", [None, "", "SOMETHING", "12", "YA"])
def test_other_kernels_are_not_known(kernel: str | None) -> None:
    assert softness(kernel) is None


def test_reasons_are_codes() -> None:
    known = {item.code for item in codes.NOT_APPLIED_REASON.codes}
    assert {BODY_PART, DESCRIPTION, NOT_PREFERRED} <= known
