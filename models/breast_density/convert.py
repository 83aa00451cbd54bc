"""The published weights as safetensors: `python -m models.breast_density.convert SOURCE TARGET`.

SOURCE is `saved_models/BreastDensity_BaselineHistogramModel/model.p` of
github.com/nyukat/breast_density_classifier: a pickle of PyTorch 0.4. It is not unpickled.
Its hash is known, and so is where each storage lies: behind five pickles that only say names,
shapes and strides, every storage is a count (int64) and its float32 numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

Tensors = dict[str, npt.NDArray[np.float32]]

SOURCE_SHA256 = "a56eb45ca5a9cd77326b0bee940291d19c7b03215c7880523181972e78f73117"
SOURCE_NOTE = (
    "nyukat/breast_density_classifier, BreastDensity_BaselineHistogramModel/model.p, "
    f"sha256 {SOURCE_SHA256}, BSD-2-Clause"
)

#: Where the pickles end.
_FIRST_STORAGE = 744
#: Storages in the order of the file, with the shape of the tensor. TensorFlow, in which the
#: model was trained, keeps weights (in, out): the strides make them (out, in) by transposing.
_STORAGES = (
    ("fc1.weight", (100, 200)),
    ("fc2.weight", (4, 100)),
    ("fc2.bias", (4,)),
    ("fc1.bias", (100,)),
)


class NotPublishedError(ValueError):
    """The source is not the published file; the message names no path."""


def read_published(data: bytes) -> Tensors:
    """Tensors of the published file.

    Raises:
        NotPublishedError: the bytes are not that file.
    """
    if hashlib.sha256(data).hexdigest() != SOURCE_SHA256:
        raise NotPublishedError("the source is not the published file: its sha256 differs")
    found: Tensors = {}
    position = _FIRST_STORAGE
    for name, shape in _STORAGES:
        (count,) = struct.unpack_from("<q", data, position)
        stored = np.frombuffer(data, "<f4", count, position + 8)
        found[name] = _transposed(stored, shape)
        position += 8 + 4 * count
    if position != len(data):
        raise NotPublishedError("the source does not end with its last tensor")
    return found


def convert(data: bytes) -> bytes:
    """The published file as safetensors: always the same bytes, for the manifest names their hash.

    Raises:
        NotPublishedError: the bytes are not that file.
    """
    return save(read_published(data), {"source": SOURCE_NOTE})


def _transposed(stored: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A tensor whose first index runs fastest in the storage."""
    return np.ascontiguousarray(stored.reshape(shape[::-1]).T)


def main() -> None:
    """Convert, and print the hash that the manifest must name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="model.p as published")
    parser.add_argument("target", type=Path, help="safetensors file to write")
    arguments = parser.parse_args()
    try:
        written = convert(arguments.source.read_bytes())
        arguments.target.write_bytes(written)
    except (OSError, NotPublishedError) as error:
        parser.exit(1, f"{error}\n")
    sys.stdout.write(f"sha256 {hashlib.sha256(written).hexdigest()}\n")


if __name__ == "__main__":
    main()
