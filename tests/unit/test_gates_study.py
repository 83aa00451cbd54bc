"""Which images of a study a model looks at, and what is set aside."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter
from synthetic_cr import computed, radiograph
from synthetic_cr import read as read_radiographs
from synthetic_mg import mammogram, study, view_code
from synthetic_mg import read as read_mammograms

from fhir_ext.results import Refusal
from models.gates import Chosen, Gate, choose

GATE: TypeAdapter[Any] = TypeAdapter(Gate)
FRONTAL = {"rule": "view-position", "allow": ["PA"], "set_aside": True}
SIDES = {"rule": "laterality", "allow": ["L", "R"]}
VIEW = {"rule": "mammography-view"}
SPECIAL = {"rule": "special-view", "set_aside": True}
BOTH_CC = {"rule": "required-views", "views": ["R-CC", "L-CC"]}


def gates(*rules: dict[str, Any]) -> list[Any]:
    return [GATE.validate_python(rule) for rule in rules]


def test_what_is_set_aside_leaves_the_others() -> None:
    films = read_radiographs(radiograph("PA"), radiograph("LL", number=2), computed("AP", number=3))
    chosen = choose(gates(FRONTAL), films)
    assert isinstance(chosen, Chosen)
    assert chosen.images == (films[0],)
    assert chosen.set_aside == {"view-position": 2}


def test_without_set_aside_one_image_refuses_the_study() -> None:
    films = read_radiographs(radiograph("PA"), radiograph("LL", number=2))
    refused = choose(gates({"rule": "view-position", "allow": ["PA"]}), films)
    assert refused == Refusal("view-position", "LL", "PA")


def test_when_nothing_is_left_the_reason_is_what_took_the_last() -> None:
    films = read_radiographs(radiograph("LL"), radiograph("AP", number=2))
    assert choose(gates(FRONTAL), films) == Refusal("view-position", "AP", "PA")


def test_later_gates_see_only_what_is_left() -> None:
    films = read_radiographs(radiograph("PA"), radiograph("LL", number=2, BurnedInAnnotation="YES"))
    rules = gates(FRONTAL, {"rule": "burned-in-annotation"})
    assert isinstance(choose(rules, films), Chosen)
    assert choose(rules[::-1], films) == Refusal("burned-in-annotation", "YES", "NO")


def test_images_of_two_studies_are_refused() -> None:
    films = read_radiographs(radiograph("PA"), radiograph("PA", StudyInstanceUID="1.2.3"))
    refused = choose(gates(FRONTAL), films)
    assert isinstance(refused, Refusal)
    assert refused.rule == "wrong-study"


def test_required_views_in_their_order_and_others_aside() -> None:
    images = read_mammograms(*study().values())
    chosen = choose(gates(SIDES, VIEW, SPECIAL, BOTH_CC), images)
    assert isinstance(chosen, Chosen)
    assert [image.lateralities for image in chosen.images] == [("R",), ("L",)]
    assert chosen.set_aside == {"mammography-view": 2}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], ("missing-view", "no L-CC")),
        (
            [mammogram("L-CC", ViewCodeSequence=view_code("CC", "tangential"))],
            ("special-view", "L-CC: tangential"),
        ),
        (
            [mammogram("L-CC"), mammogram("L-CC", SOPInstanceUID="1.2.9")],
            ("duplicate-view", "several of L-CC"),
        ),
    ],
)
def test_required_views_that_are_not_there(others: list[Any], expected: object) -> None:
    images = read_mammograms(mammogram("R-CC"), *others)
    refused = choose(gates(SIDES, VIEW, SPECIAL, BOTH_CC), images)
    assert isinstance(refused, Refusal)
    assert (refused.rule, refused.seen) == expected
    assert refused.needed == "one each of R-CC, L-CC"
