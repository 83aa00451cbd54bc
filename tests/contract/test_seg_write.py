"""SEG of a model: read back by ourselves, pydicom and highdicom, and by dciodvfy."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from analytic import geometry_of, volume_of
from pydicom import Dataset
from result_samples import MODEL
from seg_samples import LIMITS, ct_header

from fhir_ext.dicom.seg import read_segmentation
from fhir_ext.dicom.seg_place import place
from fhir_ext.dicom.volume import CTVolume, Geometry
from fhir_ext.resources.codes import REGION_SITE
from fhir_ext.resources.codes.naming import site_coding
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import Region

Mask = npt.NDArray[np.uint8]

KEY = "ab" * 32
SHAPE = (12, 30, 40)
GRID = geometry_of(SHAPE, (3.0, 1.0, 1.5))
#: Tilted about two axes: rows, columns and slices still make right angles.
TILTED = replace(
    GRID,
    origin=(-20.0, 15.0, 7.0),
    column_step=(1.2, 0.9, 0.0),
    row_step=(-0.48, 0.64, 0.6),
    slice_step=(1.08, -1.44, 2.4),
)


@pytest.fixture(autouse=True)
def strict_pydicom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A misspelt keyword or an invalid value is an error."""
    monkeypatch.setattr(pydicom.config, "INVALID_KEYWORD_BEHAVIOR", "RAISE")
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    yield


def volume(grid: Geometry = GRID, **changes: Any) -> CTVolume:
    """A stack with the headers of its slices."""
    made = volume_of(np.zeros(SHAPE, np.int16), grid)
    headers = tuple(ct_header(grid, SHAPE, index) for index in range(SHAPE[0]))
    for header in headers:
        for keyword, value in changes.items():
            setattr(header, keyword, value)
    uids = tuple(str(header.SOPInstanceUID) for header in headers)
    return replace(made, evidence=headers, sop_instance_uids=uids)


def label_map() -> Mask:
    """1 is a box, 2 is nowhere, 3 is another box."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 4:20, 5:30] = 1
    labels[7:9, 4:20, 5:31] = 3
    return labels


def other() -> Mask:
    """A box that overlaps both."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 10:14, 8:25] = 1
    return labels


def segments(*, overlapping: bool = False) -> list[Any]:
    from fhir_ext.dicom.seg_write import Segment

    labels = label_map()
    found = [
        Segment("liver", (REGION_SITE[Region.LIVER],), Region.LIVER, labels, 1),
        Segment("void", (REGION_SITE[Region.PANCREAS],), Region.PANCREAS, labels, 2),
        Segment(
            "cortex",
            (site_coding("segment", "acme.kidney", "cortex"),),
            Region.LEFT_KIDNEY,
            labels,
            3,
        ),
    ]
    if overlapping:
        found.append(Segment("spleen", (REGION_SITE[Region.SPLEEN],), Region.SPLEEN, other(), 1))
    return found


def build(of: CTVolume, what: Sequence[Any]) -> bytes:
    from fhir_ext.dicom.seg_write import build_segmentation

    made = build_segmentation(MODEL, KEY, of, what)
    assert made is not None
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dataset(of: CTVolume | None = None, what: Sequence[Any] | None = None) -> Dataset:
    return pydicom.dcmread(io.BytesIO(build(of or volume(), what or segments())))


@pytest.mark.parametrize("grid", [GRID, TILTED], ids=["axial", "tilted"])
@pytest.mark.parametrize("overlapping", [False, True])
def test_our_own_reader_puts_every_voxel_where_it_was(grid: Geometry, overlapping: bool) -> None:
    of = volume(grid)
    part = build(of, segments(overlapping=overlapping))
    found = read_segmentation(memoryview(part), LIMITS)
    expected = [label_map() == 1, label_map() == 3, *([other() == 1] if overlapping else [])]
    assert len(found.segments) == len(expected)
    for segment, mask in zip(found.segments, expected, strict=True):
        placed = place(found, segment, of.geometry, SHAPE)
        assert np.array_equal(placed.full(SHAPE), mask), segment.label


def test_names_codes_sides_and_algorithm() -> None:
    part = build(volume(), segments())
    found = read_segmentation(memoryview(part), LIMITS)
    liver, cortex = found.segments
    assert (liver.label, liver.type.value, liver.type.scheme) == ("liver", "10200004", "SCT")
    assert (cortex.type.scheme, cortex.type.value) == ("99FHIREXT", "acme.kidney.cortex")
    assert (cortex.region.value, cortex.region_modifiers[0].value) == ("64033007", "7771000")
    assert {item.algorithm_type for item in found.segments} == {"AUTOMATIC"}
    written = dataset()
    algorithm = written.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MODEL.id, MODEL.version)
    assert MODEL.settings_hash in algorithm.AlgorithmParameters
    schemes = [s.CodingSchemeDesignator for s in written.CodingSchemeIdentificationSequence]
    assert schemes == ["99FHIREXT"]


def test_uids_frame_of_reference_and_sources() -> None:
    of = volume()
    found = dataset(of)
    assert found.SOPInstanceUID == dicom_uid(KEY, "seg")
    assert found.SeriesInstanceUID == dicom_uid(KEY, "seg-series")
    assert found.FrameOfReferenceUID == GRID.frame_of_reference_uid
    assert (found.StudyInstanceUID, found.PatientID) == ("1.2.826.3", "P1")
    (series,) = found.ReferencedSeriesSequence
    named = {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence}
    assert named == set(of.sop_instance_uids)
    for frame in found.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        at = of.sop_instance_uids.index(str(source.ReferencedSOPInstanceUID))
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert position == of.evidence[at].ImagePositionPatient


def test_highdicom_reads_it() -> None:
    from highdicom.seg import Segmentation

    found = Segmentation.from_dataset(dataset(what=segments(overlapping=True)))
    assert found.number_of_segments == 3
    assert [found.get_segment_description(n).segment_label for n in (1, 2, 3)] == [
        "liver",
        "cortex",
        "spleen",
    ]


def test_times_are_those_of_the_images_so_that_a_repeat_is_the_same() -> None:
    assert build(volume(), segments()) == build(volume(), segments())
    found = dataset(volume(SeriesDate="20260102", SeriesTime="131415"))
    assert (found.ContentDate, found.ContentTime) == ("20260102", "131415")
    assert (found.InstanceCreationDate, found.InstanceCreationTime) == ("20260102", "131415")
    undated = dataset(volume(StudyDate="", StudyTime=""))
    assert undated.ContentDate == "19700101"
    zone = dataset(volume(TimezoneOffsetFromUTC="+0200"))
    assert (zone.ContentDate, zone.ContentTime) == ("20260101", "120000")


def test_an_enhanced_object_is_referred_to_as_a_whole() -> None:
    from pydicom.uid import EnhancedCTImageStorage

    of = volume()
    whole = of.evidence[0]
    whole.SOPClassUID, whole.NumberOfFrames = EnhancedCTImageStorage, SHAPE[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, keyword)
    of = replace(of, evidence=(whole,), sop_instance_uids=(str(whole.SOPInstanceUID),) * SHAPE[0])
    part = build(of, segments())
    found = read_segmentation(memoryview(part), LIMITS)
    placed = place(found, found.segments[0], of.geometry, SHAPE)
    assert np.array_equal(placed.full(SHAPE), label_map() == 1)
    (series,) = pydicom.dcmread(io.BytesIO(part)).ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == whole.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == EnhancedCTImageStorage


def test_what_cannot_be_a_segmentation() -> None:
    from fhir_ext.dicom.seg_write import build_segmentation

    empty = [replace(item, value=9) for item in segments()]
    assert build_segmentation(MODEL, KEY, volume(), empty) is None
    assert build_segmentation(MODEL, KEY, volume(), []) is None
    small = [replace(segments()[0], labels=np.ones((2, 3, 4), np.uint8))]
    with pytest.raises(ValueError, match="grid"):
        build_segmentation(MODEL, KEY, volume(), small)
    nowhere = volume(replace(GRID, frame_of_reference_uid=""))
    with pytest.raises(ValueError, match="frame of reference"):
        build_segmentation(MODEL, KEY, nowhere, segments())


@pytest.mark.parametrize("overlapping", [False, True])
def test_dciodvfy_finds_no_error(tmp_path: Path, dciodvfy: Path, overlapping: bool) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(build(volume(), segments(overlapping=overlapping)))
    answer = subprocess.run(
        [str(dciodvfy), str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    assert "Segmentation" in lines
    assert [line for line in lines if line.startswith("Error")] == []
