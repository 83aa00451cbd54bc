"""Pixel bytes to samples, and samples to Hounsfield units."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from fhir_ext.dicom.headers import PARSE_ERRORS
from fhir_ext.dicom.instances import PixelFormat, Rescale
from fhir_ext.dicom.volume import PADDING_HU
from fhir_ext.errors import RefusedInput

Samples = npt.NDArray[Any]

NATIVE = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})

_INT16 = np.iinfo(np.int16)
#: A byte of RLE becomes at most 64 bytes of pixels (PS3.5 G.3: two bytes give up to 128).
_RLE_EXPANSION = 64
#: The top of CT numbers of 12 bits: from here on a value that is named as padding is one.
_NO_TISSUE_HU = 3071
#: A slope below 1 must leave so many whole numbers of the range of the stored values.
_FEWEST_STEPS = 256
#: EOI of JPEG and JPEG-LS, EOC of JPEG 2000.
_END_OF_STREAM = b"\xff\xd9"
#: How far from the end of a frame it may lie.
_TRAILING_BYTES = 16
#: Where the SIZ marker says precision and sign of the first component (ISO 15444-1 A.5.1).
_SIZ_PRECISION = 42
_DECODE_ERRORS = (
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class _Encoded(Protocol):
    """What has pixels: an `Instance` or a `Mammogram`."""

    @property
    def format(self) -> PixelFormat: ...

    @property
    def pixels(self) -> memoryview: ...


def check_pixels(instance: _Encoded) -> None:
    """Refuse pixels that cannot be decoded or are fewer than promised, before memory is taken.

    Raises:
        RefusedInput: `unsupported-transfer-syntax` or `corrupt-pixels`.
    """
    stored = instance.format
    if stored.transfer_syntax_uid in NATIVE:
        if len(instance.pixels) < stored.frame_bytes * stored.frames:
            raise RefusedInput("fewer pixels than the header says", code="corrupt-pixels")
    elif stored.transfer_syntax_uid not in _DECODERS:
        raise RefusedInput(
            "a transfer syntax cannot be decoded", code="unsupported-transfer-syntax"
        )


def native_frame(pixels: memoryview, pixel_format: PixelFormat, index: int) -> Samples:
    """Frame `index` of native pixel data as a view (rows, columns), uint8 or uint16."""
    dtype = np.uint8 if pixel_format.bits_allocated == 8 else np.dtype("<u2")
    count = pixel_format.rows * pixel_format.columns
    flat = np.frombuffer(pixels, dtype, count, index * pixel_format.frame_bytes)
    return flat.reshape(pixel_format.rows, pixel_format.columns)


def encapsulated_frames(pixels: memoryview, pixel_format: PixelFormat) -> Iterator[bytes]:
    """The encoded frames of encapsulated pixel data (PS3.5 A.4), copied out of `pixels`.

    Raises:
        RefusedInput: `corrupt-pixels`: not exactly as many frames as the header says.
    """
    count = 0
    try:
        for frame in generate_frames(bytes(pixels), number_of_frames=pixel_format.frames):
            count += 1
            if count > pixel_format.frames:
                break
            yield frame
    except PARSE_ERRORS as error:
        raise RefusedInput("encapsulated pixels are corrupt", code="corrupt-pixels") from error
    if count != pixel_format.frames:
        raise RefusedInput("the number of frames is wrong", code="corrupt-pixels")


def decode_frame(frame: bytes, pixel_format: PixelFormat) -> Samples:
    """Decode one compressed frame.

    Returns:
        Stored values (rows, columns), uint8, int16 or uint16.

    Raises:
        RefusedInput: `corrupt-pixels`.
    """
    shape = (pixel_format.rows, pixel_format.columns)
    _check_frame(frame, pixel_format)
    decode = _DECODERS[pixel_format.transfer_syntax_uid]
    try:
        samples = decode(frame, pixel_format)
    except _DECODE_ERRORS as error:
        raise RefusedInput("a frame cannot be decoded", code="corrupt-pixels") from error
    if samples.shape != shape or samples.dtype not in (np.uint8, np.int16, np.uint16):
        raise RefusedInput("a frame decodes to something else", code="corrupt-pixels")
    return samples


def _check_frame(frame: bytes, pixel_format: PixelFormat) -> None:
    """Refuse what decoders handle badly: streams cut short and streams of another size."""
    if pixel_format.transfer_syntax_uid == RLELossless:
        whole = len(frame) * _RLE_EXPANSION >= pixel_format.frame_bytes
    else:
        # Decoders return a cut image without a word, or count to 2**32 over it (CharLS).
        # Whatever pads the frame follows the marker, which cannot occur inside coded data.
        whole = _END_OF_STREAM in frame[-_TRAILING_BYTES:]
    if not whole:
        raise RefusedInput("a frame is cut short", code="corrupt-pixels")
    # The stream has its own idea of its size, and a decoder would allocate that.
    shape = (pixel_format.rows, pixel_format.columns, 1)
    if pixel_format.transfer_syntax_uid != RLELossless and codestream_shape(frame) != shape:
        raise RefusedInput("a frame has another size than the header says", code="corrupt-pixels")


def codestream_shape(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) that a JPEG, JPEG-LS or JPEG 2000 stream names; None if none."""
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg_shape(frame)
        if frame[:4] == b"\xff\x4f\xff\x51":
            # SIZ marker (ISO 15444-1 A.5.1): extent and offset of the reference grid.
            right, bottom, left, top = struct.unpack_from(">4L", frame, 8)
            (components,) = struct.unpack_from(">H", frame, 40)
            return bottom - top, right - left, components
    except struct.error:
        pass
    return None


def _jpeg_shape(frame: bytes) -> tuple[int, int, int] | None:
    position = 2
    while True:
        mark, marker, length = struct.unpack_from(">BBH", frame, position)
        if mark != 0xFF:
            return None
        # Start of frame: C0-CF without DHT, JPG and DAC (ISO 10918-1 B.1.1.3); F7 is JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns, components = struct.unpack_from(">HHB", frame, position + 5)
            return rows, columns, components
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDA:
            return None
        position += 2 + length


def to_hounsfield(
    samples: Samples,
    pixel_format: PixelFormat,
    rescale: Rescale,
    out: npt.NDArray[np.int16],
) -> None:
    """Write one frame as modality values, rounded to int16; Hounsfield units are clipped to it.

    Bits beyond BitsStored are dropped, signs extended, and padding that lies below PADDING_HU or
    above all tissue is set to it; padding inside the scale cannot be told from tissue.

    Args:
        samples: stored values (rows, columns), uint8, int16 or uint16.
        pixel_format: where the sample lies in its cell.
        rescale: slope and intercept.
        out: int16 (rows, columns) to write to.

    Raises:
        RefusedInput: `unsupported-pixels`: other values than Hounsfield units, such as the
            activity of a PET, which int16 would clip or round away.
    """
    if samples.dtype.itemsize == 1:
        samples = samples.astype(np.uint16)
    stored = _stored_values(samples.view(np.uint16), pixel_format, out)
    if not rescale.hounsfield:
        _check_scale(stored, pixel_format, rescale)
    if rescale.slope == 1 and rescale.intercept == int(rescale.intercept):
        _shift(stored, pixel_format, int(rescale.intercept), out)
    else:
        exact = stored.astype(np.float64) * rescale.slope + rescale.intercept
        np.copyto(out, np.rint(exact).clip(_INT16.min, _INT16.max), casting="unsafe")
    if pixel_format.padding is not None:
        _replace_padding(pixel_format.padding, rescale, out)


def _check_scale(stored: Samples, pixel_format: PixelFormat, rescale: Rescale) -> None:
    """Refuse a scale whose values int16 cannot hold, or of which it holds too few."""
    ends = [float(end) * rescale.slope + rescale.intercept for end in (stored.min(), stored.max())]
    clipped = min(ends) < _INT16.min or max(ends) > _INT16.max
    share = abs(rescale.slope)
    if clipped or (share < 1 and share * (1 << pixel_format.bits_stored) < _FEWEST_STEPS):
        raise RefusedInput("the values do not fit into 16 bits", code="unsupported-pixels")


def _stored_values(
    cells: npt.NDArray[np.uint16], pixel_format: PixelFormat, out: npt.NDArray[np.int16]
) -> Samples:
    """Samples without foreign bits; `out` is the workspace. uint16 or int16."""
    dtype = np.int16 if pixel_format.signed else np.uint16
    bits, high = pixel_format.bits_stored, pixel_format.high_bit
    if bits == 16:
        return cells.view(dtype)
    target = out.view(dtype)
    if high == bits - 1 and not pixel_format.signed:
        np.bitwise_and(cells, (1 << bits) - 1, out=target)
        return target
    # Left to the top of the cell, then back: the shift of a signed type extends the sign.
    np.left_shift(cells, 15 - high, out=out.view(np.uint16))
    np.right_shift(target, 16 - bits, out=target)
    return target


def _shift(
    stored: Samples, pixel_format: PixelFormat, intercept: int, out: npt.NDArray[np.int16]
) -> None:
    """out = stored + intercept; modular 16 bit arithmetic wherever the result fits."""
    bits = pixel_format.bits_stored
    low = -(1 << bits - 1) if pixel_format.signed else 0
    high = low + (1 << bits) - 1
    if not _fits(low, high, intercept):
        low, high = int(stored.min()), int(stored.max())
    if _fits(low, high, intercept):
        wrapped = (intercept + 0x8000) % 0x10000 - 0x8000
        np.add(stored.view(np.int16), np.int16(wrapped), out=out)
    else:
        wide = stored.astype(np.int32) + intercept
        np.copyto(out, wide.clip(_INT16.min, _INT16.max), casting="unsafe")


def _fits(low: int, high: int, intercept: int) -> bool:
    return low + intercept >= _INT16.min and high + intercept <= _INT16.max


def _replace_padding(
    padding: tuple[int, int], rescale: Rescale, out: npt.NDArray[np.int16]
) -> None:
    low, high = (
        min(max(round(value * rescale.slope + rescale.intercept), _INT16.min), _INT16.max)
        for value in padding
    )
    for first, last in ((low, min(high, PADDING_HU - 1)), (max(low, _NO_TISSUE_HU), high)):
        if first <= last:
            out[(out >= first) & (out <= last)] = PADDING_HU


def _imagecodecs(function: Callable[..., Samples], frame: bytes, _: PixelFormat) -> Samples:
    return function(frame)


def _htj2k(frame: bytes, pixel_format: PixelFormat) -> Samples:
    """HTJ2K by OpenJPH.

    imagecodecs drops the error of a damaged stream and returns zeros from there on. A last
    row of zeros is therefore decoded again with the other sign in the header, which moves
    all values by half of the range, but not what was never written.
    """
    samples: Samples = imagecodecs.htj2k_decode(frame)
    if samples[-1].any():
        return samples
    moved = bytearray(frame)
    moved[_SIZ_PRECISION] ^= 0x80
    if not imagecodecs.htj2k_decode(bytes(moved))[-1].any():
        raise ValueError("the stream is damaged")
    return samples


def _rle(frame: bytes, pixel_format: PixelFormat) -> Samples:
    dtype = np.dtype("<u2") if pixel_format.bits_allocated == 16 else np.dtype(np.uint8)
    decoded = imagecodecs.dicomrle_decode(frame, dtype, out=pixel_format.frame_bytes)
    return np.frombuffer(decoded, dtype).reshape(pixel_format.rows, pixel_format.columns)


def _gdcm(frame: bytes, pixel_format: PixelFormat) -> Samples:
    """JPEG 2000 by gdcm, which is a third quicker than the others here."""
    options: dict[str, Any] = {
        "transfer_syntax_uid": UID(pixel_format.transfer_syntax_uid),
        "rows": pixel_format.rows,
        "columns": pixel_format.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
        "pixel_representation": int(pixel_format.signed),
        "bits_allocated": pixel_format.bits_allocated,
        "bits_stored": pixel_format.bits_stored,
    }
    decoder = get_decoder(pixel_format.transfer_syntax_uid)
    encoded = encapsulate([frame])
    samples, _ = decoder.as_array(encoded, raw=True, decoding_plugin="gdcm", **options)
    return samples


_DECODERS: dict[str, Callable[[bytes, PixelFormat], Samples]] = {
    str(JPEGBaseline8Bit): partial(_imagecodecs, imagecodecs.jpeg8_decode),
    str(JPEGExtended12Bit): partial(_imagecodecs, imagecodecs.jpeg8_decode),
    str(JPEGLossless): partial(_imagecodecs, imagecodecs.ljpeg_decode),
    str(JPEGLosslessSV1): partial(_imagecodecs, imagecodecs.ljpeg_decode),
    str(JPEGLSLossless): partial(_imagecodecs, imagecodecs.jpegls_decode),
    str(JPEGLSNearLossless): partial(_imagecodecs, imagecodecs.jpegls_decode),
    str(JPEG2000Lossless): _gdcm,
    str(JPEG2000): _gdcm,
    str(HTJ2KLossless): _htj2k,
    str(HTJ2KLosslessRPCL): _htj2k,
    str(HTJ2K): _htj2k,
    str(RLELossless): _rle,
}
