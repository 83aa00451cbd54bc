"""A real MLServer, installed once into an environment of its own, with the tiny network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
import tiny_networks as tiny

from fhir_ext.embedded.cache import cache_root, content_key, install
from fhir_ext.embedded.java import run_tool

SOURCES = Path(__file__).resolve().parents[1] / "clients" / "mlserver"
REQUIREMENTS = SOURCES / "requirements.txt"


def ensure_mlserver() -> Path:
    """The program `mlserver`; it needs other versions of our own dependencies."""
    uv = Path(sys.executable).with_name("uv")

    def build(target: Path) -> None:
        log_file = cache_root() / "logs" / "mlserver.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        # Relocatable: the folder is renamed when it is complete.
        make = [str(uv), "venv", "--relocatable", "--python", sys.executable, str(target / "venv")]
        run_tool("uv", make, log_file, print, cwd=target)
        python = str(target / "venv" / "bin" / "python")
        fill = [str(uv), "pip", "install", "--python", python, "-r", str(REQUIREMENTS)]
        run_tool("uv", fill, log_file, print, cwd=target)

    key = content_key((sys.version,), [REQUIREMENTS], SOURCES)
    return install("mlserver", key, build, print) / "venv" / "bin" / "mlserver"


@contextmanager
def running_mlserver(folder: Path) -> Iterator[str]:
    """Base URL of an MLServer on loopback whose model `tiny` is the tiny network."""
    program = ensure_mlserver()
    shutil.copy(SOURCES / "tiny_model.py", folder)
    state = {name: value.numpy() for name, value in tiny.tiny().state_dict().items()}
    np.savez(folder / "weights.npz", **state)
    tensor = {"datatype": "FP32", "shape": [-1, -1, -1, -1, -1]}
    model = {
        "name": "tiny",
        "implementation": "tiny_model.TinyModel",
        "parameters": {"uri": str(folder / "weights.npz"), "version": "1"},
        "inputs": [{"name": "image", **tensor}],
        "outputs": [{"name": "pred", **tensor}],
    }
    (folder / "model-settings.json").write_text(json.dumps(model), "utf-8")
    http, grpc, metrics = _free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "metrics_dir": str(folder / "metrics"),
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "metrics").mkdir()
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "start", str(folder)],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        )
    try:
        base = f"http://127.0.0.1:{http}"
        _wait(base, process, folder / "log")
        yield base
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _wait(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{base}/v2/models/tiny/ready", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"MLServer did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
