"""The tensors of the manifest's case: one patch with nodules, and what must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from models.nodule_detection.train.backgrounds import phantom
from models.nodule_detection.train.scenes import AROUND, training_batch
from models.nodule_detection.train.search import Run

#: A chest that nothing was learnt from.
_PHANTOM = 103


def write_cases(folder: Path, run: Run) -> None:
    """Write `patch.safetensors` and `expected.safetensors`.

    The patch is the one around a nodule in which the network is surest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = training_batch(phantom(_PHANTOM, "soft"), (_PHANTOM,)).image.numpy()[:AROUND]
    best = max(range(AROUND), key=lambda index: run(images[index : index + 1])["scores"].max())
    patch = np.ascontiguousarray(images[best : best + 1])
    answer = run(patch)
    save_file({"image": patch}, folder / "patch.safetensors")
    expected = {name: np.ascontiguousarray(answer[name]) for name in ("boxes", "scores")}
    save_file(expected, folder / "expected.safetensors")
