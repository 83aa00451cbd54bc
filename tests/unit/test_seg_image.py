"""SEG over single images: each frame belongs to the image that it is derived from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from image_seg_samples import HEART, LUNG, image_seg, image_seg_dataset, read_back
from pydicom import Dataset
from seg_samples import encoded
from synthetic_cr import radiograph
from synthetic_projection import parts

from fhir_ext.dicom.seg import read_segmentation
from fhir_ext.dicom.seg_image import read_image_segmentation
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

SIZE = (40, 50)
IMAGE = radiograph("PA", np.zeros(SIZE, np.uint16))
UID = IMAGE.SOPInstanceUID
ONE, OTHER = np.zeros(SIZE, np.bool_), np.zeros(SIZE, np.bool_)
ONE[5:10, 7:20] = True
OTHER[8:30, 2:45] = True
MASKS = {HEART: ONE, LUNG: OTHER}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segments_are_read_by_image(kind: str) -> None:
    found = image_seg(IMAGE, MASKS, kind=kind)
    assert found.images == (UID, UID)
    assert [item.type and item.type.value for item in found.segments] == ["80891009", "39607008"]
    assert np.array_equal(found.mask(UID, 1, SIZE), ONE)
    assert np.array_equal(found.mask(UID, 2, SIZE), OTHER)


def test_a_label_map() -> None:
    masks = {HEART: ONE, LUNG: OTHER & ~ONE}
    found = image_seg(IMAGE, masks, kind="LABELMAP")
    assert np.array_equal(found.mask(UID, 2, SIZE), OTHER & ~ONE)


def test_it_is_no_segmentation_of_a_volume() -> None:
    with pytest.raises(RefusedInput) as caught:
        read_segmentation(encoded(image_seg_dataset(IMAGE, MASKS)), LimitSettings())
    assert caught.value.code == "seg-frame-of-reference"


@pytest.mark.parametrize(
    ("uid", "size", "code"),
    [("1.2.3", SIZE, "seg-empty"), (UID, (50, 40), "seg-geometry")],
)
def test_other_images_and_sizes_are_refused(uid: str, size: tuple[int, int], code: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        image_seg(IMAGE, MASKS).mask(uid, 1, size)
    assert caught.value.code == code


def _source(made: Dataset, frame: int) -> Dataset:
    group = made.PerFrameFunctionalGroupsSequence[frame]
    return group.DerivationImageSequence[0].SourceImageSequence[0]


def _underived(made: Dataset) -> None:
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def _nothing_named(made: Dataset) -> None:
    _underived(made)
    del made.ReferencedSeriesSequence


def _moved(made: Dataset) -> None:
    _source(made, 1).SpatialLocationsPreserved = "NO"


def _two(made: Dataset) -> None:
    sources = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    second = Dataset()
    second.ReferencedSOPClassUID = IMAGE.SOPClassUID
    second.ReferencedSOPInstanceUID = "1.2.3"
    sources.SourceImageSequence.append(second)


def test_without_a_derivation_the_one_image_counts() -> None:
    made = image_seg_dataset(IMAGE, MASKS)
    _underived(made)
    assert read_back(made).images == (UID, UID)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_nothing_named, "seg-reference"),
        (_two, "seg-reference"),
        (_moved, "seg-geometry"),
    ],
)
def test_frames_of_no_single_image_are_refused(
    change: Callable[[Dataset], None], code: str
) -> None:
    made = image_seg_dataset(IMAGE, MASKS)
    change(made)
    with pytest.raises(RefusedInput) as caught:
        read_back(made)
    assert caught.value.code == code


def test_what_is_no_segmentation_is_refused() -> None:
    with pytest.raises(RefusedInput) as caught:
        read_image_segmentation(parts(IMAGE)[0], LimitSettings())
    assert caught.value.code == "not-a-segmentation"
