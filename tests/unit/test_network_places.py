"""Boxes of patches become places in the patient, each once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import network_samples as samples
import numpy as np
import pytest
import torch
from network_samples import DETECTED, WINDOW, Answer, Peaks

from fhir_ext.dicom.volume import CTVolume, GeometryIssue
from fhir_ext.results import Detection
from models.manifest import ManifestError
from models.network.places import distinct
from models.runtime.base import ModelFailure
from models.runtime.host import Host

#: (x, y, z) in mm and peak in HU, brightest first.
BALLS = (
    ((4.0, -7.0, 3.0), 900),
    ((-15.0, 12.0, -9.0), 700),
    ((21.0, 15.0, 14.0), 600),
    ((-20.0, -18.0, 12.0), 500),
)
SHAPE, SPACING = (30, 64, 66), (2.0, 1.1, 1.0)
PATCHES = {"size": [24, 28, 28], "overlap": 0.4}
ASKED: dict[str, Any] = {
    "window": {**WINDOW, "output": [-1, 1]},
    "orientation": "SPL",
    "spacing_mm": [1.2, 1.2, 1.2],
    "patches": PATCHES,
    "pad_value": -1,
}
LYING: dict[str, tuple[str, tuple[float, float, float]]] = {
    "supine": ("SPL", (0, 0, 0)),
    "feet first, prone": ("IAR", (0, 0, 0)),
    "sagittal": ("LPI", (0, 0, 0)),
    "oblique": ("SPL", (11, -17, 23)),
    "oblique coronal": ("AIL", (-8, 12, 15)),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    found = Host()
    yield found
    found.close()


def balls(axes: str = "SPL", degrees: tuple[float, float, float] = (0, 0, 0)) -> CTVolume:
    def draw(*xyz: Any) -> Any:
        whole = np.full(xyz[0].shape, -1000.0)
        for centre, peak in BALLS:
            apart = sum((a - c) ** 2 for a, c in zip(xyz, centre, strict=True))
            whole = np.maximum(whole, (peak + 1000) * np.exp(-apart / (2 * 4.0**2)) - 1000)
        return whole

    geometry = samples.geometry_of(SHAPE, SPACING, axes, degrees, middle=(1, -2, 3))
    return samples.drawn(draw, geometry, SHAPE)


@pytest.mark.parametrize("name", LYING)
def test_balls_are_found_where_they_are(name: str, host: Host, tmp_path: Path) -> None:
    volume = balls(*LYING[name])
    service = samples.service_of(tmp_path, Peaks(), [DETECTED], host, preprocessing=ASKED)
    said = samples.run(service, volume)
    assert said.searched
    assert len(said.detections) == len(BALLS)
    for found, (centre, _) in zip(said.detections, BALLS, strict=True):
        # A peak of the network is a whole voxel of 1.2 mm.
        assert np.abs(np.array(found.centre_mm) - centre).max() <= 1.2
        assert (found.name, found.category) == ("ball", "ball")
    scores = [found.score for found in said.detections]
    assert scores == sorted(scores, reverse=True)
    assert 0.3 < scores[-1] < scores[0] < 0.9


def test_sizes_are_those_of_the_resampled_voxels(host: Host, tmp_path: Path) -> None:
    asked = {**ASKED, "spacing_mm": [2.0, 1.2, 1.5], "orientation": "LPS"}
    service = samples.service_of(tmp_path, Peaks(), [DETECTED], host, preprocessing=asked)
    for found in samples.run(service, balls()).detections:
        assert found.size_mm == pytest.approx((12.0, 7.2, 9.0), abs=2e-3)


def test_an_oblique_box_fits_into_its_place(host: Host, tmp_path: Path) -> None:
    """45 degrees about z: a square of a is a square of sqrt(2) a along the patient's axes."""
    service = samples.service_of(tmp_path, Peaks(), [DETECTED], host, preprocessing=ASKED)
    for found in samples.run(service, balls("SPL", (0, 0, 44.9))).detections:
        x, y, z = found.size_mm
        assert (x, y) == pytest.approx((7.2 * 2**0.5,) * 2, abs=0.02)
        assert z == pytest.approx(7.2, abs=1e-3)


@pytest.mark.parametrize("most", [1, 3, 32])
def test_the_batch_size_changes_no_place(most: int, host: Host, tmp_path: Path) -> None:
    found = []
    for size in (4, most):
        service = samples.service_of(
            tmp_path,
            Peaks(),
            [DETECTED],
            host,
            preprocessing=ASKED,
            batching={"max_size": size, "max_wait_ms": 0},
        )
        found.append(samples.run(service, balls()).detections)
    assert found[0] == found[1]


def test_classes_and_the_least_score(host: Host, tmp_path: Path) -> None:
    output = {
        **DETECTED,
        "labels": "labels",
        "classes": [{"name": "dim"}, {"name": "bright"}],
        "score": 0.38,
    }
    whole = {name: value for name, value in ASKED.items() if name != "patches"}
    service = samples.service_of(tmp_path, Peaks(), [output], host, preprocessing=whole)
    detections = samples.run(service, balls()).detections
    assert [found.category for found in detections] == ["bright", "dim", "dim"]
    assert all(found.score >= 0.38 for found in detections)


def test_no_more_than_at_most_and_a_reader_is_told(host: Host, tmp_path: Path) -> None:
    output = {**DETECTED, "at_most": 2}
    service = samples.service_of(tmp_path, Peaks(), [output], host, preprocessing=ASKED)
    said = samples.run(service, balls())
    assert len(said.detections) == 2
    note = "There are more places; the 2 with the highest scores are given."
    assert said.notes == (("ball", note),)


def test_nothing_found_is_an_answer(host: Host, tmp_path: Path) -> None:
    service = samples.service_of(tmp_path, Peaks(), [DETECTED], host, preprocessing=ASKED)
    geometry = samples.geometry_of(SHAPE, SPACING)
    said = samples.run(service, samples.volume_of(np.full(SHAPE, -1000), geometry))
    assert (said.detections, said.searched, said.stands) == ((), True, True)
    refused = samples.run(service, samples.volume_of(np.full(SHAPE, 0), geometry, "MR"))
    assert (refused.searched, refused.stands) == (False, False)
    assert [(name, why.rule) for name, why in refused.withheld] == [("ball", "modality")]


#: The same box in every order: voxels 2 and 3, 4 to 7, and 10 to 15 along z, y, x.
ORDERS: dict[str, list[float]] = {
    "ccc-sizes": [2.5, 5.5, 12.5, 2, 4, 6],
    "zyxzyx": [2, 4, 10, 4, 8, 16],
    "xyzxyz": [10, 4, 2, 16, 8, 4],
}


class Fixed(torch.nn.Module):
    """The same boxes and scores for every item."""

    def __init__(self, boxes: Any, scores: Any) -> None:
        super().__init__()
        self.boxes = Answer(torch.tensor(boxes, dtype=torch.float32))
        self.scores = Answer(torch.tensor(scores, dtype=torch.float32))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.boxes(image), self.scores(image)


def fixed(
    folder: Path, host: Host, boxes: Any, scores: Any, order: str = "ccc-sizes", **changes: Any
) -> tuple[Detection, ...]:
    """What is said of 20 x 20 x 20 voxels of 1 mm whose voxel 0 lies at 0, 0, 0."""
    output = {k: v for k, v in DETECTED.items() if k != "count"} | {"box": order}
    width = len(boxes[0])
    tensors = [
        {"name": "boxes", "shape": ["n", "k", width], "finite": False},
        {"name": "scores", "shape": ["n", "k"], "finite": False},
    ]
    service = samples.service_of(
        folder, Fixed(boxes, scores), [output], host, tensors=tensors, **changes
    )
    geometry = samples.geometry_of((20, 20, 20), (1, 1, 1), middle=(9.5, 9.5, 9.5))
    return samples.run(service, samples.volume_of(np.zeros((20, 20, 20)), geometry)).detections


@pytest.mark.parametrize("order", ORDERS)
def test_box_orders(order: str, host: Host, tmp_path: Path) -> None:
    (found,) = fixed(tmp_path, host, [ORDERS[order]], [0.5], order)
    assert found.centre_mm == (12.5, 5.5, 2.5)
    assert found.size_mm == (6.0, 4.0, 2.0)


@pytest.mark.parametrize(
    ("order", "box"), [("xyxy", [10, 4, 16, 8]), ("ccc-sizes", [5.5, 12.5, 4, 6])]
)
def test_boxes_of_planes(order: str, box: list[float], host: Host, tmp_path: Path) -> None:
    """Every slice gives its own; the box is as thick as the slice."""
    planes = [{"name": "image", "shape": ["n", 3, 20, 20]}]
    asked = {"sizes": [[20, 20]]}
    found = fixed(
        tmp_path,
        host,
        [[float(v) for v in box]],
        [0.5],
        order,
        inputs_of_network=planes,
        preprocessing=asked,
    )
    assert [item.centre_mm for item in found] == [(12.5, 5.5, float(z)) for z in range(20)]
    assert {item.size_mm for item in found} == {(6.0, 4.0, 1.0)}


def test_places_in_the_padding_are_no_places(host: Host, tmp_path: Path) -> None:
    boxes = [[1.0, 15, 15, 4, 4, 4], [15.0, 15, 15, 4, 4, 4]]
    (found,) = fixed(tmp_path, host, boxes, [0.9, 0.8], preprocessing={"sizes": [[30, 30, 30]]})
    assert found.score == pytest.approx(0.8)
    assert found.centre_mm == (10.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("box", "score", "reason"),
    [
        ([5.0, 5, 5, 4, -4, 4], 0.5, "ends before it begins"),
        ([5.0, 5, 5, 4, float("nan"), 4], 0.5, "ends before it begins"),
        ([5.0, 5, 5, 4, 4, 4], 3.0, "not between 0 and 1"),
        ([5.0, 5, 5, 4, 4, 4], float("nan"), "not between 0 and 1"),
        ([5.0, 5, 5, 4, 4], 0.5, "boxes, scores and labels differ"),
    ],
)
def test_answers_that_are_no_boxes(
    box: list[float], score: float, reason: str, host: Host, tmp_path: Path
) -> None:
    with pytest.raises(ModelFailure, match=reason) as caught:
        fixed(tmp_path, host, [box], [score])
    assert caught.value.code == "model-output"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": None}, "outputs.0.scores: is needed"),
        ({"classes": [{"name": "a"}, {"name": "b"}]}, "outputs.0.labels: is needed"),
        ({"box": "xyxy"}, "outputs.0.box: must be xyxy for networks of planes"),
    ],
)
def test_detections_that_say_too_little(
    change: dict[str, Any], reason: str, host: Host, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=reason):
        samples.service_of(tmp_path, Peaks(), [{**DETECTED, **change}], host)


def test_a_label_that_is_no_class_parks_the_study(host: Host, tmp_path: Path) -> None:
    output = {**DETECTED, "labels": "labels"}
    whole = {name: value for name, value in ASKED.items() if name != "patches"}
    service = samples.service_of(tmp_path, Peaks(), [output], host, preprocessing=whole)
    with pytest.raises(ModelFailure, match="no class") as caught:
        samples.run(service, balls())
    assert caught.value.code == "model-output"


def test_boxes_without_width_are_dropped(host: Host, tmp_path: Path) -> None:
    """Such as torchvision's, once they are clipped to the image."""
    boxes = [[5.0, 5, 5, 4, 0, 4], [15.0, 15, 15, 4, 4, 4]]
    (found,) = fixed(tmp_path, host, boxes, [0.9, 0.8])
    assert found.centre_mm == (15.0, 15.0, 15.0)


def row(score: float, centre: float, size: float = 4.0, category: float = 0.0) -> list[float]:
    return [score, category, centre, 10, 10, size, size, size]


def test_one_place_has_one_box_whatever_the_order() -> None:
    rows = [
        row(0.9, 10),
        row(0.8, 11),  # overlaps by 3 of 5
        row(0.7, 13),  # overlaps the first by 1 of 7, the second, which is gone, by more
        row(0.6, 10, category=1.0),  # another class
        row(0.5, 10, size=20),  # overlaps little, but each holds the other's centre
        row(0.5, 30),
        row(0.5, 31),  # an equal score
    ]
    wanted = [(0.9, 10, 0), (0.7, 13, 0), (0.6, 10, 1)]
    for order in list(permutations(range(len(rows))))[:: 7 * 11]:
        found = distinct(np.array([rows[i] for i in order]), 0.2, 100)
        assert [(r[0], r[2], r[1]) for r in found[:3]] == wanted
        assert len(found) == 4
        assert tuple(found[3][[0, 2]]) == (0.5, 30)
    assert len(distinct(np.array(rows), 0.2, 2)) == 2
    assert len(distinct(np.empty((0, 8)), 0.2, 2)) == 0


def test_unequal_distances_of_slices_have_no_places(host: Host, tmp_path: Path) -> None:
    """The mean step of a stack with a gap led to places that were nobody's."""
    issue = GeometryIssue("gap", "1 gaps, about 3 slices of 2.000 mm missing")
    uneven = replace(balls(), issues=(issue,))
    service = samples.service_of(tmp_path, Peaks(), [DETECTED], host, preprocessing=ASKED)
    said = samples.run(service, uneven)
    assert said.detections == () and not said.searched
    ((name, refusal),) = said.withheld
    assert (name, refusal.rule, refusal.seen) == ("ball", "gap", issue.detail)
