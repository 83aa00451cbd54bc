"""Everything that a trained network points at in one scene."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from models.manifest.runtimes import Tensor, TorchExportRuntime, Weights
from models.network.patches import starts
from models.network.places import distinct
from models.nodule_detection.network import PATCH, PEAKS
from models.nodule_detection.train.scenes import cut
from models.runtime.opening import open_session
from models.runtime.options import Options

#: As in the manifest.
OVERLAP, SAME_PLACE, AT_MOST = 0.25, 0.1, 200
#: Patches of one call.
BATCH = 4

Rows = npt.NDArray[np.float64]
Run = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]


def search(run: Run, image: torch.Tensor) -> Rows:
    """Rows of score, class, centre z, y, x and size z, y, x in voxels; highest score first.

    Patches, overlap and what counts as one place are those of the service.

    Args:
        run: patches (n, 1, z, y, x) to `boxes` and `scores`.
        image: float32 (z, y, x) in 0 to 1.
    """
    pads: list[int] = []
    for axis in (2, 1, 0):
        pads += [0, max(0, PATCH[axis] - image.shape[axis])]
    image = F.pad(image, pads)
    where = list(product(*(starts(n, p, OVERLAP) for n, p in zip(image.shape, PATCH, strict=True))))
    found: list[Rows] = []
    for first in range(0, len(where), BATCH):
        part = where[first : first + BATCH]
        given = torch.stack([cut(image, np.asarray(at))[None] for at in part])
        answer = run(given.numpy())
        for at, box, score in zip(part, answer["boxes"], answer["scores"], strict=True):
            kept = score > 0
            rows = np.zeros((int(kept.sum()), 8))
            rows[:, 0], rows[:, 2:] = score[kept], box[kept]
            rows[:, 2:5] += at
            found.append(rows)
    return distinct(np.concatenate(found), SAME_PLACE, AT_MOST)


@contextmanager
def shipped(file: Path) -> Iterator[Run]:
    """The exported network, run as a worker with a CPU runs it."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    runtime = TorchExportRuntime(
        kind="torch-export",
        weights=Weights(file=file.name, sha256=digest, licence="Apache-2.0"),
        inputs=(Tensor(name="image", shape=("n", 1, *PATCH)),),
        outputs=(
            Tensor(name="boxes", shape=("n", PEAKS, 6)),
            Tensor(name="scores", shape=("n", PEAKS)),
            Tensor(name="labels", shape=("n", PEAKS), dtype="int64"),
        ),
    )
    session = open_session(runtime, file.parent, Options(max_batch=BATCH))
    try:
        yield lambda image: session.run({"image": image})
    finally:
        session.close()
