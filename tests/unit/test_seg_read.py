"""Segmentations are read as they were written, and refused with a code where they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from analytic import geometry_of
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from seg_samples import (
    LIVER,
    ORGAN,
    SPLEEN,
    compress,
    ct_header,
    encoded,
    read,
    seg,
    seg_dataset,
    segment,
)

from fhir_ext.dicom.seg import CodedEntry, Segmentation, read_segmentation
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

SHAPE = (5, 7, 9)
GRID = geometry_of(SHAPE, (2.0, 0.7, 0.7))


def labels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Segments 1 and 2 in the three inner slices; odd sizes, so that bits cross bytes."""
    found = np.zeros(SHAPE, dtype=np.uint8)
    found[1:4, 1:4, 2:7] = 1
    found[2, 5, 0:8] = 2
    return found


def masks(found: Segmentation) -> dict[int, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Segment number to its pixels, stacked over its frames in order of height."""
    result = {}
    for identity in found.segments:
        frames = sorted(
            found.frames_of(identity.number).tolist(), key=lambda i: found.grid.origins[i, 2]
        )
        result[identity.number] = np.stack([found.mask(i, identity.number) for i in frames])
    return result


@pytest.mark.parametrize("keep_empty", [False, True])
def test_binary(keep_empty: bool) -> None:
    written = labels()
    two = [segment(1), segment(2, SPLEEN, label="second")]
    found = seg(GRID, written, *two, keep_empty=keep_empty)
    assert found.kind == "BINARY"
    assert found.frame_of_reference_uid == GRID.frame_of_reference_uid
    assert len(found.frames) == (10 if keep_empty else 4)
    read_back = masks(found)
    kept = slice(None) if keep_empty else slice(1, 4)
    np.testing.assert_array_equal(read_back[1], (written == 1)[kept])
    assert read_back[2].sum() == (written == 2).sum()
    assert found.grid.plane_step == pytest.approx(2.0)
    assert found.grid.spacing == (0.7, 0.7)


def test_segments_may_overlap() -> None:
    written = np.zeros((*SHAPE, 2), dtype=np.uint8)
    written[1:4, 1:5, 1:5, 0] = 1
    written[1:4, 3:6, 3:6, 1] = 1
    read_back = masks(seg(GRID, written, segment(1), segment(2, SPLEEN, label="second")))
    for number in (1, 2):
        np.testing.assert_array_equal(read_back[number], written[1:4, ..., number - 1] > 0)
    assert (read_back[1] & read_back[2]).sum() == 3 * 4


def test_fractional_counts_from_one_half() -> None:
    written = np.zeros(SHAPE, dtype=np.float32)
    written[2, 1:3] = 0.49
    written[2, 3:5] = 0.51
    found = seg(GRID, written, kind="FRACTIONAL")
    assert found.kind == "FRACTIONAL"
    np.testing.assert_array_equal(masks(found)[1], written[2:3] > 0.5)


def test_positions_that_differ_in_the_last_digits_are_one_plane() -> None:
    """Two segments of one plane, a tenth of a micrometre apart, made planes 0.01 mm thick."""
    two = [segment(1), segment(2, SPLEEN, label="second")]
    written = seg_dataset(GRID, labels(), two)
    for group in written.PerFrameFunctionalGroupsSequence:
        (identity,) = group.SegmentIdentificationSequence
        x, y, z = (float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient)
        own = Dataset()
        own.ImagePositionPatient = [x, y, z + 0.00485 + 0.0001 * identity.ReferencedSegmentNumber]
        group.PlanePositionSequence = [own]
    del written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    assert read(written).grid.plane_step == pytest.approx(2.0, abs=0.001)


def label_map() -> Dataset:
    two = [segment(1), segment(2, SPLEEN, label="second")]
    return seg_dataset(GRID, labels(), two, kind="LABELMAP")


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_label_map(syntax: str | None) -> None:
    written = label_map() if syntax is None else compress(label_map(), syntax)
    found = read(written)
    assert found.kind == "LABELMAP"
    total = {number: mask.sum() for number, mask in masks(found).items()}
    assert total == {number: (labels() == number).sum() for number in (1, 2)}


def test_identity_of_a_segment() -> None:
    left = ("SCT", "7771000", "Left")
    one = segment(1, label=" Liver ", region=LIVER, side=left, drawn="MANUAL")
    (found,) = seg(GRID, labels() == 1, one).segments
    assert found.label == "Liver"
    assert found.type == found.region == CodedEntry("SCT", "10200004", "Liver")
    assert found.category == CodedEntry(*ORGAN)
    assert [entry.value for entry in found.type_modifiers] == ["7771000"]
    assert found.algorithm_type == "MANUAL"


def refused(dataset: Dataset, limits: LimitSettings | None = None) -> str:
    with pytest.raises(RefusedInput) as caught:
        read(dataset, limits or LimitSettings())
    return caught.value.code


def _without(keyword: str) -> Dataset:
    written = seg_dataset(GRID, labels() == 1, [segment(1)])
    delattr(written, keyword)
    return written


def _changed(keyword: str, value: Any) -> Dataset:
    written = seg_dataset(GRID, labels() == 1, [segment(1)])
    setattr(written, keyword, value)
    return written


def _turned() -> Dataset:
    """One frame's plane of its own, other than that of the rest."""
    written = seg_dataset(GRID, labels() == 1, [segment(1)])
    shared = written.SharedFunctionalGroupsSequence[0]
    plane = shared.PlaneOrientationSequence
    del shared.PlaneOrientationSequence
    for index, group in enumerate(written.PerFrameFunctionalGroupsSequence):
        own = Dataset()
        own.ImageOrientationPatient = (
            plane[0].ImageOrientationPatient if index else [1, 0, 0, 0, 0, 1]
        )
        group.PlaneOrientationSequence = [own]
    return written


def _fractions_of_nothing() -> Dataset:
    """Without Maximum Fractional Value a pixel of 1 in 255 was taken for all of the segment."""
    written = seg_dataset(GRID, (labels() == 1) * 0.2, [segment(1)], kind="FRACTIONAL")
    del written.MaximumFractionalValue
    return written


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: ct_header(GRID, SHAPE, 0), "not-a-segmentation"),
        (lambda: _without("SegmentationType"), "not-a-segmentation"),
        (lambda: _without("SegmentSequence"), "not-a-segmentation"),
        (lambda: _without("FrameOfReferenceUID"), "seg-frame-of-reference"),
        (lambda: _without("PerFrameFunctionalGroupsSequence"), "missing-geometry"),
        (lambda: _without("PixelData"), "not-an-image"),
        (lambda: _changed("PixelData", b"\0\0"), "corrupt-pixels"),
        (lambda: _changed("Rows", 9000), "too-large"),
        (lambda: _changed("BitsAllocated", 16), "unsupported-pixels"),
        (lambda: _changed("NumberOfFrames", 2), "missing-geometry"),
        (_turned, "seg-geometry"),
        (_fractions_of_nothing, "unsupported-pixels"),
    ],
)  # fmt: skip
def test_refusals(make: Any, code: str) -> None:
    written = make()
    if not hasattr(written, "file_meta"):
        from pydicom.dataset import FileMetaDataset

        written.file_meta = FileMetaDataset()
        written.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    assert refused(written) == code


def test_limits() -> None:
    written = seg_dataset(GRID, labels() == 1, [segment(1)])
    assert refused(written, LimitSettings(frames=2)) == "too-large"
    assert refused(written, LimitSettings(volume_bytes=8)) == "too-large"
    assert refused(written, LimitSettings(instance_bytes=100)) == "too-large"


def test_half_of_an_object() -> None:
    part = encoded(seg_dataset(GRID, labels() == 1, [segment(1)]))
    for cut in (50, 200, len(part) // 2, len(part) - 4):
        with pytest.raises(RefusedInput) as caught:
            read_segmentation(part[:cut], LimitSettings())
        assert caught.value.code in ("truncated", "not-dicom")


def test_corrupt_compressed_frame() -> None:
    written = compress(label_map(), JPEGLSLossless)
    pixels = bytearray(written.PixelData)
    start = pixels.index(b"\xff\xd8")
    pixels[start + 2 : start + 20] = bytes(18)
    written.PixelData = bytes(pixels)
    with pytest.raises(RefusedInput) as caught:
        found = read(written)
        [found.mask(index, 1) for index in range(len(found.frames))]
    assert caught.value.code == "corrupt-pixels"
