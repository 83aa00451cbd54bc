"""Child processes that never outlive us, with their output in a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fhir_ext.errors import SettingsError, UpstreamTimeout, UpstreamUnavailable

#: How much of a log file `tail` looks at, in bytes.
_TAIL_BYTES = 64 * 1024

# Runs in the child: asks the kernel for SIGKILL when the parent dies (PR_SET_PDEATHSIG = 1),
# then becomes the program. A shim and not `preexec_fn`, which may deadlock where other
# threads run. The parent may have died before the call, hence the look at its pid.
_SHIM = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[3:])
"""


def free_port() -> int:
    """A TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_open(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class ChildProcess:
    """One running child in its own session, which the kernel kills when we die (Linux).

    The death signal is bound to the thread that spawns, so only the main thread may: a child
    of a passing thread would be killed with it. Elsewhere than on Linux a killed parent
    leaves its children to be stopped by hand.

    Args:
        name: how people know it.
        command: program and arguments.
        log_file: where stdout and stderr go; appended to.
        environment: added to ours.
        cwd: working directory.

    Raises:
        SettingsError: the program is not on this machine.
        RuntimeError: called from another thread than the main thread.
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
                _dies_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                start_new_session=True,
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
        if self.alive():
            self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything in its session at once."""
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to stop, wait `grace` seconds, then kill; returns when it is gone."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace)
        # Also when it went by itself: what it had started may still run.
        self.kill()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as log:
            log.seek(max(0, self.log_file.stat().st_size - _TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _dies_with_us(command: Sequence[str]) -> list[str]:
    program = shutil.which(command[0])
    if program is None:
        raise SettingsError(f"{command[0]} is not installed", code="program-missing")
    if not sys.platform.startswith("linux"):
        return [program, *command[1:]]
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are started from the main thread only")
    return [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), program, *command]


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
            quote = f"; its last output:\n{child.tail()}" if child is not None else ""
            raise UpstreamTimeout(f"{what} did not happen within {timeout:.0f} s{quote}")
        time.sleep(interval)
    return time.monotonic() - begin
