"""The training of the reference nodule detector: repeatable, and its parts of known truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nodule_samples import background, chest
from torch import nn

from models.nodule_detection.network import PATCH, PEAKS, SPACING_MM, STRIDE, NoduleDetector
from models.nodule_detection.train.backgrounds import Background, halves, read_annotations
from models.nodule_detection.train.export import export
from models.nodule_detection.train.froc import interval, match, sensitivity, threshold
from models.nodule_detection.train.loop import Plan, train
from models.nodule_detection.train.nodules import Nodule, insert, place
from models.nodule_detection.train.scenes import resample, scene, training_batch


@pytest.fixture(scope="module")
def drawn() -> Background:
    return background(chest())


def test_the_same_plan_gives_the_same_file(drawn: Background, tmp_path: Path) -> None:
    part = (slice(40, 75), slice(70, 190), slice(20, 120))
    small = replace(
        drawn,
        hu=np.ascontiguousarray(drawn.hu[part]),
        lungs=np.ascontiguousarray(drawn.lungs[part]),
    )
    plan = Plan(seed=5, steps=2, batch=2, threads=1)
    written = []
    for name in ("first", "second"):
        # The file's own name is in it.
        path = tmp_path / name / "network.pt2"
        path.parent.mkdir()
        network = train([small], plan, lambda text: None)
        export(network, path)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    # Nothing of the machine that made it is in it.
    assert str(Path(__file__).parents[2]).encode() not in written[0]
    other = train([small], replace(plan, seed=6), lambda text: None)
    assert not torch.equal(other.head.weight, network.head.weight)
    assert not torch.are_deterministic_algorithms_enabled()


def test_targets_are_where_the_nodules_are(drawn: Background) -> None:
    made = training_batch(drawn, (1, 2, 3))
    centres = (made.heat >= 0.999).nonzero()
    assert len(centres) > 10
    for item, _, z, y, x in centres.tolist():
        # A nodule is brighter than lung, whichever way the patch was flipped.
        patch = made.image[item, 0]
        assert patch[z, y * STRIDE[1], x * STRIDE[2]] > 0.25
        assert 3.0 < float(made.rest[item, 3, z, y, x].exp()) < 24.0
        assert made.rest[item, :3, z, y, x].abs().max() <= 0.5 + 1e-4


def test_inserted_mass_is_that_of_a_ball(drawn: Background) -> None:
    """Partial volume, slice thickness and shape keep the volume to some percent."""
    flat = replace(drawn, hu=np.full((40, 60, 60), -850, np.int16), thickness_mm=2.5)
    masses = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = insert(flat, [Nodule((20.3, 30.1, 29.7), 14.0, "solid")], 0, rng)
        share = (found.astype(float) + 850) / (found.max() + 850)
        masses.append(share.sum() * np.prod(flat.spacing_mm))
    assert np.mean(masses) == pytest.approx(np.pi * 14**3 / 6, rel=0.1)


def test_nodules_lie_in_the_lungs_and_apart(drawn: Background) -> None:
    placed = place(drawn, 12, np.random.default_rng(4))
    assert len(placed) == 12
    spacing = np.array(drawn.spacing_mm)
    for index, item in enumerate(placed):
        assert drawn.lungs[tuple(np.rint(item.centre).astype(int))]
        for other in placed[:index]:
            gap = np.linalg.norm((np.array(item.centre) - other.centre) * spacing)
            assert gap > (item.diameter_mm + other.diameter_mm) / 2


def test_one_side_is_learnt_from_and_the_other_is_tested(drawn: Background) -> None:
    tumour = ((10.0, 14.0), (100.0, 120.0), (200.0, 215.0))
    seen, tested = halves(replace(drawn, ignored=(tumour,), tumours=(tumour,)), "left")
    width = seen.hu.shape[2] // 2
    assert (seen.hu[:, :, :width] == seen.hu[:, :, width:][:, :, ::-1]).all()
    own = drawn.hu.shape[2] - width
    assert (seen.hu[:, :, width:] == drawn.hu[:, :, own:]).all()
    for box in seen.ignored:
        low, high = (int(value) for value in box[2])
        original = drawn.hu[10:15, 100:121, 200:216]
        part = seen.hu[10:15, 100:121, low : high + 1]
        assert (part == original).all() or (part[:, :, ::-1] == original).all()
    assert len(seen.ignored) == 2
    assert not tested.lungs[:, :, own:].any()
    assert tested.lungs[:, :, :own].any()
    assert tested.scans == 0.5


def test_resampling_keeps_places(drawn: Background) -> None:
    ramp = np.arange(30, dtype=np.int16)[:, None, None] + np.zeros((30, 8, 9), np.int16)
    found = resample(ramp, (2.5, 1.0, 1.0), (2.0, 1.0, 1.0))
    assert found[:, 3, 3].tolist() == pytest.approx([0.8 * i for i in range(len(found))], abs=1e-4)
    made = scene(drawn, [Nodule((60.0, 128.0, 60.0), 15.0, "solid")], np.random.default_rng(1))
    (target,) = made.targets
    assert target.centre * SPACING_MM == pytest.approx(
        np.array([60.0, 128.0, 60.0]) * drawn.spacing_mm
    )


class _Given(nn.Module):
    """Maps that are what the test says."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.maps


def test_peaks_become_boxes() -> None:
    cells = [n // s for n, s in zip(PATCH, STRIDE, strict=True)]
    maps = torch.full((1, 5, *cells), -9.0)
    maps[:, 1:] = 0
    for place_, logit, offset, diameter in (
        ((30, 12, 40), 2.0, (0.25, -0.5, 0.5), 12.0),
        ((30, 12, 41), 1.0, (0.0, 0.0, 0.0), 12.0),  # beside the first: no peak
        ((5, 47, 0), 3.0, (0.0, 0.0, 0.0), 90.0),  # too wide: cut
        ((20, 20, 20), -4.0, (0.0, 0.0, 0.0), 8.0),  # below the floor
    ):
        z, y, x = place_
        maps[0, 0, z, y, x] = logit
        maps[0, 1:4, z, y, x] = torch.tensor(offset)
        maps[0, 4, z, y, x] = float(np.log(diameter))
    detector = NoduleDetector(_Given(maps))  # type: ignore[arg-type]
    boxes, scores, labels = detector(torch.zeros(1, 1, *PATCH))
    assert boxes.shape == (1, PEAKS, 6)
    assert scores[0, :3].tolist() == pytest.approx([0.9526, 0.8808, 0.0], abs=1e-4)
    assert boxes[0, 0].tolist() == pytest.approx([5, 94, 0, 20, 40 / 1.5, 40 / 1.5])
    assert boxes[0, 1].tolist() == pytest.approx([30.25, 23, 81, 6, 8, 8])
    assert not boxes[0, 2:].any()
    assert (labels == 1).all()


def test_froc_of_counted_marks() -> None:
    centres = np.array([[0.0, 0, 0], [50.0, 0, 0], [0.0, 90, 0]])
    marks = np.array([[0.0, 0, 3], [2.0, 0, 0], [50.0, 7, 0], [0.0, 98, 0], [10.0, 10, 10]])
    scores = np.array([0.6, 0.9, 0.8, 0.7, 0.5])
    # The 4 mm nodule is hit within 4 mm, the 20 mm one within 10 mm, the 8 mm one not at 8 mm.
    found = match(marks, scores, centres, (4.0, 20.0, 8.0), 1.0)
    assert found.scores == (0.9, 0.8, 0.0)
    assert sorted(found.false) == [0.5, 0.7]
    empty = match(np.empty((0, 3)), np.empty(0), np.empty((0, 3)), (), 1.0)
    both = [found, empty]
    assert threshold(both, 0.5) == 0.5
    assert threshold(both, 0.25) == 0.7
    assert threshold(both, 8.0) == 0.0
    assert sensitivity(both, 0.85) == (pytest.approx(1 / 3), 3)
    assert sensitivity(both, 0.0, 3.0, 10.0) == (0.5, 2)
    low, high = interval(8 / 10, 10)
    # Wilson's interval for 8 of 10, as in Agresti and Coull 1998.
    assert (low, high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))


def test_annotations_in_voc(tmp_path: Path) -> None:
    text = """<annotation><object><bndbox>
      <xmin>286</xmin> <ymin>310</ymin> <xmax>355.5</xmax> <ymax>402</ymax>
    </bndbox></object><object><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>
    <ymax>4</ymax></bndbox></object></annotation>"""
    (tmp_path / "1.2.3.xml").write_text(text)
    (tmp_path / "other.xml").write_text(text)
    assert read_annotations(tmp_path) == {"1.2.3": [(286, 310, 355, 402), (1, 2, 3, 4)]}
