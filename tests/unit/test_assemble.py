"""Instances to volumes: order, duplicates, enhanced CT; bad input is in test_assemble_bad."""

from __future__ import annotations

import random
from typing import Any

import imagecodecs
import numpy as np
import pytest
from assembling import assemble, expected_voxels, only_volume, rejected
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from synthetic_ct import SERIES, STUDY, ct_slice, encoded, enhanced_ct, texture

from fhir_ext.dicom.assemble import permute
from fhir_ext.dicom.volume import RejectedInstance


@given(
    order=st.permutations(range(9)),
    expected=st.sampled_from([0, 1, 5, 9, 40]),
)
def test_slices_in_any_order_and_any_wrong_count(order: list[int], expected: int) -> None:
    found = assemble([encoded(ct_slice(index)) for index in order], expected=expected)
    volume = only_volume(found)
    assert found.rejected == ()
    assert volume.issues == ()
    assert (volume.voxels == expected_voxels(range(9))).all()
    assert volume.sop_instance_uids == tuple(f"{SERIES}.{index + 1}" for index in range(9))
    assert volume.geometry.origin == (-10.0, -20.0, 0.0)
    assert volume.geometry.spacing_mm == pytest.approx((2.0, 0.8, 0.7))


def test_usual_orders_need_no_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[list[int]] = []
    monkeypatch.setattr(
        "fhir_ext.dicom.assemble.permute", lambda slices, order: moved.append(list(order))
    )
    for order in (range(6), range(5, -1, -1)):
        volume = only_volume(assemble([encoded(ct_slice(index)) for index in order]))
        assert (volume.voxels == expected_voxels(range(6))).all()
    assert moved == [list(range(6))] * 2


@given(st.permutations(range(7)))
def test_permute_in_place(order: list[int]) -> None:
    slices = np.arange(7 * 6, dtype=np.int16).reshape(7, 2, 3)
    wanted = slices[order].copy()
    permute(slices, order)
    assert (slices == wanted).all()


def test_acquisition_and_identity_come_from_the_header() -> None:
    volume = only_volume(assemble([encoded(ct_slice(0)), encoded(ct_slice(1))]))
    seen = volume.acquisition
    assert (seen.modality, seen.manufacturer, seen.convolution_kernel) == ("CT", "ACME", "B30f")
    assert (seen.slice_thickness_mm, seen.kvp) == (2.0, 120.0)
    assert seen.contrast_agent is None
    assert seen.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert seen.patient_age_years == pytest.approx(65, abs=0.01)
    assert (volume.study_instance_uid, volume.series_instance_uid) == (STUDY, SERIES)


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"PatientAge": "034Y"}, "patient_age_years", 34.0),
        ({"PatientAge": "018M"}, "patient_age_years", 1.5),
        ({"PatientAge": "XX"}, "patient_age_years", pytest.approx(65, abs=0.01)),
        ({"PatientBirthDate": ""}, "patient_age_years", None),
        ({"PatientBirthDate": "20990101"}, "patient_age_years", None),
        ({"ContrastBolusAgent": "Iomeprol "}, "contrast_agent", "Iomeprol"),
        ({"ContrastBolusAgent": ""}, "contrast_agent", None),
        ({"ConvolutionKernel": ["I30f", "3"]}, "convolution_kernel", "I30f\\3"),
        ({"ConvolutionKernel": None}, "convolution_kernel", None),
        ({"BodyPartExamined": "CHEST"}, "body_part_examined", "CHEST"),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation", "YES"),
        ({"KVP": ""}, "kvp", None),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:A value of type:UserWarning", "ignore:Invalid value:UserWarning"
)
def test_header_values_for_the_gates(changes: dict[str, Any], attribute: str, value: Any) -> None:
    volume = only_volume(assemble([encoded(ct_slice(0, **changes))]))
    assert getattr(volume.acquisition, attribute) == value


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_evidence_is_a_data_set_without_pixels(syntax: str) -> None:
    volume = only_volume(assemble([encoded(ct_slice(i), syntax) for i in range(3)]))
    first = volume.evidence[0]
    assert len(volume.evidence) == 3
    assert "PixelData" not in first
    assert str(first.PatientName) == "Müller^Ärgön"
    assert first.ImagePositionPatient == [-10, -20, 0]
    assert (first.Rows, first.SeriesNumber, first.StudyInstanceUID) == (6, 1, STUDY)
    assert [item.SOPInstanceUID for item in volume.evidence] == list(volume.sop_instance_uids)


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_uncompressed_syntaxes(syntax: str) -> None:
    volume = only_volume(assemble([encoded(ct_slice(i), syntax) for i in range(4)]))
    assert (volume.voxels == expected_voxels(range(4))).all()


def test_sequences_of_every_encoding_are_stepped_over() -> None:
    inner = Dataset()
    inner.CodeValue = "1"
    inner.Rows = 9999
    inner.is_undefined_length_sequence_item = True
    outer = Dataset()
    outer.ConceptNameCodeSequence = DicomSequence([inner, inner])
    outer["ConceptNameCodeSequence"].is_undefined_length = True
    for undefined in (False, True):
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            instance = ct_slice(0, RequestAttributesSequence=DicomSequence([outer]))
            instance["RequestAttributesSequence"].is_undefined_length = undefined
            volume = only_volume(assemble([encoded(instance, syntax)]))
            assert (volume.voxels == expected_voxels([0])).all()


def test_compressed_frames_are_decoded_while_others_arrive() -> None:
    count = 40
    parts = []
    for index in range(count):
        frame = bytes(imagecodecs.jpegls_encode(texture(index, (20, 24))))
        instance = ct_slice(index, texture(index, (20, 24)))
        parts.append(encoded(instance, JPEGLSLossless, [frame]))
    random.Random(3).shuffle(parts)
    for expected in (count, 3):
        volume = only_volume(assemble(parts, expected=expected))
        wanted = np.stack([texture(i, (20, 24)).astype(int) - 1024 for i in range(count)])
        assert (volume.voxels == wanted).all()


def test_one_undecodable_frame_costs_its_slice_only() -> None:
    parts = []
    for index in range(12):
        frame = bytes(imagecodecs.htj2k_encode(texture(index), reversible=True))
        if index == 5:
            frame = frame[:60] + bytes(len(frame) - 62) + frame[-2:]
        parts.append(encoded(ct_slice(index), HTJ2KLossless, [frame]))
    found = assemble(parts)
    volume = only_volume(found)
    assert found.rejected == (RejectedInstance(f"{SERIES}.6", "corrupt-pixels"),)
    assert [issue.code for issue in volume.issues] == ["gap"]
    left = [index for index in range(12) if index != 5]
    assert (volume.voxels == expected_voxels(left)).all()


def test_rescale_of_each_slice() -> None:
    parts = [
        encoded(ct_slice(i, RescaleSlope=str(1 + i), RescaleIntercept=str(-i))) for i in range(3)
    ]
    volume = only_volume(assemble(parts))
    for index in range(3):
        exact = texture(index).astype(int) * (1 + index) - index
        assert (volume.voxels[index] == exact).all()


def test_identical_duplicates_are_dropped() -> None:
    again = ct_slice(2, SOPInstanceUID=f"{SERIES}.99")
    parts = [*(encoded(ct_slice(index)) for index in range(5)), encoded(again)]
    found = assemble(parts)
    assert only_volume(found).issues == ()
    assert found.rejected == (RejectedInstance(f"{SERIES}.99", "duplicate"),)
    assert (only_volume(found).voxels == expected_voxels(range(5))).all()


def test_differing_duplicates_are_an_issue() -> None:
    other = ct_slice(2, texture(77), SOPInstanceUID=f"{SERIES}.99")
    parts = [encoded(other), *(encoded(ct_slice(index)) for index in range(5))]
    found = assemble(parts)
    volume = only_volume(found)
    assert [issue.code for issue in volume.issues] == ["duplicate-slices"]
    assert found.rejected == (RejectedInstance(f"{SERIES}.99", "duplicate-slices"),)
    assert (volume.voxels == expected_voxels(range(5))).all()


def test_same_instance_twice() -> None:
    part = encoded(ct_slice(0))
    found = assemble([part, part, encoded(ct_slice(1))])
    assert rejected(found) == ["duplicate"]
    assert len(only_volume(found).voxels) == 2


def test_everything_mixed_in_one_series() -> None:
    def instance(number: int, index: int, **changes: Any) -> bytes:
        changed = ct_slice(index, SOPInstanceUID=f"{SERIES}.{number}", **changes)
        return encoded(changed)

    coronal = [1, 0, 0, 0, 0, -1]
    parts = [instance(100 + i, i) for i in range(6)]
    parts += [instance(200 + i, i, AcquisitionNumber=2) for i in range(5)]
    parts += [
        instance(300 + i, 9, ImageOrientationPatient=coronal, ImagePositionPatient=[0, i * 3, 0])
        for i in range(4)
    ]
    parts += [
        encoded(ct_slice(50 + i, texture(i, (10, 12)), SOPInstanceUID=f"{SERIES}.{400 + i}"))
        for i in range(3)
    ]
    parts.append(instance(500, 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    parts.append(b"<html>")
    random.Random(5).shuffle(parts)
    found = assemble(parts)
    assert [len(volume.voxels) for volume in found.volumes] == [3, 6, 5, 4]
    assert [volume.sop_instance_uids[0] for volume in found.volumes] == [
        f"{SERIES}.400",
        f"{SERIES}.100",
        f"{SERIES}.200",
        f"{SERIES}.300",
    ]
    assert all(volume.issues == () for volume in found.volumes)
    assert (found.volumes[1].voxels == expected_voxels(range(6))).all()
    assert (found.volumes[2].voxels == expected_voxels(range(5))).all()
    assert rejected(found) == ["localizer", "not-dicom"]


def test_enhanced_ct() -> None:
    heights = [6.0, 0.0, 3.0, 9.0]
    frames = [texture(index) for index in range(4)]
    volume = only_volume(assemble([encoded(enhanced_ct(frames, heights))]))
    for place, index in enumerate([1, 2, 0, 3]):
        # Each frame has its own intercept.
        assert (volume.voxels[place] == frames[index].astype(int) - 1024 + index).all()
    assert volume.sop_instance_uids == (f"{SERIES}.7000",) * 4
    assert len(volume.evidence) == 1
    assert volume.issues == ()
    assert volume.geometry.spacing_mm == pytest.approx((3.0, 0.8, 0.7))
    seen = volume.acquisition
    assert (seen.convolution_kernel, seen.slice_thickness_mm, seen.kvp) == ("B30f", 2.0, 120.0)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_enhanced_ct_in_other_encodings(syntax: str) -> None:
    frames = [texture(index) for index in range(3)]
    volume = only_volume(assemble([encoded(enhanced_ct(frames, [0, 1, 2]), syntax)]))
    assert (volume.voxels[2] == frames[2].astype(int) - 1022).all()


def test_compressed_enhanced_ct_and_one_bad_frame_of_it() -> None:
    frames = [texture(index) for index in range(3)]
    streams = [bytes(imagecodecs.jpegls_encode(frame)) for frame in frames]
    good = encoded(enhanced_ct(frames, [0, 1, 2]), JPEGLSLossless, streams)
    volume = only_volume(assemble([good]))
    assert (volume.voxels[1] == frames[1].astype(int) - 1023).all()
    streams[1] = streams[1][:40] + streams[1][-2:]
    bad = encoded(enhanced_ct(frames, [0, 1, 2]), JPEGLSLossless, streams)
    found = assemble([bad])
    assert found.volumes == ()
    assert found.rejected == (RejectedInstance(f"{SERIES}.7000", "corrupt-pixels"),)


def test_enhanced_ct_without_places() -> None:
    instance = enhanced_ct([texture(0), texture(1)], [0, 1])
    del instance.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    assert rejected(assemble([encoded(instance)])) == ["missing-geometry"]
    instance = enhanced_ct([texture(0), texture(1)], [0])
    assert rejected(assemble([encoded(instance)])) == ["missing-geometry"]
