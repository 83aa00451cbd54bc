"""A network in a process of its own: it hangs, crashes or misbehaves, and others live."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tiny_networks as tiny

from models.runtime import frames
from models.runtime.base import ModelFailure
from models.runtime.isolated import IsolatedSession
from models.runtime.opening import open_session
from models.runtime.options import Options

ONE = Options(threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def isolated(folder: Path, network: Any = None, **fields: Any) -> IsolatedSession:
    runtime = tiny.write_torchscript(folder, network, isolate=True, **fields)
    return IsolatedSession(runtime, folder, ONE)


def code_of(session: Any, batch: Any) -> str:
    with pytest.raises(ModelFailure) as caught:
        session.run({"image": batch})
    return caught.value.code


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_numbers_are_the_same_as_without(folder: Path) -> None:
    runtime = tiny.write_torchscript(folder, isolate=True)
    session = open_session(runtime, folder, ONE)
    batch = tiny.images(3)
    assert np.abs(session.run({"image": batch})["pred"] - tiny.eager(batch)).max() < 1e-5
    assert session.memory_bytes == sum(p.numel() * 4 for p in tiny.tiny().parameters())
    session.close()


def test_a_network_that_hangs_is_stopped_and_others_live(folder: Path) -> None:
    (folder / "good").mkdir()
    good = isolated(folder / "good")
    session = isolated(folder, tiny.Forever(), deadline_s=2.0)
    ones, zeros = np.ones((1, 1, 2, 2, 2), np.float32), np.zeros((1, 1, 2, 2, 2), np.float32)
    assert not session.run({"image": zeros})["pred"].any()
    pid = session.pid
    assert pid is not None
    found: list[tiny.Floats] = []
    other = threading.Thread(target=lambda: found.append(good.run({"image": zeros})["pred"]))
    other.start()
    begin = time.monotonic()
    assert code_of(session, ones) == "model-hung"
    assert 1.9 < time.monotonic() - begin < 8
    assert gone(pid)
    other.join()
    assert np.abs(found[0] - tiny.eager(zeros)).max() < 1e-5
    # The next study gets a new process.
    assert not session.run({"image": zeros})["pred"].any()
    assert session.pid not in (pid, None)
    session.close()
    good.close()
    assert session.pid is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_network_that_crashes(folder: Path, number: signal.Signals) -> None:
    session = isolated(folder, tiny.Forever(), deadline_s=60.0)
    pid = session.pid
    assert pid is not None
    killer = threading.Timer(1.0, os.kill, (pid, number))
    killer.start()
    with pytest.raises(ModelFailure, match=f"signal {number}") as caught:
        session.run({"image": np.ones((1, 1, 2, 2, 2), np.float32)})
    assert caught.value.code == "model-crashed"
    zeros = np.zeros((1, 1, 2, 2, 2), np.float32)
    assert not session.run({"image": zeros})["pred"].any()
    # Between two calls nobody notices.
    os.kill(session.pid or 0, number)
    time.sleep(0.2)
    assert not session.run({"image": zeros})["pred"].any()
    session.close()


def test_what_the_network_answers_is_checked_outside_too(folder: Path) -> None:
    runtime = tiny.write_torchscript(folder, tiny.NotANumber(), isolate=True)
    session = open_session(runtime, folder, ONE)
    image = np.ones((1, 1, 2, 2, 2), np.float32)
    assert (session.run({"image": image})["pred"] == 1).all()
    assert code_of(session, image * 0) == "model-not-finite"
    # The process is the same: nothing was wrong with it.
    assert (session.run({"image": image})["pred"] == 1).all()
    session.close()
    runtime = tiny.write_torchscript(folder, tiny.WrongShape(), isolate=True)
    session = open_session(runtime, folder, ONE)
    assert code_of(session, image) == "model-output"
    session.close()


def test_errors_of_the_network_come_back(folder: Path) -> None:
    session = isolated(folder)
    assert code_of(session, np.ones((1, 3, 2, 2, 2), np.float32)) == "model-failed"
    batch = tiny.images(1)
    assert np.abs(session.run({"image": batch})["pred"] - tiny.eager(batch)).max() < 1e-5
    session.close()
    with pytest.raises(ModelFailure, match="closed"):
        session.run({"image": batch})


def test_a_network_that_cannot_be_loaded(folder: Path) -> None:
    runtime = tiny.write_torchscript(folder, isolate=True)
    (folder / "net.ts").write_bytes(b"other")
    with pytest.raises(ModelFailure) as caught:
        open_session(runtime, folder, ONE)
    assert caught.value.code == "weights-hash"


def test_a_start_that_takes_too_long(folder: Path) -> None:
    runtime = tiny.write_torchscript(folder, isolate=True, start_s=0.05)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ModelFailure) as caught:
        open_session(runtime, folder, ONE)
    assert caught.value.code == "model-hung"
    assert all(gone(child.pid) for child in psutil.Process().children() if child not in before)


def test_the_process_sees_no_secret_and_ends_with_the_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_EXT_INTAKE__HOOK_SECRET", "not-for-networks-0123")
    session = isolated(folder)
    assert session.pid is not None
    child = psutil.Process(session.pid)
    assert not [name for name in child.environ() if name.startswith("FHIR_EXT")]
    # What the kernel does to the worker's end of the channel when the worker is killed.
    assert session._channel is not None
    session._channel.shutdown(socket.SHUT_RDWR)
    until = time.monotonic() + 10
    while not gone(child.pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert gone(child.pid)
    session.close()


def test_a_network_that_hangs_ends_without_a_worker(folder: Path) -> None:
    """Its worker was killed while it calculated: nobody is left to stop it."""
    session = isolated(folder, tiny.Forever(), deadline_s=0.5)
    assert session._process is not None and session._channel is not None
    batch = frames.pack({"image": np.ones((1, 1, 2, 2, 2), np.float32)})
    frames.send(session._channel, frames.BATCH, batch, None)
    assert session._process.wait(30) == -signal.SIGALRM
    session.close()


def test_frames_between_processes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        deadline = time.monotonic() + 5
        frames.send(ours, frames.BATCH, b"x" * 100, deadline)
        assert frames.receive(theirs, deadline) == (frames.BATCH, b"x" * 100)
        with pytest.raises(TimeoutError):
            frames.receive(theirs, time.monotonic() + 0.05)
        ours.sendall(b"B" + b"\xff" * 8)
        with pytest.raises(frames.Malformed):
            frames.receive(theirs, deadline)
        ours.sendall(b"B" + (10).to_bytes(8, "big") + b"half")
        ours.close()
        with pytest.raises(frames.Closed):
            frames.receive(theirs, deadline)


def test_tensors_between_processes() -> None:
    batch = {"image": tiny.images(2)[:, :, ::-1], "mask": np.zeros((2, 0), np.int64)}
    found = frames.unpack(frames.pack(batch))
    assert all(np.array_equal(found[name], array) for name, array in batch.items())
    for data in (b"", b"\0" * 8, b"\x80\x04K\x01."):
        with pytest.raises(frames.Malformed):
            frames.unpack(data)
    for data in (b"[1]", b"{", b"\xff"):
        with pytest.raises(frames.Malformed):
            frames.parse(data)
