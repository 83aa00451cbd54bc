"""Answers of a model server that are made to hold or to fill a worker, and stolen credentials."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tiny_networks as tiny
from pydantic import SecretStr

from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import HttpAuth, OutgoingSettings
from models.manifest.runtimes import Tensor
from models.runtime.adapters.kserve import _read
from models.runtime.base import ModelFailure
from models.runtime.opening import open_session
from models.runtime.options import Options

TENSOR = Tensor(name="out", shape=("n", 4))
GOOD = {"name": "out", "datatype": "FP32", "shape": [1, 4], "data": [[1.0, 2, 3.5, -4]]}
#: As many bytes as a real answer has.
HOSTILE: dict[str, dict[str, Any]] = {
    "a product of megabytes": {"shape": [2**63 - 1] * 100_000},
    "texts as long as the longest": {"data": ["a" * 20_000] + ["b"] * 20_000},
    "a text among numbers": {"data": [1.0, 2.0, 3.0, "x" * 1000]},
    "objects": {"data": [{}, {}, {}, {}]},
}


def test_nested_numbers_are_read() -> None:
    assert _read(GOOD, {"out": TENSOR})[1].tolist() == [[1.0, 2.0, 3.5, -4.0]]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_costs_neither_time_nor_memory(name: str) -> None:
    tracemalloc.start()
    begin = time.monotonic()
    with pytest.raises(ModelFailure) as caught:
        _read({**GOOD, **HOSTILE[name]}, {"out": TENSOR})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "model-answer"
    assert time.monotonic() - begin < 2
    assert most < 50_000_000


@pytest.mark.parametrize(
    "auth",
    [
        HttpAuth(kind="bearer", token=SecretStr("secret")),
        HttpAuth(kind="basic", username="us", password=SecretStr("secret")),
    ],
)
def test_credentials_go_to_no_host_that_only_a_manifest_names(
    auth: HttpAuth, tmp_path: Path
) -> None:
    runtime = tiny.runtime_of("kserve", url="https://thief.example", model="m")
    anywhere = Options(guard=OutgoingGuard(OutgoingSettings()), auth=auth)
    with pytest.raises(ModelFailure, match=r"outgoing\.hosts") as caught:
        open_session(runtime, tmp_path, anywhere)
    assert caught.value.code == "model-not-installed"
    listed = OutgoingSettings(hosts=("thief.example",))
    open_session(runtime, tmp_path, Options(guard=OutgoingGuard(listed), auth=auth)).close()
