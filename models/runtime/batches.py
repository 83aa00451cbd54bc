"""Batches of any size through networks and devices that take smaller ones."""

from __future__ import annotations

import sys
import threading

import numpy as np

from models.runtime.base import Array, Arrays, ModelFailure, OutOfDeviceMemory, Session


class BatchedSession:
    """Cuts batches into what the network takes, and halves them when memory runs out.

    What once did not fit is not tried again. A network with a fixed batch gets its last
    item repeated where items are missing; their outputs are dropped.

    Args:
        inner: what runs one batch.
        largest: most items of one call.
        fixed: the only number of items that the network takes.
    """

    def __init__(self, inner: Session, largest: int, fixed: int | None = None) -> None:
        self._inner, self._fixed = inner, fixed
        self._largest = fixed or largest
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        return self._inner.memory_bytes

    @property
    def largest(self) -> int:
        """Most items that are tried at once at present."""
        with self._lock:
            return self._largest

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`.

        Raises:
            ModelFailure: `device-memory` when a single item does not fit.
        """
        lengths = {len(array) for array in batch.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ModelFailure("model-input", "the tensors of a batch have different lengths")
        (items,) = lengths
        parts: list[dict[str, Array]] = []
        done = 0
        while done < items:
            size = min(self.largest, items - done)
            found = self._attempt(
                {name: array[done : done + size] for name, array in batch.items()}
            )
            if found is None:
                self._shrink(size)
                continue
            parts.append(found)
            done += size
        if len(parts) == 1:
            return parts[0]
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        self._inner.close()

    def _attempt(self, batch: Arrays) -> dict[str, Array] | None:
        """Outputs, or None when the device has too little memory for this many."""
        items = len(next(iter(batch.values())))
        try:
            if self._fixed is None:
                return self._inner.run(batch)
            full = self._inner.run({n: _filled(a, self._fixed) for n, a in batch.items()})
            return {name: array[:items] for name, array in full.items()}
        except memory_errors():
            pass
        # Outside of the handler: the traceback holds the tensors of the failed call.
        _free_cached()
        return None

    def _shrink(self, failed: int) -> None:
        if failed == 1 or self._fixed is not None:
            raise ModelFailure("device-memory", f"a batch of {self._fixed or 1} does not fit")
        with self._lock:
            self._largest = min(self._largest, failed // 2)


def _joined(parts: list[Array]) -> Array:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ModelFailure("model-output", "parts of one batch have different shapes")
    return np.concatenate(parts)


def _filled(array: Array, size: int) -> Array:
    missing = size - len(array)
    return array if missing == 0 else np.concatenate([array, *[array[-1:]] * missing])


def memory_errors() -> tuple[type[BaseException], ...]:
    """What "too little memory" is called; torch's error only where torch is loaded."""
    torch = sys.modules.get("torch")
    return (OutOfDeviceMemory,) if torch is None else (OutOfDeviceMemory, torch.OutOfMemoryError)


def _free_cached() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
