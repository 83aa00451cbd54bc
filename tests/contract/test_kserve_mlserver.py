"""The KServe runtime against a real MLServer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_networks as tiny
from model_server import running_mlserver

from fhir_ext.outgoing import OutgoingGuard, RefusedAddress
from fhir_ext.settings import OutgoingSettings
from models.manifest.runtimes import KServeRuntime
from models.runtime.base import ModelFailure
from models.runtime.opening import open_session
from models.runtime.options import Options

LOOPBACK = OutgoingGuard(OutgoingSettings(private_networks=True, plain_http=True))
OPTIONS = Options(guard=LOOPBACK)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlserver(tmp_path_factory.mktemp("mlserver")) as base:
        yield base


def runtime(server: str, **fields: object) -> KServeRuntime:
    found = tiny.runtime_of("kserve", **{"url": server, "model": "tiny", **fields})
    assert isinstance(found, KServeRuntime)
    return found


def test_numbers_are_those_of_torch(server: str, tmp_path: Path) -> None:
    session = open_session(runtime(server), tmp_path, OPTIONS)
    batch = tiny.images(5)
    whole = session.run({"image": batch})["pred"]
    assert whole.dtype == np.float32
    assert np.abs(whole - tiny.eager(batch)).max() < 1e-5
    for size in (1, 2, 3):
        parts = [session.run({"image": batch[i : i + size]})["pred"] for i in range(0, 5, size)]
        assert np.abs(np.concatenate(parts) - whole).max() < 1e-5
    session.close()
    versioned = open_session(runtime(server, model_version="1"), tmp_path, OPTIONS)
    assert np.array_equal(versioned.run({"image": batch})["pred"], whole)
    versioned.close()


def test_a_model_that_is_not_there(server: str, tmp_path: Path) -> None:
    session = open_session(runtime(server, model="other"), tmp_path, OPTIONS)
    with pytest.raises(ModelFailure) as caught:
        session.run({"image": tiny.images(1)})
    assert caught.value.code == "model-answer"
    session.close()


def test_an_address_that_is_not_allowed(server: str, tmp_path: Path) -> None:
    strict = Options(guard=OutgoingGuard(OutgoingSettings()))
    with pytest.raises(RefusedAddress):
        open_session(runtime(server), tmp_path, strict)
