"""Devices: CPU, one GPU or several, by the same names as torch."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fhir_ext.errors import SettingsError

if TYPE_CHECKING:
    import torch

Autocast = Literal["off", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        kind: `cpu` or `cuda`.
        index: which GPU, from 0; 0 for the CPU.
    """

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"


CPU = Device("cpu")


def devices(asked: str | None = None) -> tuple[Device, ...]:
    """The devices that may be used.

    Args:
        asked: `cpu`, `cuda` (all GPUs), or names such as `cuda:0,cuda:1`. Without it: all
            GPUs there are, else the CPU.

    Raises:
        SettingsError: no such device here.
    """
    if asked == "cpu":
        return (CPU,)
    import torch

    there = tuple(Device("cuda", index) for index in range(torch.cuda.device_count()))
    if asked is None:
        return there or (CPU,)
    if asked == "cuda":
        if not there:
            raise SettingsError("there is no GPU here")
        return there
    found = []
    for name in asked.split(","):
        match = re.fullmatch(r"cuda:(\d+)", name.strip())
        device = Device("cuda", int(match[1])) if match else None
        if device not in there or device is None:
            raise SettingsError(f"there is no device {name.strip()} here")
        found.append(device)
    return tuple(dict.fromkeys(found))


class DevicePool:
    """Gives each piece of work the device with the least work; safe between threads."""

    def __init__(self, available: Sequence[Device]) -> None:
        if not available:
            raise SettingsError("there is no device")
        self._load = dict.fromkeys(available, 0)
        self._lock = threading.Lock()

    @contextmanager
    def use(self, weight: int = 1) -> Iterator[Device]:
        """The least busy device, which counts as busier by `weight` until the end."""
        with self._lock:
            device = min(self._load, key=lambda item: self._load[item])
            self._load[device] += weight
        try:
            yield device
        finally:
            with self._lock:
                self._load[device] -= weight


def torch_device(device: Device) -> torch.device:
    """The device for torch, which from now on takes no shortcuts that change numbers.

    TF32 rounds to 10 bits; cudnn's autotuner may choose another algorithm in each process.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(str(device))


def autocast(device: Device, kind: Autocast) -> AbstractContextManager[object]:
    """Torch calculates in `kind` where it considers that safe; `off` changes nothing."""
    if kind == "off":
        return nullcontext()
    import torch

    return torch.autocast(device.kind, dtype=getattr(torch, kind))
