"""The memory of an isolated network: it takes no more than it may, and others live."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tiny_networks as tiny

from models.runtime.base import ModelFailure, Session
from models.runtime.isolated import IsolatedSession
from models.runtime.opening import open_session
from models.runtime.options import Options

#: torch itself takes a third of it.
LIMIT = 1_000_000_000
OPTIONS = Options(threads=1, isolated_bytes=LIMIT)
ZEROS = np.zeros((1, 1, 2, 2, 2), np.float32)
ONES = np.ones_like(ZEROS)


def failing(session: Session | IsolatedSession, batch: Any) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        session.run({"image": batch})
    return caught.value


class Watch:
    """The most memory (bytes) that a process was seen to hold."""

    def __init__(self, pid: int) -> None:
        self._process, self._done = psutil.Process(pid), threading.Event()
        self.most = 0
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._done.wait(0.01):
            try:
                self.most = max(self.most, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def test_a_network_that_grows_without_end_is_stopped_and_others_live(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    good = tiny.write_torchscript(tmp_path / "good", isolate=True)
    other = IsolatedSession(good, tmp_path / "good", OPTIONS)
    runtime = tiny.write_torchscript(tmp_path, tiny.Grows(), isolate=True, deadline_s=120.0)
    session = IsolatedSession(runtime, tmp_path, OPTIONS)
    assert not session.run({"image": ZEROS})["pred"].any()
    pid = session.pid
    assert pid is not None
    with Watch(pid) as watch:
        assert failing(session, ONES).code == "model-memory"
    # Libraries are seen too, some 0.2 GB.
    assert LIMIT < watch.most < LIMIT * 1.5, "it grew, and not far beyond"
    assert session.pid is None
    # The next study gets a new process.
    assert not session.run({"image": ZEROS})["pred"].any()
    assert session.pid not in (pid, None)
    batch = tiny.images(1)
    assert np.abs(other.run({"image": batch})["pred"] - tiny.eager(batch)).max() < 1e-5
    session.close()
    other.close()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_onnx_network_that_wants_too_much(tmp_path: Path, engine: str) -> None:
    runtime = tiny.write_greedy_onnx(tmp_path, isolate=True, engine=engine)
    session = open_session(runtime, tmp_path, OPTIONS)
    assert not session.run({"image": ZEROS})["pred"].any()
    # 4 bytes each of a thousand million. OpenVINO answers nonsense when it does not get them.
    assert failing(session, ONES * 1000).code == "model-memory"
    assert not session.run({"image": ZEROS})["pred"].any()
    session.close()


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    import torch

    class Heavy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(100_000_000))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + self.weight[0]

    runtime = tiny.write_torchscript(tmp_path, Heavy(), isolate=True)
    with pytest.raises(ModelFailure) as caught:
        IsolatedSession(runtime, tmp_path, OPTIONS)
    assert caught.value.code == "model-memory"


def test_where_the_machine_has_less_this_process_goes_first(tmp_path: Path) -> None:
    runtime = tiny.write_torchscript(tmp_path, isolate=True)
    session = IsolatedSession(runtime, tmp_path, OPTIONS)
    score = Path(f"/proc/{session.pid}/oom_score").read_text()
    assert int(score) > int(Path("/proc/self/oom_score").read_text())
    session.close()


def test_memory_that_is_only_reserved_does_not_count(tmp_path: Path) -> None:
    """As CUDA does by many times what it uses."""
    runtime = tiny.write_torchscript(tmp_path, tiny.Reserves(), isolate=True)
    session = IsolatedSession(runtime, tmp_path, OPTIONS)
    assert not session.run({"image": ZEROS})["pred"].any()
    session.close()
