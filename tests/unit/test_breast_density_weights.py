"""Weights: safetensors without its package, and the converter."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.breast_density import network
from models.breast_density.convert import main, read_published
from models.breast_density.tensors import (
    TensorFileError,
    format_tensors,
    parse_tensors,
    read_tensors,
)

WEIGHTS = Path(network.__file__).with_name("weights.safetensors")
TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1.5], np.float32),
}


def packed(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_what_is_written_is_read() -> None:
    data = format_tensors(TENSORS, "a test")
    found = parse_tensors(data)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], tensor)
    assert format_tensors(dict(reversed(TENSORS.items())), "a test") == data
    # The format aligns the bytes behind the header to eight.
    assert int.from_bytes(data[:8], "little") % 8 == 0


BODY = np.ones(2, np.float32).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        (1 << 62).to_bytes(8, "little") + BODY,
        packed(b"\xff\xfe", BODY),
        packed([], BODY),
        packed({"a": 7}, BODY),
        packed({"a": {"dtype": "F32"}}, BODY),
        packed({"a": entry(0, 8, 2, dtype="F64")}, BODY),
        packed({"a": entry(0, 8, 3)}, BODY),
        packed({"a": entry(0, 12, 3)}, BODY),
        packed({"a": entry(0, 8, -2)}, BODY),
        packed({"a": entry(0, 4, 1)}, BODY),
        packed({"a": entry(4, 8, 1)}, BODY),
        packed({"a": entry(0, 8, 2), "b": entry(4, 8, 1)}, BODY),
        packed({"a": entry(0, 4, 1), "b": entry(0, 4, 1)}, BODY),
        packed({"a": entry(0, 8, 2)}, np.array([1, np.nan], np.float32).tobytes()),
        packed({"a": entry(0, 8, 2)}, np.array([1, np.inf], np.float32).tobytes()),
    ],
    ids=range(17),
)
def test_what_is_not_safetensors_of_float32_is_refused(data: bytes) -> None:
    with pytest.raises(TensorFileError):
        parse_tensors(data)


def test_another_hash_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    data = format_tensors(TENSORS, "a test")
    path.write_bytes(data)
    assert read_tensors(path, hashlib.sha256(data).hexdigest()).keys() == TENSORS.keys()
    path.write_bytes(data[:-1] + b"\x41")
    with pytest.raises(TensorFileError, match="sha256"):
        read_tensors(path, hashlib.sha256(data).hexdigest())


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
    with pytest.raises(TensorFileError, match="sha256"):
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
