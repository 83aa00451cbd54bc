"""A session around anything that torch can call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from models.runtime.base import LIBRARY_ERRORS, Array, Arrays, ModelFailure
from models.runtime.device import Autocast, Device, autocast, torch_device


class TorchSession:
    """Runs one torch callable on one device.

    Tensors go in by position, in the manifest's order. What comes out is named: a mapping by
    its own keys, anything else by position.

    Args:
        network: takes tensors; gives a tensor, a sequence or a mapping of tensors.
        tensors: what it holds in memory.
        inputs, outputs: names, in order.
        device: where its tensors are.
        kind: element type for autocast.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        tensors: Iterable[torch.Tensor],
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: Device,
        kind: Autocast = "off",
    ) -> None:
        self._network: Callable[..., Any] | None = network
        self._bytes = sum(item.numel() * item.element_size() for item in tensors)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._device, self._kind = device, kind
        self._target = torch_device(device)
        # Buffers of a module may be written to during a call.
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        return self._bytes

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`; torch's out-of-memory error passes through."""
        network = self._network
        if network is None:
            raise ModelFailure("model-failed", "the session is closed")
        given = [_tensor(batch[name]).to(self._target) for name in self._inputs]
        try:
            with self._lock, torch.inference_mode(), autocast(self._device, self._kind):
                found = network(*given)
            return self._named(found)
        except torch.OutOfMemoryError:
            raise
        except LIBRARY_ERRORS as error:
            raise ModelFailure("model-failed", type(error).__name__) from error

    def close(self) -> None:
        self._network = None
        if self._device.kind == "cuda":
            torch.cuda.empty_cache()

    def _named(self, found: Any) -> dict[str, Array]:
        if isinstance(found, Mapping):
            return {str(name): self._array(value) for name, value in found.items()}
        several = list(found) if isinstance(found, list | tuple) else [found]
        if len(several) != len(self._outputs):
            raise ModelFailure("model-output", f"{len(several)} tensors, not {len(self._outputs)}")
        return {n: self._array(v) for n, v in zip(self._outputs, several, strict=True)}

    def _array(self, value: Any) -> Array:
        if not isinstance(value, torch.Tensor):
            raise ModelFailure("model-output", f"{type(value).__name__} instead of a tensor")
        # numpy has no bfloat16; what autocast calculates in is not what the manifest declares.
        half = (torch.bfloat16,) if self._kind == "off" else (torch.bfloat16, torch.float16)
        if value.dtype in half:
            value = value.float()
        array: Array = value.detach().cpu().numpy()
        return array


def module_session(
    module: torch.nn.Module,
    inputs: Sequence[str],
    outputs: Sequence[str],
    device: Device,
    kind: Autocast = "off",
) -> TorchSession:
    """A session around a module, moved to the device and set to inference."""
    target = torch_device(device)
    module = module.to(target)
    module.eval()
    tensors = (*module.parameters(), *module.buffers())
    return TorchSession(module, tensors, inputs, outputs, device, kind)


def _tensor(array: Array) -> torch.Tensor:
    """A tensor over the same memory where torch takes it: writable, not reversed."""
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = np.array(array, order="C")
    return torch.from_numpy(array)
