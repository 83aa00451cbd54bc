"""A network of two 3D convolutions in every form that a site may bring it in."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import nn

from models.manifest.runtimes import NetworkRuntime, Runtime

Floats = npt.NDArray[np.float32]
Json = dict[str, Any]

IMAGE = {"name": "image", "shape": ["n", 1, "d", "h", "w"]}
PRED = {"name": "pred", "shape": ["n", 2, "d", "h", "w"]}
#: Axes whose length an exported network leaves open.
OPEN = {0: "n", 2: "d", 3: "h", 4: "w"}


class TinyNet(nn.Module):
    """(n, 1, d, h, w) to (n, channels, d, h, w), both float32."""

    def __init__(self, features: int = 4, channels: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, features, 3, padding=1)
        self.second = nn.Conv3d(features, channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(image)))


class Forever(nn.Module):
    """Never answers for what is not zero. Scripted, so that it hangs in torch's interpreter."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        total = image
        while bool((total != 0).any()):
            total = total.abs() + 1
        return torch.cat([total, total], 1)


class Grows(nn.Module):
    """Takes memory without end for what is not zero."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        while bool((image != 0).any()):
            # Written to, since memory that is only asked for costs nothing.
            kept.append(torch.ones([10_000_000]) * float(len(kept)))
        # Were it not used, the list would be optimized away, and the loop with it.
        return torch.cat([image, image], 1) + float(len(kept))


class Reserves(nn.Module):
    """Asks for 4 GB and touches nothing of it, for as long as some looks take."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        large = torch.empty([1_000_000_000])
        total = torch.cat([image, image], 1)
        for _ in range(300_000):
            total = total * 0.5
        return total * float(large.numel() > 0)


class NotANumber(nn.Module):
    """Divides by the image: zeros give NaN, anything else gives ones."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        whole = image / image
        return torch.cat([whole, whole], 1)


class WrongShape(nn.Module):
    """One channel instead of two."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * 2


def tiny() -> TinyNet:
    """The same weights every time."""
    torch.manual_seed(20)
    return TinyNet().eval()


def images(count: int, seed: int = 7, shape: tuple[int, int, int] = (6, 8, 10)) -> Floats:
    """(count, 1, *shape), standard normal."""
    drawn = np.random.default_rng(seed).standard_normal((count, 1, *shape))
    return drawn.astype(np.float32)


def eager(batch: Floats, network: nn.Module | None = None) -> Floats:
    """What torch itself gives."""
    with torch.inference_mode():
        found: Floats = (network or tiny())(torch.from_numpy(batch)).numpy()
    return found


def file_of(path: Path, folder: Path) -> Json:
    """A file as the manifest names it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(folder).as_posix()
    return {"file": name, "sha256": digest, "licence": "Apache-2.0"}


def runtime_of(kind: str, **fields: Any) -> NetworkRuntime:
    """`runtime` of a manifest; the tensors of TinyNet unless told otherwise."""
    data = {"kind": kind, "inputs": [IMAGE], "outputs": [PRED], **fields}
    found: NetworkRuntime = TypeAdapter(Runtime).validate_python(data)
    return found


def exported(network: nn.Module) -> torch.export.ExportedProgram:
    dynamic = dict.fromkeys(OPEN, torch.export.Dim.AUTO)
    example = (torch.from_numpy(images(2)),)
    return torch.export.export(network, example, dynamic_shapes=(dynamic,))


def write_pt2(folder: Path, **fields: Any) -> NetworkRuntime:
    path = folder / "net.pt2"
    torch.export.save(exported(tiny()), path)
    return runtime_of("torch-export", weights=file_of(path, folder), **fields)


def write_torchscript(
    folder: Path, network: nn.Module | None = None, **fields: Any
) -> NetworkRuntime:
    path = folder / "net.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(network or tiny()).save(str(path))
    return runtime_of("torchscript", weights=file_of(path, folder), **fields)


def write_safetensors(folder: Path, **fields: Any) -> NetworkRuntime:
    """Needs `models.tiny_test:TinyNet`, which the tests put there."""
    from safetensors.torch import save_file

    path = folder / "net.safetensors"
    save_file(tiny().state_dict(), path)
    given = {"network": "models.tiny_test:TinyNet", "weights": file_of(path, folder), **fields}
    return runtime_of("safetensors", **given)


def write_onnx(folder: Path, **fields: Any) -> NetworkRuntime:
    path = folder / "net.onnx"
    with warnings.catch_warnings():
        # The exporter warns of its own use of torch.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            exported(tiny()),
            dynamo=True,
            input_names=["image"],
            output_names=["pred"],
            external_data=False,
            verbose=False,
        ).save(str(path))
    return runtime_of("onnx", weights=file_of(path, folder), **fields)


def write_greedy_onnx(folder: Path, **fields: Any) -> NetworkRuntime:
    """An ONNX network that repeats its image `image[0, 0, 0, 0, 0]` million times."""
    import onnx
    from onnx import TensorProto, helper

    many = helper.make_tensor("many", TensorProto.FLOAT, [], [1e6])
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [0])
    one = helper.make_tensor("one", TensorProto.INT64, [], [1])
    corner = helper.make_tensor("corner", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=0),
        helper.make_node("Gather", ["flat", "corner"], ["first"], axis=1),
        helper.make_node("Mul", ["first", "many"], ["wanted"]),
        helper.make_node("Cast", ["wanted"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Max", ["whole", "one"], ["count"]),
        helper.make_node("Squeeze", ["count", "corner"], ["shape"]),
        helper.make_node("Squeeze", ["first"], ["value"]),
        helper.make_node("Expand", ["value", "shape"], ["large"]),
        # An engine has to have the numbers for it, and cannot do without them.
        helper.make_node("CumSum", ["large", "axis"], ["summed"]),
        helper.make_node("ReduceMax", ["summed"], ["zero"], keepdims=0),
        helper.make_node("Add", ["image", "zero"], ["again"]),
        helper.make_node("Concat", ["again", "again"], ["pred"], axis=1),
    ]
    shape = [1, 1, 2, 2, 2]
    graph = helper.make_graph(
        nodes,
        "greedy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("pred", TensorProto.FLOAT, [1, 2, 2, 2, 2])],
        [many, one, corner, axis],
    )
    path = folder / "greedy.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path))
    return runtime_of("onnx", weights=file_of(path, folder), **fields)


def write_openvino(folder: Path, **fields: Any) -> NetworkRuntime:
    from models.runtime.adapters import openvino_runtime

    openvino_runtime._silence()
    import openvino

    model = openvino.convert_model(exported(tiny()))
    openvino.save_model(model, folder / "net.xml", compress_to_fp16=False)
    xml, weights = file_of(folder / "net.xml", folder), file_of(folder / "net.bin", folder)
    return runtime_of("openvino", model=xml, weights=weights, **fields)


#: `inference.json` as bundles of MONAI's model zoo have it, of a smaller network.
INFERENCE: Json = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
        "num_res_units": 0,
        "norm": "batch",
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": [1.5, 1.5, 2.0],
                "mode": "bilinear",
            },
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -57,
                "a_max": 164,
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [8, 8, 8],
        "sw_batch_size": 4,
        "overlap": 0.5,
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "eval"},
        ],
    },
    "checkpointloader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
}
METADATA: Json = {
    "version": "0.1.0",
    "monai_version": "1.6.1",
    "pytorch_version": "2.15.0",
    "numpy_version": "2.4.6",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "dtype": "float32", "value_range": [0, 1]}},
        "outputs": {"pred": {"num_channels": 2, "dtype": "float32"}},
    },
}


def bundle_network() -> nn.Module:
    from monai.networks.nets.unet import UNet

    torch.manual_seed(3)
    given = {k: v for k, v in INFERENCE["network_def"].items() if k != "_target_"}
    return UNet(**given).eval()


def write_bundle(
    folder: Path, change: Callable[[Json, Json], None] | None = None, **fields: Any
) -> NetworkRuntime:
    """A bundle folder: configs/inference.json, configs/metadata.json, models/model.pt."""
    root = folder / "bundle"
    config, metadata = json.loads(json.dumps([INFERENCE, METADATA]))
    if change is not None:
        change(config, metadata)
    for part in ("configs", "models"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "configs" / "inference.json").write_text(json.dumps(config), "utf-8")
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata), "utf-8")
    torch.save({"model": bundle_network().state_dict()}, root / "models" / "model.pt")
    given = {
        "folder": "bundle",
        "config": file_of(root / "configs" / "inference.json", folder),
        "metadata": file_of(root / "configs" / "metadata.json", folder),
        "weights": file_of(root / "models" / "model.pt", folder),
        **fields,
    }
    return runtime_of("monai-bundle", **given)
