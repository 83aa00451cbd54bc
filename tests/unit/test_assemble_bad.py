"""Bad instances: each is rejected with its code, spoils nothing, and takes no memory."""

from __future__ import annotations

import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from assembling import LIMITS, assemble, expected_voxels, only_volume, rejected
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from synthetic_ct import ct_slice, encoded, texture

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings


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
