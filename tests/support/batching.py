"""Manifests, sessions and hosts for tests of batches, and many callers at once."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.manifest import Manifest
from models.manifest.runtimes import NetworkRuntime
from models.runtime import host as host_module
from models.runtime.base import Array, Arrays
from models.runtime.device import CPU, Device
from models.runtime.host import Host, HostOptions
from models.runtime.lane import BatchRan

FOLDER = Path("nowhere")
#: Any number of pairs of numbers to as many.
VECTOR = {
    "kind": "torchscript",
    "weights": {"file": "net.ts", "sha256": "0" * 64, "licence": "Apache-2.0"},
    "inputs": [{"name": "image", "shape": ["n", "w"]}],
    "outputs": [{"name": "pred", "shape": ["n", "w"]}],
    "memory_mb": 0.01,
}


def manifest_of(
    runtime: NetworkRuntime | dict[str, Any] | None = None,
    *,
    name: str = "tiny",
    max_size: int = 8,
    max_wait_ms: float = 10.0,
    **fields: Any,
) -> Manifest:
    """A manifest around a runtime; by default that of VECTOR, with `fields`."""
    data = runtime.model_dump() if isinstance(runtime, NetworkRuntime) else runtime or VECTOR
    return Manifest.model_validate(
        {
            "id": name,
            "version": "1.0.0",
            "title": "Tiny",
            "licence": "Apache-2.0",
            "intended_use": "Tests.",
            "not_for": "Anything else.",
            "inputs": {"modality": ["CT"]},
            "outputs": [
                {
                    "name": "lung-volume",
                    "region": "lungs",
                    "unit": "mL",
                    "valid": [0, 1],
                }
            ],
            "runtime": {**data, **fields},
            "batching": {"max_size": max_size, "max_wait_ms": max_wait_ms},
        }
    )


class Session:
    """Doubles what it is shown; remembers its batches.

    Args:
        answer: what it does instead.
        seconds: how long a batch takes.
    """

    def __init__(
        self, answer: Callable[[Array], Array] = lambda image: image * 2, seconds: float = 0.0
    ) -> None:
        self.answer, self.seconds = answer, seconds
        self.batches: list[Array] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.memory_bytes = 10
        self.closed = False

    def run(self, batch: Arrays) -> dict[str, Array]:
        self.batches.append(batch["image"].copy())
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(20)
        time.sleep(self.seconds)
        return {"pred": self.answer(batch["image"])}

    def close(self) -> None:
        self.closed = True

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@contextmanager
def hosting(
    patch: pytest.MonkeyPatch,
    open_one: Callable[[NetworkRuntime, Device], Session],
    devices: tuple[Device, ...] = (CPU,),
    ran: list[BatchRan] | None = None,
) -> Iterator[Host]:
    """A host whose sessions come from the test, and whose devices need not exist."""

    def open_session(runtime: NetworkRuntime, folder: Path, options: Any) -> Session:
        return open_one(runtime, options.device)

    patch.setattr(host_module, "open_session", open_session)
    patch.setattr(host_module, "devices", lambda asked: devices)
    host = Host(HostOptions(observe=(ran if ran is not None else []).append))
    try:
        yield host
    finally:
        host.close()


def items(*values: float) -> dict[str, Array]:
    """One item of two equal numbers for each value."""
    return {"image": np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)}


class Callers:
    """Threads that ask a host; what they got by name."""

    def __init__(self) -> None:
        self.got: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, ask: Callable[[], Any]) -> None:
        """Ask in a thread; an error is what one got."""

        def work() -> None:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(ask)
            self.got[name] = asked.exception() or asked.result()

        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, seconds: float = 20.0) -> None:
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "somebody waits for ever"


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
