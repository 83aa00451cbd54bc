"""Files of a model: read whole, hashed, and only then given to an adapter.

Adapters get bytes, not paths: what was hashed is what is loaded, whatever happens to the
file meanwhile (docs/adr/0012-weights-are-code.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from models.manifest.runtimes import Weights
from models.runtime.base import ModelFailure

#: Largest file of one model, in bytes, unless the installation says otherwise.
MAX_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True)
class Verified:
    """A file whose bytes are those that the manifest names.

    Attributes:
        file: path inside the model's folder.
        data: all of it.
    """

    file: str
    data: bytes = field(repr=False)


def read_weights(
    folder: Path, files: Iterable[Weights], max_bytes: int = MAX_BYTES
) -> tuple[Verified, ...]:
    """Read the files of a model; all of them hold, or none is returned.

    Args:
        folder: of the manifest.
        files: what the manifest names.
        max_bytes: largest sum of their sizes.

    Raises:
        ModelFailure: `model-not-installed`, `weights-size`, `weights-hash`, `weights-corrupt`.
    """
    found: list[Verified] = []
    left = max_bytes
    for item in files:
        data = _read(folder, item.file, left)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise ModelFailure("weights-hash", item.file)
        left -= len(data)
        found.append(Verified(item.file, data))
    return tuple(found)


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    try:
        # A link may lead anywhere; the manifest speaks of its own folder.
        if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise ModelFailure("model-not-installed", f"{name} is outside the model's folder")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ModelFailure("weights-size", f"{name} has {size} bytes")
            # A file that grows while it is read does not get past the limit.
            data = file.read(size + 1)
            if len(data) != size:
                raise ModelFailure("weights-corrupt", f"{name} changes while it is read")
            return data
    except FileNotFoundError as error:
        raise ModelFailure("model-not-installed", name) from error
    except OSError as error:
        raise ModelFailure("weights-corrupt", f"{name}: {type(error).__name__}") from error
