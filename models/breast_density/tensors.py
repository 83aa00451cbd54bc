"""Tensors in a safetensors file, read and written without the package of that name.

The format is eight bytes of header length (little endian), a JSON header of names to dtype,
shape and byte range, and the bytes. Nothing in it can run. Only float32 is needed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[np.float32]]

#: Names, shapes and ranges of a few tensors; more is not a file of ours.
LARGEST_HEADER = 1_000_000
#: The format aligns the bytes to this.
_ALIGNMENT = 8


class TensorFileError(ValueError):
    """A file is not the weights it should be; the message names no path."""


def read_tensors(path: Path, sha256: str) -> Tensors:
    """Read a file whose hash is known.

    Args:
        path: the file.
        sha256: what its bytes must hash to, hexadecimal.

    Returns:
        Name to float32 array, read-only.

    Raises:
        OSError: the file cannot be read.
        TensorFileError: another hash, or not safetensors of float32.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256.lower():
        raise TensorFileError("the weights have another sha256 than the manifest says")
    return parse_tensors(data)


def parse_tensors(data: bytes) -> Tensors:
    """Tensors of the bytes of a safetensors file.

    Raises:
        TensorFileError: not safetensors, not float32, ranges that overlap or leave gaps, or
            a number that is not finite.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(LARGEST_HEADER, len(data) - 8):
        raise TensorFileError("a safetensors file ends inside its header")
    try:
        header = json.loads(data[8 : 8 + length])
        entries = sorted(
            (entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TensorFileError("a safetensors header cannot be read") from error
    body = memoryview(data)[8 + length :]
    found, position = {}, 0
    for offsets, name, dtype, shape in entries:
        found[name] = _tensor(body, offsets, dtype, shape, position)
        position = offsets[1]
    if position != len(body):
        raise TensorFileError("a safetensors file holds bytes of no tensor")
    return found


def _tensor(
    body: memoryview, offsets: list[int], dtype: str, shape: tuple[Any, ...], begin: int
) -> npt.NDArray[np.float32]:
    if dtype != "F32" or not all(type(side) is int and side >= 0 for side in shape):
        raise TensorFileError("a tensor is not float32")
    if offsets != [begin, begin + 4 * prod(shape)] or offsets[1] > len(body):
        raise TensorFileError("the range of a tensor does not fit its shape")
    values = np.frombuffer(body[offsets[0] : offsets[1]], "<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise TensorFileError("a weight is not a finite number")
    return values.astype(np.float32, copy=False)


def format_tensors(tensors: Mapping[str, npt.NDArray[np.float32]], note: str) -> bytes:
    """The bytes of a safetensors file; the same tensors give the same bytes.

    Args:
        tensors: name to float32 array.
        note: where they come from; kept in `__metadata__`.
    """
    header: dict[str, Any] = {"__metadata__": {"source": note}}
    position = 0
    for name in sorted(tensors):
        end = position + 4 * tensors[name].size
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    body = b"".join(tensors[name].astype("<f4").tobytes() for name in sorted(tensors))
    return len(text).to_bytes(8, "little") + text + body
