"""The converter of the weights, and what the shipped ones say of themselves."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load, save

from models.breast_density import network
from models.breast_density.convert import SOURCE_NOTE, NotPublishedError, main, read_published
from models.registry import Registry

WEIGHTS = Path(network.__file__).with_name("weights.safetensors")


def test_the_same_tensors_give_the_bytes_that_the_manifest_names() -> None:
    data = WEIGHTS.read_bytes()
    again = save(load(data), {"source": SOURCE_NOTE})
    assert again == data
    runtime = Registry().manifest("breast-density").runtime
    assert hashlib.sha256(again).hexdigest() == runtime.weights.sha256


def test_shipped_weights_say_where_they_come_from() -> None:
    header = WEIGHTS.read_bytes()[8:400].decode("utf-8", "replace")
    assert "nyukat/breast_density_classifier" in header
    assert "BSD-2-Clause" in header
    licence = WEIGHTS.with_name("LICENSE.weights").read_text("utf-8")
    assert licence.startswith("BSD 2-Clause License")
    assert "Copyright (c) 2018, Nan Wu" in licence


def test_only_the_published_file_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotPublishedError, match="sha256"):
        read_published(b"\x80\x02cposix\nsystem\n")
    source, target = tmp_path / "model.p", tmp_path / "weights.safetensors"
    source.write_bytes(b"another file")
    for given in (source, tmp_path / "missing"):
        monkeypatch.setattr(sys, "argv", ["convert", str(given), str(target)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 1
    assert not target.exists()
    assert "sha256" in capsys.readouterr().err
