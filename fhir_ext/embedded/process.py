"""Child processes that never outlive us, with their output in a file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fhir_ext.errors import UpstreamTimeout, UpstreamUnavailable

_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before exec so that the kernel ends it with its parent.

    Linux only. The signal is bound to the THREAD that forks: spawn from a thread that lives
    as long as the process (the main thread). Where the kernel has no such thing, a killed
    parent leaves its children to be stopped by hand.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


class ChildProcess:
    """One running child in its own session.

    Args:
        name: how people know it.
        command: program and arguments.
        log_file: where stdout and stderr go; appended to.
        environment: added to ours.
        cwd: working directory.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_file: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.log_file = name, log_file
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.poll()

    def alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        """Ask it to stop; does not wait."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything in its session at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to stop, wait `grace` seconds, then kill; returns when it is gone."""
        if self.alive():
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace)
        self.kill()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        if not self.log_file.exists():
            return ""
        text = self.log_file.read_text("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def wait_until(
    check: Callable[[], bool],
    timeout: float,
    what: str,
    child: ChildProcess | None = None,
    interval: float = 0.1,
) -> float:
    """Wait until `check` is true; fails early when `child` dies.

    Returns:
        Seconds waited.

    Raises:
        UpstreamUnavailable: the child ended; the message quotes the end of its output.
        UpstreamTimeout: `timeout` seconds went by.
    """
    begin = time.monotonic()
    while not check():
        if child is not None and not child.alive():
            raise UpstreamUnavailable(
                f"{child.name} ended with exit code {child.exit_code}:\n{child.tail()}",
                code="child-ended",
            )
        if time.monotonic() - begin > timeout:
            raise UpstreamTimeout(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(interval)
    return time.monotonic() - begin
