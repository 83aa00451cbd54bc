"""Pixels of a Segmentation, one frame at a time: packed bits, bytes, words, or compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from fhir_ext.dicom.decode import NATIVE, check_pixels, decode_frame, encapsulated_frames
from fhir_ext.dicom.headers import RawInstance
from fhir_ext.dicom.instances import PixelFormat
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

Stored = npt.NDArray[Any]


class SegmentFrames:
    """The stored values of every frame; decoded anew at each access.

    Args:
        header: data set without pixel data.
        raw: the instance; it must outlive this.
        limits: what may come in.
        packed: BINARY, whose pixels are single bits (PS3.3 C.8.20.2.3).

    Attributes:
        rows, columns: of one frame.
        format, pixels: how and what is stored.
        maximum: Maximum Fractional Value (0062,000E); 1 where there is none.

    Raises:
        RefusedInput: `too-large`, `unsupported-pixels`, `unsupported-transfer-syntax`,
            `not-an-image` or `corrupt-pixels`.
    """

    def __init__(
        self, header: Dataset, raw: RawInstance, limits: LimitSettings, *, packed: bool
    ) -> None:
        self.rows, self.columns = int(header.Rows), int(header.Columns)
        self._count = int(header.get("NumberOfFrames") or 1)
        self.maximum = int(header.get("MaximumFractionalValue") or 1)
        bits = int(header.BitsAllocated)
        self._check_size(bits, limits)
        self._check_format(header, bits, packed)
        if raw.pixels is None:
            raise RefusedInput("a segmentation has no pixels", code="not-an-image")
        self.pixels = raw.pixels
        self.format = PixelFormat(
            transfer_syntax_uid=raw.transfer_syntax_uid,
            rows=self.rows,
            columns=self.columns,
            frames=self._count,
            bits_allocated=bits,
            bits_stored=bits,
            high_bit=bits - 1,
            signed=False,
        )
        self._encoded: list[bytes] | None = None
        if raw.transfer_syntax_uid not in NATIVE:
            self._encoded = self._encapsulated(bits)
        elif 8 * len(self.pixels) < self._count * self.rows * self.columns * bits:
            raise RefusedInput("fewer pixels than the header says", code="corrupt-pixels")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Stored:
        """Stored values (rows, columns) of one frame: uint8 or uint16.

        Raises:
            RefusedInput: `corrupt-pixels`.
        """
        if self._encoded is not None:
            return decode_frame(self._encoded[index], self.format)
        size, bits = self.rows * self.columns, self.format.bits_allocated
        if bits == 1:
            # Frames follow each other without padding, the first pixel in the lowest bit.
            first = index * size
            part = np.frombuffer(self.pixels[first // 8 : (first + size + 7) // 8], np.uint8)
            unpacked = np.unpackbits(part, bitorder="little")[first % 8 :][:size]
            return unpacked.reshape(self.rows, self.columns)
        dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
        flat = np.frombuffer(self.pixels, dtype, size, index * size * dtype.itemsize)
        return flat.reshape(self.rows, self.columns)

    def _check_size(self, bits: int, limits: LimitSettings) -> None:
        if (
            not 0 < self._count <= limits.frames
            or not 0 < self.rows <= limits.rows_columns
            or not 0 < self.columns <= limits.rows_columns
            or self._count * self.rows * self.columns * bits > 8 * limits.volume_bytes
        ):
            raise RefusedInput("a segmentation is over a limit", code="too-large")

    def _check_format(self, header: Dataset, bits: int, packed: bool) -> None:
        # BINARY of one byte a pixel is not the standard's, but it is met and clear.
        allowed = (1, 8) if packed else (8, 16)
        if (
            bits not in allowed
            or int(header.get("SamplesPerPixel") or 1) != 1
            or int(header.get("PixelRepresentation") or 0) != 0
            or not 0 < self.maximum < 1 << bits
        ):
            raise RefusedInput("the pixels are not of a segmentation", code="unsupported-pixels")

    def _encapsulated(self, bits: int) -> list[bytes]:
        if bits == 1:
            raise RefusedInput(
                "compressed single bits cannot be decoded", code="unsupported-transfer-syntax"
            )
        check_pixels(self)
        return list(encapsulated_frames(self.pixels, self.format))
