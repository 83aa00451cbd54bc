"""Files that are damaged, exchanged, too large, or more than weights: refused before use."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_networks as tiny
import torch
from tiny_fixtures import put_tiny_net

from models.manifest.runtimes import NetworkRuntime
from models.runtime.archives import check_exported
from models.runtime.base import FAILURES, ModelFailure
from models.runtime.opening import open_session
from models.runtime.options import Options
from models.runtime.weights import read_weights

WRITERS: dict[str, Callable[..., NetworkRuntime]] = {
    "torch-export": tiny.write_pt2,
    "torchscript": tiny.write_torchscript,
    "safetensors": tiny.write_safetensors,
    "onnx": tiny.write_onnx,
    "openvino": tiny.write_openvino,
    "monai-bundle": tiny.write_bundle,
}


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


@pytest.fixture(autouse=True)
def tiny_net(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    put_tiny_net(monkeypatch)
    yield


def refused(runtime: NetworkRuntime, folder: Path, **options: Any) -> str:
    with pytest.raises(ModelFailure) as caught:
        open_session(runtime, folder, Options(**options))
    assert caught.value.code in FAILURES
    assert str(folder) not in caught.value.message
    return caught.value.code


def rehashed(runtime: NetworkRuntime, folder: Path) -> NetworkRuntime:
    """The manifest of somebody who hashed the file as it is now."""
    data = runtime.model_dump(mode="json", exclude_unset=True)
    for field in ("weights", "model", "config", "metadata"):
        if field in data:
            data[field] = tiny.file_of(folder / data[field]["file"], folder)
    return tiny.runtime_of(data.pop("kind"), **data)


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    runtime = WRITERS[kind](tmp_path)
    path = tmp_path / runtime.files()[-1].file
    whole = path.read_bytes()
    # One bit of the weights: another network, which nothing but the hash can tell.
    path.write_bytes(whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:])
    assert refused(runtime, tmp_path) == "weights-hash"
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(runtime, tmp_path) == "weights-hash"
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-corrupt"
    for nonsense in (b"", b"\0" * 100, b"nothing of a network"):
        path.write_bytes(nonsense)
        assert refused(rehashed(runtime, tmp_path), tmp_path) in {
            "weights-corrupt",
            "weights-unsafe",
        }
    path.unlink()
    assert refused(runtime, tmp_path) == "model-not-installed"


def test_size_limit_over_all_files(tmp_path: Path) -> None:
    runtime = tiny.write_openvino(tmp_path)
    sizes = [(tmp_path / item.file).stat().st_size for item in runtime.files()]
    assert len(read_weights(tmp_path, runtime.files(), sum(sizes))) == 2
    assert refused(runtime, tmp_path, max_weights_bytes=sum(sizes) - 1) == "weights-size"


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    runtime = tiny.write_torchscript(inner)
    (inner / "net.ts").rename(tmp_path / "net.ts")
    (inner / "net.ts").symlink_to(tmp_path / "net.ts")
    assert refused(runtime, inner) == "model-not-installed"


def rewritten(data: bytes, change: Callable[[str, bytes], bytes], **more: bytes) -> bytes:
    """A zip archive with some entries changed and some added, below the same top folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in more.items():
            new.writestr(f"{top}/{name}", content)
    return target.getvalue()


def pickled(name: str, content: bytes) -> bytes:
    if not name.endswith("weights_config.json"):
        return content
    table = json.loads(content)
    for payload in table["config"].values():
        payload["use_pickle"] = True
    return json.dumps(table).encode()


def an_object(name: str, content: bytes) -> bytes:
    if not name.endswith("constants_config.json"):
        return content
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    return json.dumps({"config": {"thing": {**payload, "tensor_meta": None}}}).encode()


@pytest.mark.parametrize("change", [pickled, an_object])
def test_a_pt2_with_pickles_is_not_opened(
    change: Callable[[str, bytes], bytes], tmp_path: Path
) -> None:
    runtime = tiny.write_pt2(tmp_path)
    path = tmp_path / "net.pt2"
    whole = path.read_bytes()
    check_exported(whole, "net.pt2")
    bad = rewritten(whole, change)
    assert bad != rewritten(whole, lambda name, content: content)
    path.write_bytes(bad)
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-unsafe"


def test_a_bomb_in_the_sample_inputs_of_a_pt2(tmp_path: Path) -> None:
    """torch.export.load unpickles these without restriction when its first try fails."""
    runtime = tiny.write_pt2(tmp_path)
    path = tmp_path / "net.pt2"
    touched = tmp_path / "touched"
    buffer = io.BytesIO()
    torch.save((Bomb(touched),), buffer)

    def change(name: str, content: bytes) -> bytes:
        return buffer.getvalue() if "/data/sample_inputs/" in name else content

    path.write_bytes(rewritten(path.read_bytes(), change))
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-unsafe"
    assert not touched.exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/net.so", "data/weights/model.pt"])
def test_a_pt2_with_compiled_code_or_an_old_state(name: str, tmp_path: Path) -> None:
    runtime = tiny.write_pt2(tmp_path)
    path = tmp_path / "net.pt2"
    path.write_bytes(rewritten(path.read_bytes(), lambda _, content: content, **{name: b"x"}))
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-unsafe"


def test_an_archive_that_unpacks_to_much_more(tmp_path: Path) -> None:
    runtime = tiny.write_torchscript(tmp_path)
    with zipfile.ZipFile(tmp_path / "net.ts", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/0", bytes(150_000_000))
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-size"


def test_a_bomb_in_the_state_of_a_bundle(tmp_path: Path) -> None:
    runtime = tiny.write_bundle(tmp_path)
    touched = tmp_path / "touched"
    torch.save({"model": Bomb(touched)}, tmp_path / "bundle" / "models" / "model.pt")
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-unsafe"
    (tmp_path / "bundle" / "models" / "model.pt").write_bytes(
        pickle.dumps(Bomb(touched), protocol=2)
    )
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-unsafe"
    assert not touched.exists()


UNSAFE = [
    "$__import__('os').system('true')",
    "$open('/etc/hostname').read()",
    "$torch.load('other.pt', weights_only=False)",
    "$monai.networks.nets.unet.torch.load('x')",
    "$monai.networks.nets.unet.warnings.sys",
    "$@device.__class__",
    "$import os",
    "$(lambda: 1)()",
    "$[i for i in range(9)]",
    "$getattr(monai, 'config')",
    "$monai.bundle.run('x')",
    "$monai.networks.nets.UNet",
    "%other.json",
    {"_target_": "os.system", "command": "true"},
    {"_target_": "subprocess.run", "args": ["true"]},
    {"_target_": "monai.bundle.download", "name": "x"},
    {"_target_": "monai.networks.nets.unet.export"},
    {"_target_": "CheckpointLoader", "load_path": "x"},
    {"_target_": "UNet", "_mode_": "debug"},
    {"_target_": "monai.networks.nets.ResNet", "pretrained": True},
]


@pytest.mark.parametrize("value", UNSAFE, ids=str)
def test_a_bundle_that_runs_more_than_networks(value: Any, tmp_path: Path) -> None:
    def change(config: tiny.Json, metadata: tiny.Json) -> None:
        if value == "$monai.networks.nets.UNet":
            value_ = "$monai.networks.nets.UNet.__init__"
        else:
            value_ = value
        config["network_def"]["act"] = value_

    assert refused(tiny.write_bundle(tmp_path, change), tmp_path) == "weights-unsafe"


def test_expressions_of_real_bundles_are_allowed(tmp_path: Path) -> None:
    def change(config: tiny.Json, metadata: tiny.Json) -> None:
        config["width"] = 4
        config["channels"] = "$[@width, 2 * @width]"
        config["network_def"]["channels"] = "@channels"
        config["network_def"]["_target_"] = "monai.networks.nets.UNet"
        config["network"] = "$@network_def.to(@device)"

    runtime = tiny.write_bundle(tmp_path, change, network="network", postprocess=False)
    open_session(runtime, tmp_path, Options())


def test_a_bundle_of_other_tensors(tmp_path: Path) -> None:
    def channels(config: tiny.Json, metadata: tiny.Json) -> None:
        metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 4

    def name(config: tiny.Json, metadata: tiny.Json) -> None:
        metadata["network_data_format"]["outputs"] = {"mask": {}}

    def missing(config: tiny.Json, metadata: tiny.Json) -> None:
        del metadata["network_data_format"]

    def other(config: tiny.Json, metadata: tiny.Json) -> None:
        config["network_def"]["out_channels"] = 3

    codes = ["model-output", "model-output", "weights-corrupt", "weights-corrupt"]
    for change, code in zip((channels, name, missing, other), codes, strict=True):
        assert refused(tiny.write_bundle(tmp_path, change), tmp_path) == code


def test_an_onnx_file_that_refers_to_others(tmp_path: Path) -> None:
    import onnx

    runtime = tiny.write_onnx(tmp_path)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    assert refused(rehashed(runtime, tmp_path), tmp_path) == "weights-unsafe"


def test_an_onnx_file_with_other_tensors(tmp_path: Path) -> None:
    inputs = [{**tiny.IMAGE, "name": "other"}]
    assert refused(tiny.write_onnx(tmp_path, inputs=inputs), tmp_path) == "model-output"


def test_networks_that_are_not_there(tmp_path: Path) -> None:
    for network in ("models.tiny_test:Other", "models.nowhere:Net", "models.manifest:Manifest"):
        runtime = tiny.write_safetensors(tmp_path, network=network)
        assert refused(runtime, tmp_path) == "model-not-installed"
    runtime = tiny.write_safetensors(tmp_path, arguments={"depth": 3})
    assert refused(runtime, tmp_path) == "model-not-installed"
    runtime = tiny.write_safetensors(tmp_path, arguments={"features": 5})
    assert refused(runtime, tmp_path) == "weights-corrupt"


def test_every_failure_has_a_code() -> None:
    from fhir_ext.resources import codes

    assert set(FAILURES) <= {item.code for item in codes.TASK_REASON.codes}
