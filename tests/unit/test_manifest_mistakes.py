"""Mistakes of somebody who writes a first manifest: where it is, what is wrong, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.manifest import ManifestError, read_manifest

TEXT = """\
id: some-model
version: 1.0.0
title: Some model
licence: Apache-2.0
intended_use: Tests.
not_for: Anything else.
review: always
inputs:
  modality: [CT]
  min_slices: 20
gates:
  - rule: slice-thickness
    max: 3.0
preprocessing:
  orientation: SPL
runtime:
  kind: torchscript
  weights:
    file: network.pt
    sha256: "0000000000000000000000000000000000000000000000000000000000000000"
    licence: Apache-2.0
  inputs:
    - {name: volume, shape: [n, 1, z, y, x]}
  outputs:
    - {name: mean, shape: [n, 1]}
outputs:
  - {name: mean, region: lungs, unit: "1", valid: [0, 1], tensor: mean}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("  min_slices", "   min_slices", "10: expected <block end>, but found '<block mapping"),
        ("  min_slices", "\tmin_slices", "with spaces, not with tabs"),
        ("title: Some", "title: Some: more", "3: mapping values are not allowed here: a text with"),
        ("title: Some model", "id: other", "3: the key `id` appears twice"),
        ("version: 1.0.0", "version: 1.0", "2: version: must be text: put it in quotes"),
        ("version: 1.0.0", "version: v1.0.0", "2: version: must be three numbers, as 1.0.0"),
        ("id: some-model", "id: Some_Model", "1: id: must be lower-case letters and digits"),
        ("licence: A", "license: A", "4: license: is no field here"),
        ("[CT]", "CT", "9: inputs.modality: must be a list, as [a, b]"),
        ("SPL", "SPX", "15: preprocessing.orientation: must have one letter each of R or L"),
        ("slice-thickness", "slice-thicknes", "; did you mean slice-thickness?"),
        ("kind: torchscript", "kind: pytorch", "runtime: kind must be one of operators, torch-"),
        ('"0000', '"ABCD', "20: runtime.weights.sha256: must be 64 hex digits in lower case"),
        (TEXT, "- a\n", "1: manifest: must be lines of `key: value`"),
        (TEXT, "", "1: manifest: must be lines of `key: value`"),
    ],
)
def test_what_is_said(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(TEXT, "utf-8")
    read_manifest(path)
    path.write_text(TEXT.replace(right, wrong, 1), "utf-8")
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert said in error.value.message


def test_what_follows_from_something_else_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(TEXT.replace("region: lungs", "region: lung"), "utf-8")
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert [item.field for item in error.value.problems] == ["outputs.0.region"]


@pytest.mark.parametrize(
    ("data", "said"), [(None, "there is no such file"), (b"\xff\xfe", "is no text in UTF-8")]
)
def test_a_file_that_is_no_text(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "manifest.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ManifestError, match=said):
        read_manifest(path)
