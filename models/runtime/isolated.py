"""A network in a process of its own, which is stopped when it hangs and buried when it dies.

Time and memory of the process are limited by the worker, which looks at both while it waits.
The kernel's own limits are no help. RLIMIT_AS counts addresses, of which CUDA reserves many times
its memory. RLIMIT_DATA lets allocations fail, and OpenVINO 2026 goes on after one: it answers
numbers that are none. A process that is killed answers nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from models.manifest.runtimes import NetworkRuntime
from models.runtime import frames
from models.runtime.base import FAILURES, Array, Arrays, ModelFailure, OutOfDeviceMemory
from models.runtime.options import Options

#: Variables that the process gets. Our settings, which hold secrets, are not among them.
_VARIABLES = (
    "PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS",
)  # fmt: skip
#: How often (s) the memory of a process is looked at. A core fills some 40 MB meanwhile.
_LOOK = 0.02
_OWN_MEMORY = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
#: How long (s) a process that closed its end may take to end by itself.
_LAST_BREATH = 0.5


class IsolatedSession:
    """Sends batches to a process that holds the network.

    The process is started at once, and again by the next call after it was stopped or died.
    One call at a time.

    Args:
        runtime: of the manifest.
        folder: of the manifest.
        options: what the installation decides.

    Raises:
        ModelFailure: the process cannot load the network.
    """

    def __init__(self, runtime: NetworkRuntime, folder: Path, options: Options) -> None:
        self._runtime, self._folder, self._options = runtime, folder.resolve(), options
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._memory = 0
        self._closed = False
        with self._lock:
            self._start()

    @property
    def memory_bytes(self) -> int:
        return self._memory

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`.

        Raises:
            ModelFailure: `model-hung` after `deadline_s`, `model-memory` beyond
                `Options.isolated_bytes`, `model-crashed`, and what the network itself fails
                with.
        """
        content = frames.pack(batch)
        with self._lock:
            if self._closed:
                raise ModelFailure("model-failed", "the session is closed")
            if self._process is None or _ended(self._process):
                self._bury()
                self._start()
            letter, answer = self._ask(frames.BATCH, content, self._runtime.deadline_s)
            if letter == frames.ANSWER:
                try:
                    return frames.unpack(answer)
                except frames.Malformed as error:
                    self._bury()
                    raise ModelFailure("model-crashed", "its answer is damaged") from error
        raise self._failure(answer)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._bury()

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "models.runtime.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # What a library prints may show what it was given.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
                start_new_session=True,
            )
        order = {
            "runtime": self._runtime.model_dump(mode="json"),
            "folder": str(self._folder),
            "device": str(self._options.device),
            "threads": self._options.threads,
            "max_weights_bytes": self._options.max_weights_bytes,
            "reference": self._options.reference,
        }
        content = json.dumps(order).encode()
        letter, answer = self._ask(frames.START, content, self._runtime.start_s)
        if letter != frames.READY:
            self._bury()
            raise self._failure(answer)
        self._memory = int(self._parsed(answer).get("memory_bytes", 0))

    def _ask(self, letter: bytes, content: bytes, seconds: float) -> tuple[bytes, bytes]:
        """One frame there, one back; a process that does not answer is killed."""
        assert self._channel is not None
        deadline = time.monotonic() + seconds
        try:
            frames.send(self._channel, letter, content, deadline)
            self._watch(deadline)
            found, answer = frames.receive(self._channel, deadline)
        except TimeoutError as error:
            self._bury(at_once=True)
            raise ModelFailure("model-hung", f"after {seconds:g} s") from error
        except (frames.Closed, frames.Malformed, OSError) as error:
            raise ModelFailure("model-crashed", self._bury()) from error
        if found not in (frames.READY, frames.ANSWER, frames.FAILED):
            raise ModelFailure("model-crashed", self._bury())
        return found, answer

    def _watch(self, deadline: float) -> None:
        """Wait until an answer begins or the deadline is over; kill what takes too much memory."""
        assert self._channel is not None and self._process is not None
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        most = self._options.isolated_bytes
        while time.monotonic() < deadline and not waiting.poll(_LOOK * 1000):
            if _held(self._process.pid) > most:
                self._bury(at_once=True)
                raise ModelFailure("model-memory", f"more than {most} bytes")

    def _failure(self, answer: bytes) -> Exception:
        """The error that the process reports, as one of ours."""
        stated = self._parsed(answer)
        if stated.get("memory") is True:
            return OutOfDeviceMemory()
        code = stated.get("code")
        if not isinstance(code, str) or code not in FAILURES:
            return ModelFailure("model-crashed", "its answer is damaged")
        detail = str(stated.get("detail", ""))[:200]
        return ModelFailure(code, "".join(char for char in detail if char.isprintable()))

    def _parsed(self, answer: bytes) -> dict[str, Any]:
        try:
            return frames.parse(answer)
        except frames.Malformed:
            return {}

    def _bury(self, *, at_once: bool = False) -> str:
        """Kill the process and its children, if it lives; how it ended, for an operator."""
        process, self._process = self._process, None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if process is None:
            return "it was gone"
        # A process that closed its end is about to end by itself.
        patience = time.monotonic() + (0 if at_once else _LAST_BREATH)
        while not (ended := _ended(process)) and time.monotonic() < patience:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        if not ended:
            return "it was stopped"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _held(pid: int) -> int:
    """Memory (bytes) of a process that is its own; libraries and other files do not count.

    What CUDA and allocators reserve counts once it is used, memory of a GPU never (proc(5)).
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    return sum(int(kilobytes) * 1024 for kilobytes in _OWN_MEMORY.findall(status))


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; leaves its id taken, so that its group can be killed."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
