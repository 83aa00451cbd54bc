"""Samples to Hounsfield units against plain arithmetic; codecs against what was encoded."""

from __future__ import annotations

import sys
import time
import warnings

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from fhir_ext.dicom.decode import (
    codestream_shape,
    decode_frame,
    encapsulated_frames,
    native_frame,
    to_hounsfield,
)
from fhir_ext.dicom.instances import PixelFormat, Rescale
from fhir_ext.errors import RefusedInput

SHAPE = (40, 56)


def pixel_format(syntax: str = "1.2.840.10008.1.2.1", **changes: object) -> PixelFormat:
    values: dict[str, object] = {
        "transfer_syntax_uid": str(syntax),
        "rows": SHAPE[0],
        "columns": SHAPE[1],
        "frames": 1,
        "bits_allocated": 16,
        "bits_stored": 12,
        "high_bit": 11,
        "signed": False,
    }
    return PixelFormat(**(values | changes))  # type: ignore[arg-type]


def plain(
    cells: npt.NDArray[np.uint16], stored: PixelFormat, rescale: Rescale
) -> npt.NDArray[np.float64]:
    """The standard's arithmetic, one sample at a time and without tricks."""
    values = []
    for cell in cells.ravel().tolist():
        value = (cell >> (stored.high_bit + 1 - stored.bits_stored)) % 2**stored.bits_stored
        if stored.signed and value >= 2 ** (stored.bits_stored - 1):
            value -= 2**stored.bits_stored
        values.append(value * rescale.slope + rescale.intercept)
    exact = np.array(values).reshape(cells.shape)
    return np.rint(exact).clip(-32768, 32767)


@given(
    cells=st.lists(st.integers(0, 65535), min_size=6, max_size=6),
    bits=st.integers(2, 16),
    room=st.integers(0, 4),
    signed=st.booleans(),
    slope=st.sampled_from([1.0, 2.0, 0.5, 0.1, 1.0000001]),
    intercept=st.sampled_from([0.0, -1024.0, -1023.5, 1024.0, -40000.0, 70000.0, 31000.0]),
)
def test_hounsfield_is_the_standards_arithmetic(
    cells: list[int], bits: int, room: int, signed: bool, slope: float, intercept: float
) -> None:
    high = min(15, bits - 1 + room)
    stored = pixel_format(rows=2, columns=3, bits_stored=bits, high_bit=high, signed=signed)
    array = np.array(cells, np.uint16).reshape(2, 3)
    out = np.empty((2, 3), np.int16)
    before = array.copy()
    to_hounsfield(array, stored, Rescale(slope, intercept), out)
    assert (out == plain(array, stored, Rescale(slope, intercept))).all()
    assert (array == before).all(), "the source may be someone else's buffer"


@given(samples=st.lists(st.integers(0, 255), min_size=6, max_size=6), signed=st.booleans())
def test_eight_bit_samples(samples: list[int], signed: bool) -> None:
    stored = pixel_format(
        rows=2, columns=3, bits_allocated=8, bits_stored=8, high_bit=7, signed=signed
    )
    array = native_frame(memoryview(bytes(samples)), stored, 0)
    out = np.empty((2, 3), np.int16)
    to_hounsfield(array, stored, Rescale(1, -100), out)
    expected = np.array(samples, np.uint8).view(np.int8 if signed else np.uint8)
    assert (out == expected.reshape(2, 3).astype(int) - 100).all()


@pytest.mark.parametrize(
    ("padding", "samples", "expected"),
    [
        # GE: -2000 outside of the reconstructed circle.
        ((-2000, -2000), [-2000, -1999, 0, 500], [-1024, -3023, -1024, -524]),
        ((-3000, -2000), [-3000, -2500, -2000, 24], [-1024, -1024, -1024, -1000]),
        # Padding inside the scale is left alone: it may be tissue.
        ((0, 0), [0, 1, 1000, -2000], [-1024, -1023, -24, -3024]),
        # A range that reaches into the scale is applied below air only.
        ((-2000, 50), [-2000, 0, 50, 51], [-1024, -1024, -974, -973]),
        # Brighter than all tissue: lungs that it cut were taken for whole.
        ((32767, 32767), [32767, 32766, 0, 500], [-1024, 31742, -1024, -524]),
        ((4095, 4095), [4095, 4094, 0, 500], [-1024, 3070, -1024, -524]),
        ((4000, 5000), [4000, 4094, 4095, 5001], [2976, 3070, -1024, 3977]),
        (None, [-2000, -1999, 0, 500], [-3024, -3023, -1024, -524]),
    ],
)
def test_padding_becomes_air(
    padding: tuple[int, int] | None, samples: list[int], expected: list[int]
) -> None:
    stored = pixel_format(
        rows=2, columns=2, bits_stored=16, high_bit=15, signed=True, padding=padding
    )
    out = np.empty((2, 2), np.int16)
    array = np.array(samples, np.int16).reshape(2, 2)
    to_hounsfield(array, stored, Rescale(1, -1024), out)
    assert out.ravel().tolist() == expected


def test_native_frames_are_views_at_their_offset() -> None:
    stored = pixel_format(frames=3)
    samples = np.arange(3 * SHAPE[0] * SHAPE[1], dtype="<u2").reshape(3, *SHAPE)
    pixels = memoryview(samples.tobytes() + b"\0\0")
    for index in range(3):
        frame = native_frame(pixels, stored, index)
        assert (frame == samples[index]).all()
        assert frame.base is not None


def image(signed: bool = False, bits: int = 12) -> npt.NDArray[np.int16 | np.uint16]:
    """Something smooth with noise: codecs take other paths for flat and for random images."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    smooth = 2 ** (bits - 2) * (2 + np.sin(y / 7) + np.cos(x / 11))
    values = np.clip(smooth + generator.normal(0, 30, SHAPE), 0, 2**bits - 1)
    return (values - 2 ** (bits - 1)).astype(np.int16) if signed else values.astype(np.uint16)


def rle(array: npt.NDArray[np.uint16 | np.int16]) -> bytes:
    return RLELosslessEncoder.encode(
        array.tobytes(),
        index=0,
        encoding_plugin="pydicom",
        rows=SHAPE[0],
        columns=SHAPE[1],
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )


def cells(array: npt.NDArray[np.uint16 | np.int16]) -> npt.NDArray[np.uint16]:
    return array.view(np.uint16)


ENCODERS = {
    HTJ2KLossless: lambda array: imagecodecs.htj2k_encode(array, reversible=True),
    HTJ2KLosslessRPCL: lambda array: imagecodecs.htj2k_encode(array, reversible=True),
    HTJ2K: lambda array: imagecodecs.htj2k_encode(array, reversible=True),
    JPEG2000Lossless: lambda array: imagecodecs.jpeg2k_encode(
        array, reversible=True, codecformat="J2K"
    ),
    JPEG2000: lambda array: imagecodecs.jpeg2k_encode(array, reversible=True, codecformat="J2K"),
    JPEGLSLossless: lambda array: imagecodecs.jpegls_encode(cells(array)),
    JPEGLSNearLossless: lambda array: imagecodecs.jpegls_encode(cells(array)),
    JPEGLossless: lambda array: imagecodecs.ljpeg_encode(cells(array), bitspersample=16),
    JPEGLosslessSV1: lambda array: imagecodecs.ljpeg_encode(cells(array), bitspersample=16),
    RLELossless: rle,
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", list(ENCODERS))
def test_lossless_codecs_are_exact(syntax: str, signed: bool) -> None:
    array = image(signed, bits=16)
    frame = bytes(ENCODERS[syntax](array))
    stored = pixel_format(syntax, bits_stored=16, high_bit=15, signed=signed)
    out = np.empty(SHAPE, np.int16)
    to_hounsfield(decode_frame(frame, stored), stored, Rescale(1, 0), out)
    assert (out == np.clip(array.astype(int), -32768, 32767)).all()


def test_lossy_jpeg_of_eight_and_twelve_bits() -> None:
    for syntax, bits, dtype in (
        (JPEGBaseline8Bit, 8, np.uint8),
        (JPEGExtended12Bit, 12, np.uint16),
    ):
        array = image(bits=bits).astype(dtype)
        frame = imagecodecs.jpeg8_encode(array, level=98, bitspersample=bits)
        stored = pixel_format(
            syntax,
            bits_allocated=8 * dtype().itemsize,
            bits_stored=bits,
            high_bit=bits - 1,
        )
        decoded = decode_frame(frame, stored)
        assert decoded.dtype == dtype
        assert np.abs(decoded.astype(int) - array).mean() < 2**bits / 100


@pytest.mark.parametrize("syntax", list(ENCODERS))
def test_frame_of_another_size_is_refused_before_it_is_decoded(syntax: str) -> None:
    frame = bytes(ENCODERS[syntax](image()))
    stored = pixel_format(syntax, rows=4000, columns=4000)
    with pytest.raises(RefusedInput) as caught:
        decode_frame(frame, stored)
    assert caught.value.code == "corrupt-pixels"


# imagecodecs loses the error of a damaged HTJ2K stream in a callback.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("syntax", list(ENCODERS))
def test_damaged_frames_are_refused_or_decoded_but_never_raise_otherwise(syntax: str) -> None:
    frame = bytes(ENCODERS[syntax](image()))
    stored = pixel_format(syntax, bits_stored=16, high_bit=15)
    generator = np.random.default_rng(3)
    with warnings.catch_warnings():
        # gdcm and pydicom warn about what they then refuse.
        warnings.simplefilter("ignore")
        for _ in range(20):
            damaged = bytearray(frame)
            for position in generator.integers(0, len(damaged), 4):
                damaged[position] = int(generator.integers(256))
            for candidate in (bytes(damaged), frame[: int(generator.integers(len(frame)))]):
                try:
                    assert decode_frame(candidate, stored).shape == SHAPE
                except RefusedInput as refused:
                    assert refused.code == "corrupt-pixels"


def test_htj2k_error_that_imagecodecs_drops_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    frame = bytes(imagecodecs.htj2k_encode(image(bits=16), reversible=True))
    stored = pixel_format(HTJ2KLossless, bits_stored=16, high_bit=15)
    generator = np.random.default_rng(7)
    refused = 0
    for _ in range(100):
        damaged = bytearray(frame)
        for position in generator.integers(len(damaged) // 4, len(damaged) - 2, 4):
            damaged[position] = int(generator.integers(256))
        dropped.clear()
        try:
            decode_frame(bytes(damaged), stored)
        except RefusedInput:
            refused += 1
            continue
        assert not dropped
    assert refused > 30


@pytest.mark.parametrize("value", [0, 1, 2048, 0x8000, 0xFFFF])
def test_htj2k_of_a_flat_image_is_not_taken_for_damage(value: int) -> None:
    for dtype in (np.uint16, np.int16):
        flat = np.full(SHAPE, value, np.uint16).view(dtype)
        stored = pixel_format(HTJ2KLossless, bits_stored=16, signed=dtype is np.int16)
        frame = bytes(imagecodecs.htj2k_encode(flat, reversible=True))
        assert (decode_frame(frame, stored) == flat).all()


@pytest.mark.parametrize("syntax", [s for s in ENCODERS if s != RLELossless])
def test_stream_cut_short_is_refused_at_once(syntax: str) -> None:
    frame = bytes(ENCODERS[syntax](image()))
    stored = pixel_format(syntax, bits_stored=16, high_bit=15)
    begin = time.process_time()
    for cut in range(20, len(frame), 97):
        with pytest.raises(RefusedInput):
            decode_frame(frame[:-cut], stored)
    # CharLS alone takes seconds for each of them.
    assert time.process_time() - begin < 5


def test_codestream_shape_of_what_is_none() -> None:
    for frame in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51\0", b"\xff\xd8\x00\x01\x02", b"abc" * 99):
        assert codestream_shape(frame) is None


def test_encapsulated_frames_must_be_as_many_as_promised() -> None:
    frames = [b"first " * 4, b"second" * 4, b"third " * 4]
    pixels = memoryview(encapsulate(frames))
    assert list(encapsulated_frames(pixels, pixel_format(frames=3))) == frames
    for wrong in (2, 4, 1000):
        with pytest.raises(RefusedInput) as caught:
            list(encapsulated_frames(pixels, pixel_format(frames=wrong)))
        assert caught.value.code == "corrupt-pixels"


def test_one_frame_in_many_fragments_is_put_together() -> None:
    pixels = memoryview(encapsulate([bytes(range(200))], fragments_per_frame=5))
    (frame,) = encapsulated_frames(pixels, pixel_format())
    assert frame == bytes(range(200))
