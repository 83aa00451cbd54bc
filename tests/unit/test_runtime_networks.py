"""Every kind of network file gives torch's own numbers, whatever the batch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks as tiny
import torch
from tiny_fixtures import put_tiny_net

from models.manifest.runtimes import NetworkRuntime
from models.runtime.agreement import check_engine
from models.runtime.base import ModelFailure, Session
from models.runtime.opening import load_adapter, memory_needed, open_session
from models.runtime.options import Options

ONE = Options(threads=1)
#: Largest difference from eager torch in float32, for outputs of size about 1.
CLOSE = 1e-5
#: Name to (writer, fields, class of the adapter's session).
KINDS: dict[str, tuple[Callable[..., NetworkRuntime], dict[str, Any], str]] = {
    "torch-export": (tiny.write_pt2, {"engine": "torch"}, "TorchSession"),
    "torch-export by OpenVINO": (tiny.write_pt2, {}, "OpenVinoSession"),
    "torchscript": (tiny.write_torchscript, {}, "TorchSession"),
    "safetensors": (tiny.write_safetensors, {}, "TorchSession"),
    "onnx": (tiny.write_onnx, {"engine": "onnxruntime"}, "OnnxSession"),
    "onnx by OpenVINO": (tiny.write_onnx, {}, "OpenVinoSession"),
    "openvino": (tiny.write_openvino, {}, "OpenVinoSession"),
}


@pytest.fixture(scope="module", autouse=True)
def tiny_net() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        put_tiny_net(patch)
        yield


@pytest.fixture(scope="module", params=KINDS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, NetworkRuntime, Path, Session]]:
    folder = tmp_path_factory.mktemp("network")
    write, fields, _ = KINDS[request.param]
    runtime = write(folder, **fields)
    session = open_session(runtime, folder, ONE)
    yield request.param, runtime, folder, session
    session.close()


def test_numbers_are_those_of_torch(opened) -> None:
    _, _, _, session = opened
    batch = tiny.images(3)
    found = session.run({"image": batch})
    assert found.keys() == {"pred"}
    assert found["pred"].dtype == np.float32
    assert np.abs(found["pred"] - tiny.eager(batch)).max() < CLOSE
    assert np.abs(found["pred"]).max() > 0.1


def test_the_adapter_is_the_one_that_was_asked_for(opened) -> None:
    name, runtime, folder, _ = opened
    inner = load_adapter(runtime, folder, ONE)
    assert type(inner).__name__ == KINDS[name][2]
    assert inner.memory_bytes >= sum(p.numel() * 4 for p in tiny.tiny().parameters())
    assert memory_needed(runtime, folder) >= inner.memory_bytes
    inner.close()
    with pytest.raises(ModelFailure, match="closed"):
        inner.run({"image": tiny.images(1)})


def test_the_batch_size_changes_no_number(opened) -> None:
    _, _, _, session = opened
    batch = tiny.images(5)
    whole = session.run({"image": batch})["pred"]
    for size in (1, 2, 3, 4):
        parts = [session.run({"image": batch[i : i + size]})["pred"] for i in range(0, 5, size)]
        assert np.abs(np.concatenate(parts) - whole).max() < CLOSE


def test_other_sizes_of_images(opened) -> None:
    _, _, _, session = opened
    batch = tiny.images(1, shape=(9, 5, 7))
    assert np.abs(session.run({"image": batch})["pred"] - tiny.eager(batch)).max() < CLOSE


def test_arrays_of_any_layout_and_read_only(opened) -> None:
    _, _, _, session = opened
    batch = tiny.images(2)
    flipped = batch[:, :, ::-1]
    wanted = tiny.eager(np.ascontiguousarray(flipped))
    assert np.abs(session.run({"image": flipped})["pred"] - wanted).max() < CLOSE
    locked = batch.copy()
    locked.flags.writeable = False
    found = session.run({"image": locked})["pred"]
    assert np.abs(found - tiny.eager(batch)).max() < CLOSE
    found[...] = 0
    assert np.array_equal(locked, batch)


def test_several_threads_at_once(opened) -> None:
    _, _, _, session = opened
    batches = [tiny.images(2, seed) for seed in range(4)]
    found: dict[int, tiny.Floats] = {}

    def work(index: int) -> None:
        for _ in range(5):
            found[index] = session.run({"image": batches[index]})["pred"]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, batch in enumerate(batches):
        assert np.abs(found[index] - tiny.eager(batch)).max() < CLOSE


def test_a_fixed_batch_is_filled_and_cut(tmp_path: Path) -> None:
    fixed = [{**part, "shape": [4, *part["shape"][1:]]} for part in (tiny.IMAGE, tiny.PRED)]
    runtime = tiny.write_torchscript(tmp_path, inputs=fixed[:1], outputs=fixed[1:])
    session = open_session(runtime, tmp_path, ONE)
    batch = tiny.images(6)
    assert np.abs(session.run({"image": batch})["pred"] - tiny.eager(batch)).max() < CLOSE


def test_autocast_by_manifest(tmp_path: Path) -> None:
    """Other numbers, but near, and in the declared type."""
    runtime = tiny.write_safetensors(tmp_path, autocast="bfloat16")
    batch = tiny.images(2)
    found = open_session(runtime, tmp_path, ONE).run({"image": batch})["pred"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - tiny.eager(batch)).max() < 0.05


@pytest.mark.parametrize("write", [tiny.write_pt2, tiny.write_onnx])
def test_openvino_is_compared_with_what_the_file_was_made_for(
    write: Callable[..., NetworkRuntime], tmp_path: Path
) -> None:
    batches = [{"image": tiny.images(2, seed)} for seed in range(3)]
    found = check_engine(write(tmp_path), tmp_path, ONE, batches)
    assert found is not None
    assert (found.holds, found.batches, found.output) == (True, 3, "pred")
    assert check_engine(tiny.write_torchscript(tmp_path), tmp_path, ONE, batches) is None


def test_openvino_that_differs_too_much(tmp_path: Path) -> None:
    """ONNX Runtime in float32 against OpenVINO in bfloat16, where the processor has it."""
    strict = {"absolute": 1e-12, "relative": 0.0}
    runtime = tiny.write_onnx(tmp_path, agreement=strict, autocast="bfloat16")
    found = check_engine(runtime, tmp_path, ONE, [{"image": tiny.images(1)}])
    assert found is not None
    assert not found.holds
    with pytest.raises(ModelFailure, match="do not agree: pred by"):
        found.require()


def test_openvino_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    load_adapter(tiny.write_pt2(tmp_path), tmp_path, ONE)
    from openvino.tools.ovc import convert_impl, telemetry_utils

    for module in (convert_impl, telemetry_utils):
        assert module.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
    assert sys.modules["openvino_telemetry"] is None


def test_a_torchvision_detection_network(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(5)
    arguments: dict[str, Any] = {"num_classes": 3, "score_thresh": 0.2}
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, **arguments)
    path = tmp_path / "net.safetensors"
    save_file(network.eval().state_dict(), path)
    runtime = tiny.runtime_of(
        "torchvision-detection",
        network="ssdlite320_mobilenet_v3_large",
        arguments=arguments,
        at_most=5,
        weights=tiny.file_of(path, tmp_path),
        inputs=[{"name": "image", "shape": ["n", 3, "h", "w"]}],
        outputs=[
            {"name": "boxes", "shape": ["n", 5, 4]},
            {"name": "labels", "shape": ["n", 5], "dtype": "int64"},
            {"name": "scores", "shape": ["n", 5]},
            {"name": "count", "shape": ["n"], "dtype": "int64"},
        ],
    )
    drawn = np.random.default_rng(1).random((2, 3, 320, 320)).astype(np.float32)
    session = open_session(runtime, tmp_path, ONE)
    found = session.run({"image": drawn})
    with torch.inference_mode():
        wanted = network([torch.from_numpy(image) for image in drawn])
    for row, item in enumerate(wanted):
        count = min(5, len(item["scores"]))
        assert count > 0
        assert found["count"][row] == count
        assert np.abs(found["boxes"][row, :count] - item["boxes"][:count].numpy()).max() < 1e-3
        assert np.abs(found["scores"][row, :count] - item["scores"][:count].numpy()).max() < 1e-5
        assert found["labels"][row, :count].tolist() == item["labels"][:count].tolist()
        assert not found["boxes"][row, count:].any()
    alone = session.run({"image": drawn[1:]})
    assert np.abs(alone["boxes"] - found["boxes"][1:]).max() < 1e-2


def test_a_monai_bundle_runs_as_its_configuration_says(tmp_path: Path) -> None:
    from monai.inferers.inferer import SlidingWindowInferer

    batch = tiny.images(2, shape=(12, 8, 8))
    inferer = SlidingWindowInferer(roi_size=[8, 8, 8], sw_batch_size=4, overlap=0.5)
    with torch.inference_mode():
        raw = inferer(torch.from_numpy(batch), tiny.bundle_network())
    plain = open_session(tiny.write_bundle(tmp_path, postprocess=False), tmp_path, ONE)
    assert np.abs(plain.run({"image": batch})["pred"] - raw.numpy()).max() < CLOSE
    labels = [{"name": "pred", "shape": ["n", 1, "d", "h", "w"]}]
    finished = open_session(tiny.write_bundle(tmp_path, outputs=labels), tmp_path, ONE)
    found = finished.run({"image": batch})["pred"]
    assert np.array_equal(found, raw.argmax(1, keepdim=True).numpy())
    assert set(np.unique(found)) == {0, 1}
    one = np.concatenate([finished.run({"image": batch[i : i + 1]})["pred"] for i in (0, 1)])
    assert np.array_equal(one, found)
