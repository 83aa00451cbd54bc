"""Image operators in torch: no weights and no session, but the same care for numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.runtime.device import devices, torch_device

if TYPE_CHECKING:
    import torch


def operators_device(asked: str | None) -> torch.device:
    """The device for a service whose model is code, prepared so that its numbers repeat.

    Makes torch on the CPU single-threaded in this process: operators wait for memory, not
    for cores, and sums in one thread have one order. A second thread saves 0.1 s of an idle
    machine; beside a busy HAPI or archive its hundreds of barriers cost 5 to 15 s a scan.

    Args:
        asked: torch's name of the device; the first GPU without it, or the CPU.

    Raises:
        SettingsError: no such device here.
    """
    import torch

    torch.set_num_threads(1)
    return torch_device(devices(asked)[0])
