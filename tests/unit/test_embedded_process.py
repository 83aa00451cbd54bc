"""Children end when asked, when killed, and when we are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fhir_ext.embedded.process import ChildProcess, free_port, wait_until
from fhir_ext.errors import SettingsError, UpstreamTimeout, UpstreamUnavailable

SLEEPER = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('started', flush=True); time.sleep(60)",
]
PARENT = """
import sys, time
from pathlib import Path
from fhir_ext.embedded.process import ChildProcess, wait_until
child = ChildProcess("sleeper", sys.argv[2:], Path(sys.argv[1]))
wait_until(lambda: "started" in child.tail(), 20, "start", child, 0.02)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "child.log"


@pytest.fixture
def sleeper(log_file: Path) -> Iterator[ChildProcess]:
    child = started(SLEEPER, log_file)
    yield child
    child.kill()


def started(command: list[str], log_file: Path) -> ChildProcess:
    child = ChildProcess("sleeper", command, log_file)
    wait_until(lambda: "started" in child.tail(), 20, "start", child, 0.02)
    return child


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_stop_asks_first(sleeper: ChildProcess) -> None:
    assert sleeper.alive() and sleeper.exit_code is None
    sleeper.stop()
    assert not sleeper.alive()
    assert sleeper.exit_code == -signal.SIGTERM


def test_stop_kills_what_does_not_listen(log_file: Path) -> None:
    child = started(STUBBORN, log_file)
    child.stop(grace=0.2)
    assert child.exit_code == -signal.SIGKILL


def test_stop_twice_is_harmless(sleeper: ChildProcess) -> None:
    sleeper.stop()
    sleeper.stop()


def test_child_is_the_program_itself_in_its_own_session(sleeper: ChildProcess) -> None:
    assert psutil.Process(sleeper.pid).cmdline() == SLEEPER
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


def test_stop_ends_grandchildren(log_file: Path) -> None:
    script = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid); p.wait()"
    child = started([sys.executable, "-u", "-c", script, *SLEEPER], log_file)
    (grandchild,) = psutil.Process(child.pid).children()
    child.stop()
    wait_until(lambda: gone(grandchild.pid), 5, "the end of the grandchild", interval=0.02)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's death signal")
def test_child_dies_with_a_killed_parent(log_file: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log_file), *SLEEPER], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(pid), 5, "the end of the child", interval=0.02)


def test_environment_is_added_to_ours(log_file: Path) -> None:
    script = "import os; print(os.environ['PATH'] != '', os.environ['OF_CHILD'])"
    child = ChildProcess(
        "printer", [sys.executable, "-c", script], log_file, environment={"OF_CHILD": "yes"}
    )
    wait_until(lambda: not child.alive(), 20, "the end of the child", interval=0.02)
    assert child.exit_code == 0
    assert child.tail() == "True yes"


def test_tail_gives_the_last_lines_of_a_long_log(log_file: Path) -> None:
    script = "for n in range(50000): print('line', n)"
    child = ChildProcess("printer", [sys.executable, "-c", script], log_file)
    wait_until(lambda: not child.alive(), 20, "the end of the child", interval=0.02)
    assert child.tail(2) == "line 49998\nline 49999"


def test_missing_program_is_named(log_file: Path) -> None:
    with pytest.raises(SettingsError, match="no-such-program is not installed"):
        ChildProcess("none", ["no-such-program"], log_file)


def test_only_the_main_thread_may_start_children(log_file: Path) -> None:
    seen: list[str] = []

    def start() -> None:
        try:
            ChildProcess("sleeper", SLEEPER, log_file)
        except RuntimeError as error:
            seen.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert seen == ["children are started from the main thread only"]


def test_wait_until_fails_early_and_quotes_the_log(log_file: Path) -> None:
    child = ChildProcess("broken", [sys.executable, "-c", "raise SystemExit('no disk')"], log_file)
    begin = time.monotonic()
    with pytest.raises(UpstreamUnavailable, match="exit code 1:\nno disk") as caught:
        wait_until(lambda: False, 60, "readiness", child)
    assert time.monotonic() - begin < 30
    assert caught.value.code == "child-ended"


def test_wait_until_has_a_limit(sleeper: ChildProcess) -> None:
    with pytest.raises(UpstreamTimeout, match=r"readiness did not happen within 0 s.*\nstarted"):
        wait_until(lambda: False, 0.1, "readiness", sleeper)


def test_free_port_can_be_bound() -> None:
    assert 1024 <= free_port() <= 65535
