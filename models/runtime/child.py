"""The process of one isolated network: `python -m models.runtime.child FD`.

It ends when the worker closes its end. A call that outlives its deadline ends it too, even
when no worker is left to do so: the kernel's timer needs no interpreter. Where the machine
runs out of memory, the kernel ends this process before the worker.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from models.manifest.runtimes import NetworkRuntime, Runtime
from models.runtime import frames
from models.runtime.base import ModelFailure, Session
from models.runtime.batches import memory_errors
from models.runtime.device import CPU, Device
from models.runtime.opening import load_adapter
from models.runtime.options import Options

#: How much longer (s) than the worker this process waits for itself.
_MARGIN = 5.0


def main(descriptor: int) -> None:
    """Load the network that the first frame names, then answer batches until the end."""
    with (
        socket.socket(fileno=descriptor) as channel,
        contextlib.suppress(frames.Closed, frames.Malformed),
    ):
        _, content = frames.receive(channel, None)
        order = frames.parse(content)
        with contextlib.suppress(OSError):
            # The most eligible of all (proc(5)); to raise it needs no privilege.
            Path("/proc/self/oom_score_adj").write_text("1000")
        loaded = _load(channel, order)
        if loaded is None:
            return
        session, runtime = loaded
        content = json.dumps({"memory_bytes": session.memory_bytes}).encode()
        frames.send(channel, frames.READY, content, None)
        while True:
            _, content = frames.receive(channel, None)
            with _at_most(runtime.deadline_s):
                letter, answer = _answer(session, content)
            frames.send(channel, letter, answer, None)


def _load(channel: socket.socket, order: dict[str, Any]) -> tuple[Session, NetworkRuntime] | None:
    """The session, or None after the worker was told why not."""
    runtime: Any = TypeAdapter(Runtime).validate_python(order["runtime"])
    kind, _, index = order["device"].partition(":")
    device = CPU if kind == "cpu" else Device("cuda", int(index))
    options = Options(
        device=device,
        threads=order["threads"],
        max_weights_bytes=order["max_weights_bytes"],
        reference=order["reference"],
    )
    try:
        with _at_most(runtime.start_s):
            if options.threads is not None:
                _limit_torch(options.threads)
            return load_adapter(runtime, Path(order["folder"]), options), runtime
    except ModelFailure as failure:
        frames.send(channel, frames.FAILED, _told(failure), None)
        return None


def _limit_torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _answer(session: Session, content: bytes) -> tuple[bytes, bytes]:
    try:
        return frames.ANSWER, frames.pack(session.run(frames.unpack(content)))
    except ModelFailure as failure:
        return frames.FAILED, _told(failure)
    except memory_errors():
        return frames.FAILED, json.dumps({"memory": True}).encode()


def _told(failure: ModelFailure) -> bytes:
    _, _, detail = failure.message.partition(": ")
    return json.dumps({"code": failure.code, "detail": detail}).encode()


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """The kernel ends this process when the block takes longer (SIGALRM, default action)."""
    signal.setitimer(signal.ITIMER_REAL, seconds + _MARGIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
