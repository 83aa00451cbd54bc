"""Networks that are damaged, lie, hang or crash: a reason for their study, the next one works."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import orjson
import pytest
import tiny_networks as tiny
import torch
from batching import Callers, manifest_of

from fhir_ext.errors import UpstreamError
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import OutgoingSettings
from models.manifest import Manifest
from models.runtime.base import ModelFailure
from models.runtime.host import Host, HostOptions
from models.runtime.isolated import IsolatedSession
from models.runtime.options import Options

GUARD = OutgoingGuard(OutgoingSettings(private_networks=True, plain_http=True))
#: Two items of one study.
IMAGE = np.ones((2, 1, 2, 2, 2), np.float32)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(HostOptions(device="cpu", options=Options(threads=1, guard=GUARD)))
    yield made
    made.close()


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


@pytest.fixture
def good(tmp_path: Path) -> tuple[Manifest, Path]:
    """A network without fault, which all others may not disturb."""
    place = folder(tmp_path, "good")
    return manifest_of(tiny.write_torchscript(place), name="good"), place


def works(host: Host, good: tuple[Manifest, Path]) -> None:
    batch = tiny.images(3)
    found = host.run(*good, {"image": batch}, study="next")["pred"]
    assert np.abs(found - tiny.eager(batch)).max() < 1e-5


def code_of(host: Host, manifest: Manifest, place: Path, image: tiny.Floats = IMAGE) -> str:
    with pytest.raises(ModelFailure) as caught:
        host.run(manifest, place, {"image": image}, study="bad")
    return caught.value.code


def test_a_file_that_is_not_the_one(
    host: Host, good: tuple[Manifest, Path], tmp_path: Path
) -> None:
    place = folder(tmp_path, "bad")
    manifest = manifest_of(tiny.write_torchscript(place))
    right = (place / "net.ts").read_bytes()
    (place / "net.ts").write_bytes(right[:-1] + b"?")
    assert code_of(host, manifest, place) == "weights-hash"
    works(host, good)
    (place / "net.ts").unlink()
    assert code_of(host, manifest, place) == "model-not-installed"
    # Put right, it works without a restart.
    (place / "net.ts").write_bytes(right)
    assert host.run(manifest, place, {"image": IMAGE})["pred"].shape == (2, 2, 2, 2, 2)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_damaged_file_whose_hash_is_right(
    host: Host, good: tuple[Manifest, Path], tmp_path: Path, isolate: bool
) -> None:
    place = folder(tmp_path, "bad")
    tiny.write_torchscript(place)
    data = (place / "net.ts").read_bytes()
    (place / "net.ts").write_bytes(data[: len(data) // 2])
    weights = tiny.file_of(place / "net.ts", place)
    manifest = manifest_of(tiny.runtime_of("torchscript", weights=weights, isolate=isolate))
    assert code_of(host, manifest, place) == "weights-corrupt"
    works(host, good)


@pytest.mark.parametrize(
    ("network", "code"),
    [(tiny.WrongShape(), "model-output"), (tiny.NotANumber(), "model-not-finite")],
)
def test_answers_that_may_not_be_used(
    host: Host,
    good: tuple[Manifest, Path],
    tmp_path: Path,
    network: torch.nn.Module,
    code: str,
) -> None:
    place = folder(tmp_path, "bad")
    manifest = manifest_of(tiny.write_torchscript(place, network))
    assert code_of(host, manifest, place, IMAGE * 0) == code
    works(host, good)


def test_nan_of_one_study_reaches_no_other(host: Host, tmp_path: Path) -> None:
    """All of them in one batch of a real network: zeros give NaN, anything else ones."""
    manifest = manifest_of(tiny.write_torchscript(tmp_path, tiny.NotANumber()), max_size=64)
    host.run(manifest, tmp_path, {"image": IMAGE})
    callers = Callers()
    for study in range(8):
        image = IMAGE * (0 if study == 5 else 1)
        ask = partial(host.run, manifest, tmp_path, {"image": image}, study=str(study))
        callers.start(str(study), ask)
    callers.join()
    assert callers.got.pop("5").code == "model-not-finite"
    assert all((found["pred"] == 1).all() for found in callers.got.values())


def hanging(place: Path, seconds: float, isolate: bool = True) -> Manifest:
    network = tiny.Forever()
    runtime = tiny.write_torchscript(place, network, isolate=isolate, deadline_s=seconds)
    return manifest_of(runtime, name="hangs", max_size=64)


def test_an_isolated_network_that_hangs(
    host: Host, good: tuple[Manifest, Path], tmp_path: Path
) -> None:
    place = folder(tmp_path, "bad")
    manifest = hanging(place, 2.0)
    zeros = IMAGE * 0
    host.run(manifest, place, {"image": zeros}, study="first")
    callers = Callers()
    begin = time.monotonic()
    callers.start("bad", partial(host.run, manifest, place, {"image": IMAGE}, study="bad"))
    time.sleep(0.3)
    # Others do not wait for it.
    works(host, good)
    assert time.monotonic() - begin < 1.8
    # A study that comes meanwhile gets its answer from a new process.
    callers.start("next", partial(host.run, manifest, place, {"image": zeros}, study="next"))
    callers.join(30)
    assert callers.got["bad"].code == "model-hung"
    assert not callers.got["next"]["pred"].any()
    (counts,) = [v for k, v in host.statistics().items() if k[0] == "hangs"]
    assert counts.batches == 3


def test_an_isolated_network_that_crashes(
    host: Host, good: tuple[Manifest, Path], tmp_path: Path
) -> None:
    place = folder(tmp_path, "bad")
    manifest = hanging(place, 60.0)
    zeros = IMAGE * 0
    host.run(manifest, place, {"image": zeros})
    callers = Callers()
    callers.start("bad", partial(host.run, manifest, place, {"image": IMAGE}, study="bad"))
    time.sleep(0.5)
    callers.start("next", partial(host.run, manifest, place, {"image": zeros}, study="next"))
    os.kill(process_of(host), signal.SIGSEGV)
    callers.join(30)
    assert callers.got["bad"].code == "model-crashed"
    assert not callers.got["next"]["pred"].any()
    works(host, good)


def process_of(host: Host) -> int:
    """Id of the only isolated network."""
    assert host._cache is not None
    for entry in host._cache._entries.values():
        inner = entry.session
        while inner is not None and not isinstance(inner, IsolatedSession):
            inner = getattr(inner, "_inner", None)
        if inner is not None and inner.pid is not None:
            return inner.pid
    raise AssertionError("no isolated network")


def test_a_network_that_hangs_in_the_worker_itself(
    host: Host, good: tuple[Manifest, Path], tmp_path: Path
) -> None:
    """It cannot be stopped; it is given up, and its thread with it."""
    place = folder(tmp_path, "bad")
    runtime = tiny.write_torchscript(place, Released(), deadline_s=0.5)
    manifest = manifest_of(runtime, name="hangs")
    threads = threading.active_count()
    assert code_of(host, manifest, place) == "model-hung"
    works(host, good)
    assert code_of(host, manifest, place) == "model-hung"
    assert threading.active_count() <= threads + 2


class Released(torch.nn.Module):
    """Works for two seconds, most of them too late, so that no thread outlives the tests."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        whole = torch.ones([400, 400])
        for _ in range(1500):
            whole = (whole @ whole).clamp(0.0, 1.0)
        return torch.cat([image, image], 1) + whole[0, 0] * 0


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


class Server:
    """A model server that stalls, talks nonsense, or answers ones."""

    def __init__(self) -> None:
        owner = self
        self.mood = "ones"

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if owner.mood == "stalls":
                    time.sleep(1.5)
                shape = asked["inputs"][0]["shape"]
                shape[1] = 2
                pred = {"name": "pred", "datatype": "FP32", "shape": shape}
                pred["data"] = [1.0] * int(np.prod(shape))
                body = orjson.dumps({"outputs": [pred]})
                if owner.mood == "nonsense":
                    body = b"<html>busy</html>"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def test_a_model_server_that_stalls_or_talks_nonsense(
    host: Host, good: tuple[Manifest, Path], server: Server, tmp_path: Path
) -> None:
    runtime = tiny.runtime_of("kserve", url=server.url, model="tiny", deadline_s=0.6)
    manifest = manifest_of(runtime, name="remote")
    server.mood = "stalls"
    callers = Callers()
    ask = partial(host.run, manifest, tmp_path, {"image": IMAGE}, study="bad")
    callers.start("bad", ask)
    time.sleep(0.1)
    begin = time.monotonic()
    works(host, good)
    assert time.monotonic() - begin < 0.5
    callers.join()
    assert isinstance(callers.got["bad"], UpstreamError)
    server.mood = "nonsense"
    # After a silence it is left alone for as long as it was waited for.
    time.sleep(runtime.deadline_s)
    assert code_of(host, manifest, tmp_path) == "model-answer"
    server.mood = "ones"
    assert (ask()["pred"] == 1).all()
    assert ("remote", "1.0.0", "remote") in host.statistics()


def test_a_server_that_may_not_be_called(good: tuple[Manifest, Path], tmp_path: Path) -> None:
    host = Host(HostOptions(device="cpu", options=Options(threads=1)))
    runtime = tiny.runtime_of("kserve", url="http://127.0.0.1:9", model="tiny")
    with pytest.raises(ModelFailure):
        host.run(manifest_of(runtime), tmp_path, {"image": IMAGE})
    works(host, good)
    host.close()
