"""Nothing goes into a network or comes out of it that its manifest does not declare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.manifest.runtimes import Tensor
from models.runtime.base import Array, Arrays, ModelFailure, Session


class CheckedSession:
    """Compares names, shapes, element types and finiteness at every call.

    Args:
        inner: what runs the network.
        inputs, outputs: what the manifest declares.
    """

    def __init__(self, inner: Session, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._inner = inner
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    @property
    def memory_bytes(self) -> int:
        return self._inner.memory_bytes

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`.

        Raises:
            ModelFailure: `model-input`, `model-output` or `model-not-finite` too.
        """
        lengths: dict[str, int] = {}
        _compare(batch, self._inputs, lengths, "model-input")
        items = len(batch[self._inputs[0].name])
        found = self._inner.run(batch)
        _compare(found, self._outputs, lengths, "model-output")
        for name, array in found.items():
            if len(array) != items:
                raise ModelFailure("model-output", f"{name} has {len(array)} items, not {items}")
        return {tensor.name: found[tensor.name] for tensor in self._outputs}

    def close(self) -> None:
        self._inner.close()


def _compare(arrays: Arrays, tensors: Sequence[Tensor], lengths: dict[str, int], code: str) -> None:
    """Raise for the first difference; `lengths` learns and holds what names stand for."""
    names = {tensor.name for tensor in tensors}
    if arrays.keys() != names:
        raise ModelFailure(code, f"{len(arrays)} tensors, not {', '.join(sorted(names))}")
    for tensor in tensors:
        array = arrays[tensor.name]
        if array.dtype != np.dtype(tensor.dtype):
            raise ModelFailure(code, f"{tensor.name} is {array.dtype}, not {tensor.dtype}")
        if not _fits(array.shape, tensor.shape, lengths):
            raise ModelFailure(code, f"{tensor.name} has shape {array.shape}, not {tensor.shape}")
        if tensor.finite and not _finite(array):
            raise ModelFailure("model-not-finite" if code == "model-output" else code, tensor.name)


def _fits(shape: Sequence[int], declared: Sequence[int | str], lengths: dict[str, int]) -> bool:
    if len(shape) != len(declared) or shape[0] < 1:
        return False
    for length, wanted in zip(shape, declared, strict=True):
        if isinstance(wanted, str) and wanted != "*":
            wanted = lengths.setdefault(wanted, length)
        if wanted not in ("*", length):
            return False
    return True


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
