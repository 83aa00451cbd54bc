"""What a network segments comes back on the right voxels, however the volume lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import network_samples as samples
import numpy as np
import pytest
import torch
from network_samples import SEGMENTED, WINDOW, Above, Answer, Label

from fhir_ext.dicom.volume import CTVolume, Geometry
from models.runtime.base import ModelFailure
from models.runtime.host import Host

CENTRE, RADIUS = (4.0, -7.0, 3.0), 13.0
SHAPE = (32, 60, 64)
#: Slices far thicker than pixels.
SPACING = (2.5, 0.9, 0.8)
PATCHES = {"size": [20, 24, 24], "overlap": 0.3, "blend": "gaussian"}
#: Name of a way to lie: (sides of slices, rows, columns; degrees about x, y, z).
LYING: dict[str, tuple[str, tuple[float, float, float]]] = {
    "supine": ("SPL", (0, 0, 0)),
    "feet first": ("IPR", (0, 0, 0)),
    "prone": ("SAR", (0, 0, 0)),
    "sagittal": ("LPI", (0, 0, 0)),
    "coronal": ("AIL", (0, 0, 0)),
    "oblique": ("SPL", (11, -17, 23)),
    "oblique sagittal": ("RAI", (-20, 9, 14)),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    found = Host()
    yield found
    found.close()


def lying(name: str, shape: tuple[int, int, int] = SHAPE) -> tuple[CTVolume, Geometry]:
    axes, degrees = LYING[name]
    geometry = samples.geometry_of(shape, SPACING, axes, degrees, middle=(1, -3, 2))
    return samples.drawn(samples.ball(CENTRE, RADIUS), geometry, shape), geometry


def off_the_surface(mask: Any, geometry: Geometry) -> float:
    """How far (mm) from the ball's surface the farthest voxel lies that is wrong."""
    places = samples.places_of(geometry, mask.shape)
    apart = np.linalg.norm(places - CENTRE, axis=-1) - RADIUS
    wrong = (mask > 0) != (apart < 0)
    return float(np.abs(apart[wrong]).max(initial=0.0))


@pytest.mark.parametrize("name", LYING)
@pytest.mark.parametrize(
    "asked",
    [
        {"window": WINDOW},
        {"window": WINDOW, "orientation": "SPL", "spacing_mm": [1.5, 1.2, 1.1]},
        {"window": WINDOW, "orientation": "RAS", "spacing_mm": [1.3] * 3, "patches": PATCHES},
        {"window": WINDOW, "orientation": "ILA", "sizes": [[32, 48, 48], [96, 96, 96]]},
    ],
    ids=["as it is", "resampled", "patches", "padded"],
)
def test_a_ball_comes_back_where_it_is(
    name: str, asked: dict[str, Any], host: Host, tmp_path: Path
) -> None:
    volume, geometry = lying(name)
    service = samples.service_of(tmp_path, Above(), [SEGMENTED], host, preprocessing=asked)
    (mask,) = samples.run(service, volume).masks
    assert (mask.name, mask.labels.dtype, mask.labels.shape) == ("ball", np.uint8, SHAPE)
    assert mask.labels.flags.c_contiguous
    assert set(np.unique(mask.labels)) == {0, 1}
    # Linear interpolation of a distance is off by its curvature, of half a voxel squared.
    assert off_the_surface(mask.labels, geometry) < (0.01 if len(asked) == 1 else 0.2)


@pytest.mark.parametrize("name", ["supine", "oblique sagittal"])
def test_labels_come_from_the_nearest_voxel(name: str, host: Host, tmp_path: Path) -> None:
    volume, geometry = lying(name)
    output = {**SEGMENTED, "encoding": "labels", "labels": [{"value": 3, "name": "ball"}]}
    asked = {"window": WINDOW, "orientation": "RAS", "spacing_mm": [1.0] * 3, "patches": PATCHES}
    service = samples.service_of(tmp_path, Label(), [output], host, preprocessing=asked)
    (mask,) = samples.run(service, volume).masks
    assert set(np.unique(mask.labels)) == {0, 3}
    # Half the diagonal of a voxel of 1 mm.
    assert off_the_surface(mask.labels, geometry) < 0.87


def test_array_and_geometry_turned_together_change_nothing(host: Host, tmp_path: Path) -> None:
    volume, _ = lying("supine")
    asked = {"window": WINDOW, "orientation": "SPL", "spacing_mm": [1.5] * 3, "patches": PATCHES}
    service = samples.service_of(tmp_path, Above(), [SEGMENTED], host, preprocessing=asked)
    whole = samples.run(service, volume).masks[0].labels
    turned, _ = lying("prone")
    found = samples.run(service, turned).masks[0].labels
    assert np.array_equal(found[:, ::-1, ::-1], whole)
    assert whole.any()


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_patches_give_what_the_whole_gives(blend: str, host: Host, tmp_path: Path) -> None:
    volume, _ = lying("supine")
    masks = []
    for patches in (None, {**PATCHES, "blend": blend}, {**PATCHES, "overlap": 0, "blend": blend}):
        asked = {"window": WINDOW, **({"patches": patches} if patches else {})}
        service = samples.service_of(tmp_path, Above(), [SEGMENTED], host, preprocessing=asked)
        masks.append(samples.run(service, volume).masks[0].labels)
    # A sum of shares is 1 within float32: only what is at the threshold itself may differ.
    for mask in masks[1:]:
        different = mask != masks[0]
        assert np.abs(volume.voxels[different]).max(initial=0) <= 0


@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_batch_size_changes_no_voxel(size: int, host: Host, tmp_path: Path) -> None:
    volume, _ = lying("oblique")
    asked = {"window": WINDOW, "orientation": "SPL", "spacing_mm": [1.5] * 3, "patches": PATCHES}
    masks = []
    for most in (4, size):
        service = samples.service_of(
            tmp_path,
            Above(),
            [SEGMENTED],
            host,
            preprocessing=asked,
            batching={"max_size": most, "max_wait_ms": 0},
        )
        masks.append(samples.run(service, volume).masks[0].labels)
    assert np.array_equal(*masks)


def test_a_network_of_planes_sees_every_slice(host: Host, tmp_path: Path) -> None:
    volume, geometry = lying("supine")
    service = samples.service_of(
        tmp_path,
        Above(),
        [SEGMENTED],
        host,
        inputs_of_network=[{"name": "image", "shape": ["n", 1, "h", "w"]}],
        tensors=[{"name": "mask", "shape": ["n", 2, "h", "w"]}],
        preprocessing={"window": WINDOW, "sizes": [[64, 64]], "spacing_mm": [0.9, 0.9]},
    )
    (mask,) = samples.run(service, volume).masks
    assert off_the_surface(mask.labels, geometry) < 0.1


def test_segments_of_an_implausible_volume_are_withheld(host: Host, tmp_path: Path) -> None:
    volume, _ = lying("supine")
    ml = 4 / 3 * np.pi * RADIUS**3 / 1000
    for low, stands in ((0.9 * ml, True), (1.1 * ml, False)):
        label = {"value": 1, "name": "ball", "valid_ml": [low, 2 * ml]}
        output = {**SEGMENTED, "labels": [label]}
        asked = {"window": WINDOW}
        service = samples.service_of(tmp_path, Above(), [output], host, preprocessing=asked)
        said = samples.run(service, volume)
        assert bool(said.masks) is said.stands is stands
        assert [(name, why.rule) for name, why in said.withheld] == (
            [] if stands else [("ball", "implausible-value")]
        )
        if not stands:
            ((name, text),) = said.notes
            assert name == "ball"
            assert text.startswith("ball is withheld: 9.")


def test_one_implausible_segment_leaves_the_others(host: Host, tmp_path: Path) -> None:
    volume, _ = lying("supine")
    answer = torch.zeros((3, *SHAPE))
    answer[1, :4], answer[2, 4:8] = 1, 0.8
    labels = [{"value": 1, "name": "one", "valid_ml": [500, 900]}, {"value": 2, "name": "two"}]
    service = samples.service_of(
        tmp_path,
        Answer(answer),
        [{**SEGMENTED, "labels": labels}],
        host,
        tensors=[{"name": "mask", "shape": ["n", 3, "d", "h", "w"]}],
    )
    said = samples.run(service, volume)
    mask = said.masks[0].labels
    assert not mask[:4].any() and (mask[4:8] == 2).all() and not mask[8:].any()
    assert [name for name, _ in said.notes] == ["ball"]
    assert said.withheld == ()


@pytest.mark.parametrize(
    ("answer", "shape", "reason"),
    [
        (torch.full((2, *SHAPE), 1.5), [2, "d", "h", "w"], "not between 0 and 1"),
        (torch.zeros((2, 4, 4, 4)), [2, "a", "b", "c"], "has shape"),
        (torch.zeros((0, *SHAPE)), ["c", "d", "h", "w"], "has 0 channels"),
    ],
    ids=["logits", "coarser", "no channel"],
)
def test_answers_that_are_no_segmentation(
    answer: torch.Tensor, shape: list[Any], reason: str, host: Host, tmp_path: Path
) -> None:
    volume, _ = lying("supine")
    tensors = [{"name": "mask", "shape": ["n", *shape]}]
    service = samples.service_of(tmp_path, Answer(answer), [SEGMENTED], host, tensors=tensors)
    with pytest.raises(ModelFailure, match=reason) as caught:
        samples.run(service, volume)
    assert caught.value.code == "model-output"
