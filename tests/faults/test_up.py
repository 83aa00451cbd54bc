"""`fhir-ext up`: comes up, says where everything is, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests


def _start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FHIR_EXT_")}
    with (folder / "up.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fhir_ext", "up", "--dir", str(folder / "run")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _state(folder: Path, process: subprocess.Popen[bytes]) -> dict:
    path = folder / "run" / "state.json"
    deadline = time.monotonic() + 240
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None, (folder / "up.log").read_text()
        assert time.monotonic() < deadline, (folder / "up.log").read_text()
        time.sleep(0.2)
    return json.loads(path.read_text())


def _gone(pids: list[int], seconds: float = 30) -> list[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if _runs(pid)]
        if not alive:
            return []
        time.sleep(0.2)
    return alive


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_nothing_is_left_running(tmp_path: Path, number: signal.Signals) -> None:
    process = _start(tmp_path)
    try:
        state = _state(tmp_path, process)
        assert set(state["pids"]) == {"up", "issuer", "serve", "worker", "hapi", "archive"}
        assert (tmp_path / "run" / "state.json").stat().st_mode & 0o077 == 0
        page = state["urls"]["status page"]
        assert requests.get(f"{page}health/ready", timeout=30).status_code == 200
        children = [pid for name, pid in state["pids"].items() if name != "up"]
        assert all(_runs(pid) for pid in children)
        process.send_signal(number)
        code = process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert _gone(children) == []
    if number == signal.SIGINT:
        assert code == 0
        assert "everything is stopped" in (tmp_path / "up.log").read_text()
        assert not (tmp_path / "run" / "state.json").exists()
