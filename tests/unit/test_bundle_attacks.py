"""Configurations that MONAI reads otherwise than whoever checked them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.runtime.adapters.monai_parts import parsed
from models.runtime.base import ModelFailure
from models.runtime.options import Options

NETWORK = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}


def evil(tmp_path: Path) -> str:
    return f"$__import__('pathlib').Path({str(tmp_path / 'touched')!r}).touch()"


def build(config: dict[str, Any]) -> Any:
    return parsed(config, "network_def", Options())


def configs(code: str) -> dict[str, dict[str, Any]]:
    return {
        # `@##x` is x one level up for MONAI; for us it was an entry without a name.
        "relative": {"": {}, "network_def": {**NETWORK, "bias": "@##evil"}, "evil": code},
        "relative in an expression": {
            "": True,
            "network_def": {**NETWORK, "bias": "$bool(@##evil)"},
            "evil": code,
        },
        "root": {"": {}, "network_def": {**NETWORK, "bias": "@"}, "evil": code},
        # MONAI keeps entries by their paths: this one hides `c` in `b`.
        "hidden": {"network_def": {**NETWORK, "bias": "@b::c"}, "b": {"c": True}, "b::c": code},
        "hidden inside": {
            "network_def": {**NETWORK, "bias": "@a::b::c"},
            "a": {"b": {"c": True}, "b::c": code},
        },
    }


@pytest.mark.parametrize("name", sorted(configs("")))
def test_no_code_of_a_bundle_is_run(name: str, tmp_path: Path) -> None:
    try:
        build(configs(evil(tmp_path))[name])
    except ModelFailure as failure:
        assert failure.code in ("weights-unsafe", "weights-corrupt")
    assert not (tmp_path / "touched").exists()


def test_files_that_are_named_elsewhere_in_a_bundle_are_not_read(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"a": 1}))
    config = {"network_def": dict(NETWORK), "unused": f"%{tmp_path / 'missing.json'}::a"}
    assert build(config).in_features == 2
    with pytest.raises(ModelFailure, match="includes another file"):
        build({"network_def": {**NETWORK, "bias": f"%{other}::a"}})


@pytest.mark.parametrize(
    "expression",
    [
        "$bool('@or' + '@or')",
        "$monai.networks.nets.resnet18(True)",
        "$monai.networks.nets.densenet121(True, False)",
    ],
)
def test_expressions_that_become_others_or_download(expression: str) -> None:
    config = {"network_def": {**NETWORK, "bias": expression}, "or": True}
    with pytest.raises(ModelFailure) as caught:
        build(config)
    assert caught.value.code == "weights-unsafe"


def test_paths_into_other_entries_are_followed() -> None:
    config = {
        "network_def": {**NETWORK, "bias": "@flags#bias", "in_features": "$@flags::sizes::0 * 3"},
        "flags": {"bias": False, "sizes": [4]},
    }
    built = build(config)
    assert (built.bias, built.in_features) == (None, 12)
