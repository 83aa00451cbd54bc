"""Whether two runtimes of the same network give the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.manifest.runtimes import NetworkRuntime, OnnxRuntime, Tolerance, TorchExportRuntime
from models.runtime.base import Arrays, ModelFailure, Session
from models.runtime.opening import open_session
from models.runtime.options import Options


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a comparison found.

    Attributes:
        holds: every number is within the tolerance.
        batches: how many were compared.
        largest: largest absolute difference.
        excess: largest difference divided by what it may be; at most 1 when it holds.
        output: where that was.
    """

    holds: bool
    batches: int
    largest: float
    excess: float
    output: str

    def require(self) -> None:
        """Raise unless it holds.

        Raises:
            ModelFailure: `model-disagrees`.
        """
        if not self.holds:
            detail = f"{self.output} by {self.largest:g}, {self.excess:.3g} times the tolerance"
            raise ModelFailure("model-disagrees", detail if self.batches else "nothing to compare")


def agreement(
    reference: Session, candidate: Session, inputs: Iterable[Arrays], tolerance: Tolerance
) -> Agreement:
    """Compare two sessions on some batches.

    Args:
        reference: counts as right.
        candidate: is compared with it.
        inputs: batches; without any, nothing was shown to agree.
        tolerance: how far they may differ, everywhere.

    Raises:
        ModelFailure: one of them does not run.
    """
    batches, largest, excess, where = 0, 0.0, 0.0, ""
    for batch in inputs:
        batches += 1
        wanted, found = reference.run(batch), candidate.run(batch)
        for name, right in wanted.items():
            difference, ratio = _compare(right, found.get(name), tolerance)
            largest = max(largest, difference)
            if ratio >= excess:
                excess, where = ratio, name
    return Agreement(batches > 0 and excess <= 1.0, batches, largest, excess, where)


def check_engine(
    runtime: NetworkRuntime, folder: Path, options: Options, inputs: Iterable[Arrays]
) -> Agreement | None:
    """Compare the quick engine of a network with the one its file was made for.

    Args:
        runtime, folder, options: as for `open_session`.
        inputs: batches, for example those of the manifest's cases.

    Returns:
        None where the manifest leaves nothing to compare: one engine, and the same.

    Raises:
        ModelFailure: one of them cannot be loaded or does not run.
    """
    if not isinstance(runtime, TorchExportRuntime | OnnxRuntime):
        return None
    reference = open_session(runtime, folder, replace(options, reference=True))
    try:
        candidate = open_session(runtime, folder, replace(options, reference=False))
        try:
            return agreement(reference, candidate, inputs, runtime.agreement)
        finally:
            candidate.close()
    finally:
        reference.close()


def _compare(right: Arrays | object, found: object, tolerance: Tolerance) -> tuple[float, float]:
    """(largest difference, largest difference over what it may be)."""
    if not isinstance(right, np.ndarray) or not isinstance(found, np.ndarray):
        return float("inf"), float("inf")
    if right.shape != found.shape:
        return float("inf"), float("inf")
    if right.size == 0:
        return 0.0, 0.0
    wide = right.astype(np.float64)
    difference = np.abs(found.astype(np.float64) - wide)
    allowed = tolerance.absolute + tolerance.relative * np.abs(wide)
    ratio = difference / allowed
    # A NaN is no agreement, wherever it stands.
    return float(np.nan_to_num(difference, nan=np.inf).max()), float(
        np.nan_to_num(ratio, nan=np.inf).max()
    )
