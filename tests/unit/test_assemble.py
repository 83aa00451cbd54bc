"""Instances to volumes: order, duplicates, bad input, memory; codecs are in test_decode."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import imagecodecs
import numpy as np
import pytest
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

from fhir_ext.dicom.assemble import VolumeAssembler, permute
from fhir_ext.dicom.volume import REJECTIONS, CTVolume, RejectedInstance, SeriesVolumes
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

LIMITS = LimitSettings()


def assemble(
    parts: Sequence[bytes], *, expected: int | None = None, limits: LimitSettings = LIMITS
) -> SeriesVolumes:
    with VolumeAssembler(
        len(parts) if expected is None else expected,
        limits,
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
    ) as assembler:
        for part in parts:
            buffer = bytearray(part)
            assembler.add(memoryview(buffer))
            # What comes from the wire is overwritten by the next part.
            buffer[:] = b"\xa5" * len(buffer)
        found = assembler.finish()
    assert all(item.code in REJECTIONS for item in found.rejected)
    return found


def only_volume(found: SeriesVolumes) -> CTVolume:
    (volume,) = found.volumes
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.flags.c_contiguous
    assert len(volume.sop_instance_uids) == len(volume.voxels)
    return volume


def rejected(found: SeriesVolumes) -> list[str]:
    return sorted(item.code for item in found.rejected)


def expected_voxels(indices: Iterable[int]) -> np.ndarray[Any, Any]:
    return np.stack([texture(index).astype(int) - 1024 for index in indices])


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


def cut(part: bytes, size: int) -> bytes:
    return part[:-size]


def meta_of(part: bytes) -> bytes:
    """Preamble and file meta information."""
    return part[: 144 + int.from_bytes(part[140:144], "little")]


def patched(part: bytes, tag: tuple[int, int], value: bytes) -> bytes:
    """Overwrite the value of an explicit VR element with a short VR."""
    at = part.index(struct.pack("<HH", *tag))
    length = int.from_bytes(part[at + 6 : at + 8], "little")
    assert length >= len(value)
    return part[: at + 8] + value.ljust(length) + part[at + 8 + length :]


GOOD = ct_slice(0)

BAD_PARTS = {
    "empty": (b"", "not-dicom"),
    "html": (b"<html>" * 100, "not-dicom"),
    "magic only": (bytes(128) + b"DICM", "truncated"),
    "meta only": (encoded(GOOD)[:340], "truncated"),
    "cut in the header": (encoded(GOOD)[:700], "truncated"),
    "cut in the pixels": (cut(encoded(GOOD), 10), "truncated"),
    "no transfer syntax": (
        encoded(GOOD).replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI"),
        "not-dicom",
    ),
    "implicit under an explicit name": (
        encoded(GOOD, ImplicitVRLittleEndian).replace(
            b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1"[:18]
        ),
        "not-dicom",
    ),
    "no pixel data": (encoded(ct_slice(0, PixelData=None)), "not-an-image"),
    "a report": (
        encoded(ct_slice(0, PixelData=None, Rows=None, Columns=None, Modality="SR")),
        "not-an-image",
    ),
    "fewer pixels than rows and columns": (encoded(ct_slice(0, Rows=60)), "corrupt-pixels"),
    "bomb of frames": (encoded(ct_slice(0, NumberOfFrames=999_999)), "too-large"),
    "frames without groups": (encoded(ct_slice(0, NumberOfFrames=2)), "missing-geometry"),
    "negative frames": (encoded(ct_slice(0, NumberOfFrames=-1)), "unsupported-pixels"),
    "absurd size": (encoded(ct_slice(0, Rows=65535, Columns=65535)), "too-large"),
    "no rows": (encoded(ct_slice(0, Rows=0)), "unsupported-pixels"),
    "no position": (encoded(ct_slice(0, ImagePositionPatient=None)), "missing-geometry"),
    "no orientation": (encoded(ct_slice(0, ImageOrientationPatient=None)), "missing-geometry"),
    "no spacing": (encoded(ct_slice(0, PixelSpacing=None)), "missing-geometry"),
    "no extent": (encoded(ct_slice(0, PixelSpacing=[0, 0])), "missing-geometry"),
    "not orthogonal": (
        encoded(ct_slice(0, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
        "missing-geometry",
    ),
    "position that is no number": (
        patched(encoded(GOOD), (0x20, 0x32), b"nan\\nan\\nan"),
        "missing-geometry",
    ),
    "endless position": (patched(encoded(GOOD), (0x20, 0x32), b"inf\\1\\1"), "missing-geometry"),
    "position out of this world": (
        patched(encoded(GOOD), (0x20, 0x32), b"1e99\\1\\1e300"),
        "missing-geometry",
    ),
    "pixels of a mile": (encoded(ct_slice(0, PixelSpacing=["1e200", "1"])), "missing-geometry"),
    "absurd slope": (encoded(ct_slice(0, RescaleSlope="1e300")), "not-hounsfield"),
    "absurd intercept": (encoded(ct_slice(0, RescaleIntercept="-1e300")), "not-hounsfield"),
    "colour": (
        encoded(ct_slice(0, SamplesPerPixel=3, PhotometricInterpretation="RGB")),
        "photometric-interpretation",
    ),
    "palette": (
        encoded(ct_slice(0, PhotometricInterpretation="PALETTE COLOR")),
        "photometric-interpretation",
    ),
    "32 bits": (encoded(ct_slice(0, BitsAllocated=32)), "unsupported-pixels"),
    "1 bit": (encoded(ct_slice(0, BitsAllocated=1, BitsStored=1, HighBit=0)), "unsupported-pixels"),
    "high bit beyond": (encoded(ct_slice(0, HighBit=16)), "unsupported-pixels"),
    "no rescale": (encoded(ct_slice(0, RescaleSlope=None)), "not-hounsfield"),
    "slope of nothing": (encoded(ct_slice(0, RescaleSlope="0")), "not-hounsfield"),
    "effective Z": (encoded(ct_slice(0, RescaleType="Z_EFF")), "not-hounsfield"),
    "localizer": (
        encoded(ct_slice(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        "localizer",
    ),
    "video": (
        encoded(ct_slice(0), "1.2.840.10008.1.2.4.100", [b"mpeg"]),
        "unsupported-transfer-syntax",
    ),
    "another study": (encoded(ct_slice(0, StudyInstanceUID="1.2.3")), "wrong-study"),
    "another series": (encoded(ct_slice(0, SeriesInstanceUID="1.2.3")), "wrong-study"),
    "no identity": (encoded(GOOD).replace(b"\x08\x00\x18\x00", b"\x08\x00\x19\x00"), "not-dicom"),
    "frames that are none": (encoded(GOOD, JPEGLSLossless, [b"abcd" * 9]), "corrupt-pixels"),
    "deflated rubbish": (
        meta_of(encoded(GOOD, DeflatedExplicitVRLittleEndian)) + b"\xff" * 100,
        "not-dicom",
    ),
    "deflated and cut": (cut(encoded(GOOD, DeflatedExplicitVRLittleEndian), 40), "truncated"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_bad_instance_is_rejected_and_spoils_nothing(name: str) -> None:
    part, code = BAD_PARTS[name]
    others = [encoded(ct_slice(index)) for index in range(1, 5)]
    found = assemble([*others[:2], part, *others[2:]])
    volume = only_volume(found)
    assert rejected(found) == [code]
    assert (volume.voxels == expected_voxels(range(1, 5))).all()
    alone = assemble([part])
    assert (alone.volumes, rejected(alone)) == ((), [code])


def test_deflated_bomb_is_not_inflated() -> None:
    bomb = encoded(ct_slice(0, np.zeros((2000, 2000), np.uint16)), DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 100_000
    limits = LimitSettings(instance_bytes=1_000_000)
    tracemalloc.start()
    found = assemble([bomb], limits=limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rejected(found) == ["too-large"]
    assert peak < 4_000_000


def test_header_nested_too_deeply() -> None:
    item = Dataset()
    item.CodeValue = "1"
    for _ in range(40):
        outer = Dataset()
        outer.ConceptNameCodeSequence = DicomSequence([item])
        outer["ConceptNameCodeSequence"].is_undefined_length = True
        item.is_undefined_length_sequence_item = True
        item = outer
    nested = ct_slice(0, RequestAttributesSequence=DicomSequence([item]))
    nested["RequestAttributesSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = True
    assert rejected(assemble([encoded(nested)])) == ["not-dicom"]


@given(data=st.data())
def test_damaged_headers_never_raise(data: st.DataObject) -> None:
    part = bytearray(encoded(ct_slice(0)))
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(128, len(part) - 100))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(0, len(part)))
    for candidate in (bytes(part), bytes(part[:size])):
        found = assemble([candidate, encoded(ct_slice(3))])
        assert len(found.volumes) + len(found.rejected) >= 1


def test_nothing_came() -> None:
    with pytest.raises(RefusedInput) as caught:
        assemble([])
    assert caught.value.code == "no-slices"


@pytest.mark.parametrize(
    "limits",
    [
        LimitSettings(frames=3),
        LimitSettings(volume_bytes=3 * 6 * 8 * 2),
    ],
)
def test_series_over_the_limits_is_refused_as_a_whole(limits: LimitSettings) -> None:
    parts = [encoded(ct_slice(index)) for index in range(4)]
    assert len(only_volume(assemble(parts[:3], limits=limits)).voxels) == 3
    with pytest.raises(RefusedInput) as caught:
        assemble(parts, limits=limits)
    assert caught.value.code == "too-large"


def test_flood_of_rubbish_is_refused() -> None:
    with pytest.raises(RefusedInput) as caught:
        assemble([b"x"] * 11, limits=LimitSettings(frames=10))
    assert caught.value.code == "too-large"


def test_lying_count_takes_no_memory() -> None:
    tracemalloc.start()
    found = assemble(
        [encoded(ct_slice(0))], expected=10**9, limits=LimitSettings(volume_bytes=10**6)
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(only_volume(found).voxels) == 1
    assert peak < 3_000_000


def test_closing_early_leaves_no_threads() -> None:
    frame = bytes(imagecodecs.jpegls_encode(texture(0)))
    with VolumeAssembler(5, LIMITS) as assembler:
        assembler.add(encoded(ct_slice(0), JPEGLSLossless, [frame]))
        assert assembler._executor is not None
    assert assembler._executor is None
