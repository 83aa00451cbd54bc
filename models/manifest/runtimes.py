"""What runs a model: operators in code, a network from a file, or a remote server."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from models.manifest.base import HashedFile, InnerPath, Part, Positive, Text

DType = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"
]
Argument = bool | int | float | str | None | tuple[bool | int | float | str | None, ...]

#: A length that is named, so that it is the same wherever the name stands; `*` is any.
_DIMENSION = re.compile(r"\*|[a-z][a-z0-9_]*")


def _dimension(value: int | str) -> int | str:
    if isinstance(value, int) and value < 1:
        raise ValueError("a length must be at least 1")
    if isinstance(value, str) and not _DIMENSION.fullmatch(value):
        raise ValueError("must be a length, a lower-case name, or *")
    return value


class Tensor(Part):
    """One input or output of a network.

    Attributes:
        name: in the network's file where it has names; else ours, in the network's order.
        shape: lengths of the axes. A name stands for a length that must be the same
            everywhere in one call; `*` for any. The first axis counts the items of a batch.
        dtype: element type, exactly.
        finite: whether NaN and infinity are errors, as they nearly always are.
    """

    name: Text
    shape: tuple[Annotated[int | str, AfterValidator(_dimension)], ...] = Field(min_length=1)
    dtype: DType = "float32"
    finite: bool = True


class Weights(HashedFile):
    """A file of weights.

    Attributes:
        licence: SPDX expression of the weights, which is often not that of the code.
        source: where they come from, for people.
    """

    licence: Text
    source: str = ""


class Tolerance(Part):
    """How far two runtimes may differ: `absolute + relative * |reference|`, everywhere."""

    absolute: Positive = 1e-3
    relative: float = Field(1e-3, ge=0)


class OperatorsRuntime(Part):
    """Image operators in code: no weights, always installed."""

    kind: Literal["operators"]


class NetworkRuntime(Part):
    """What all networks have.

    Attributes:
        inputs, outputs: checked at every call.
        isolate: run in a process of its own, which is stopped when it hangs or crashes.
        deadline_s: longest time for one call, where it can be enforced: in an isolated
            process and at a remote server.
        start_s: longest time for an isolated process until the network is loaded.
        memory_mb: what the network holds once loaded, in 10^6 bytes; twice the size of its
            weights when it is not stated.
    """

    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    isolate: bool = False
    deadline_s: Positive = 300.0
    start_s: Positive = 120.0
    memory_mb: Positive | None = None

    #: Fields that change no number.
    operational: ClassVar[frozenset[str]] = frozenset(
        {"isolate", "deadline_s", "start_s", "memory_mb"}
    )

    @field_validator("inputs", "outputs")
    @classmethod
    def _unique(cls, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise ValueError("two tensors have the same name")
        return tensors

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the network takes; None when it takes any."""
        first = self.inputs[0].shape[0]
        return first if isinstance(first, int) else None

    def files(self) -> tuple[Weights, ...]:
        """Every file that is read, in the order in which the adapter gets them."""
        return ()


class LocalNetwork(NetworkRuntime):
    """A network in one file.

    Attributes:
        weights: the file.
        autocast: element type that torch may calculate in instead of float32.
    """

    weights: Weights
    autocast: Literal["off", "bfloat16", "float16"] = "off"

    def files(self) -> tuple[Weights, ...]:
        return (self.weights,)


class TorchExportRuntime(LocalNetwork):
    """A program of `torch.export.save` (.pt2).

    Attributes:
        engine: `auto` is OpenVINO on the CPU and torch on GPUs.
        agreement: how far OpenVINO may be off torch; looked at before activation.
    """

    kind: Literal["torch-export"]
    engine: Literal["auto", "torch", "openvino"] = "auto"
    agreement: Tolerance = Tolerance()


class TorchScriptRuntime(LocalNetwork):
    """A module of `torch.jit.save`."""

    kind: Literal["torchscript"]


class SafetensorsRuntime(LocalNetwork):
    """Weights in safetensors and a network class of the package `models`.

    Attributes:
        network: `models.some_service.network:Net`, a `torch.nn.Module`.
        arguments: of its constructor.
    """

    kind: Literal["safetensors"]
    network: Annotated[str, Field(pattern=r"^models(\.[a-z][a-z0-9_]*)+:[A-Za-z_][A-Za-z0-9_]*$")]
    arguments: dict[str, Argument] = Field(default_factory=dict)


class TorchvisionDetectionRuntime(LocalNetwork):
    """A detection network of torchvision with weights in safetensors.

    Its inputs are one tensor (batch, channels, rows, columns) in 0 to 1; its outputs are
    called `boxes` (batch, n, 4), `labels` (batch, n), `scores` (batch, n), padded with
    zeros, and `count` (batch,), all of them float32 or int64 as torchvision has them.

    Attributes:
        network: name of the builder, for example `retinanet_resnet50_fpn_v2`.
        arguments: of the builder, for example `num_classes`.
        at_most: n, boxes of one image.
    """

    kind: Literal["torchvision-detection"]
    network: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    arguments: dict[str, Argument] = Field(default_factory=dict)
    at_most: int = Field(100, ge=1)


class OnnxRuntime(LocalNetwork):
    """An ONNX file with its weights inside.

    Attributes:
        engine: `auto` is OpenVINO on the CPU and ONNX Runtime on GPUs.
        agreement: how far OpenVINO may be off ONNX Runtime; looked at before activation.
    """

    kind: Literal["onnx"]
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    agreement: Tolerance = Tolerance()


class OpenVinoRuntime(LocalNetwork):
    """An OpenVINO IR: `weights` is the .bin, `model` the .xml.

    Attributes:
        model: the network's description.
    """

    kind: Literal["openvino"]
    model: Weights

    def files(self) -> tuple[Weights, ...]:
        return (self.model, self.weights)


class MonaiBundleRuntime(NetworkRuntime):
    """A MONAI bundle: `configs/inference.json`, `configs/metadata.json` and weights.

    Attributes:
        folder: of the bundle, inside the model's folder.
        config, metadata, weights: its files; their paths include `folder`.
        network: id of the network in `config`.
        inferer: id of the inferer in `config`; without it the network is called directly.
        postprocess: apply the activation and discretization of `config` to the output.
        detector: id of a detector of MONAI in `config`, which is called instead of network and
            inferer, with the box selection that `config` asks for. Its outputs are called
            `boxes` (batch, n, 4 or 6), corners in array indices; `labels` (batch, n), from 1;
            `scores` (batch, n), padded with zeros; and `count` (batch,).
        at_most: n, boxes of one item.
        autocast: element type that torch may calculate in instead of float32.
    """

    kind: Literal["monai-bundle"]
    folder: InnerPath
    config: Weights
    metadata: Weights
    weights: Weights
    network: Text = "network_def"
    inferer: str | None = "inferer"
    postprocess: bool = True
    detector: str | None = None
    at_most: int = Field(100, ge=1)
    autocast: Literal["off", "bfloat16", "float16"] = "off"

    def files(self) -> tuple[Weights, ...]:
        return (self.config, self.metadata, self.weights)


class KServeRuntime(NetworkRuntime):
    """A model of a server that speaks the Open Inference Protocol (KServe v2) over HTTP.

    Its weights and licence are the server's: what the manifest's author knows of them is in
    `licence` and the model card.

    Attributes:
        url: base, before `/v2`; an address that `outgoing` allows. No credentials in it.
        model, model_version: names at the server.
        max_mb: largest request and largest answer, in 10^6 bytes.
    """

    kind: Literal["kserve"]
    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    model_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    max_mb: Positive = 500.0

    operational: ClassVar[frozenset[str]] = NetworkRuntime.operational | {"url", "max_mb"}

    @model_validator(mode="after")
    def _remote(self) -> KServeRuntime:
        if self.isolate:
            raise ValueError("a remote model already runs in another process")
        return self


Runtime = Annotated[
    OperatorsRuntime
    | TorchExportRuntime
    | TorchScriptRuntime
    | SafetensorsRuntime
    | TorchvisionDetectionRuntime
    | OnnxRuntime
    | OpenVinoRuntime
    | MonaiBundleRuntime
    | KServeRuntime,
    Field(discriminator="kind"),
]

#: Names that pydantic puts into the path of an error, and that are in no file.
RUNTIME_KINDS = frozenset(
    {
        "operators",
        "torch-export",
        "torchscript",
        "safetensors",
        "torchvision-detection",
        "onnx",
        "openvino",
        "monai-bundle",
        "kserve",
    }
)


class Batching(Part):
    """How the batcher may fill the device; changes no number.

    Attributes:
        max_size: most items of one batch.
        max_wait_ms: how long an item may wait for others.
    """

    max_size: int = Field(1, ge=1)
    max_wait_ms: float = Field(10.0, ge=0)
