"""Detection networks of torchvision, with weights in safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.manifest.runtimes import TorchvisionDetectionRuntime
from models.runtime.adapters.safetensors_net import load_state
from models.runtime.base import ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified

if TYPE_CHECKING:
    import torch

#: Names of the outputs, as the manifest must declare them.
OUTPUTS = ("boxes", "labels", "scores", "count")


def load(
    runtime: TorchvisionDetectionRuntime, files: Sequence[Verified], options: Options
) -> Session:
    """A session around the network.

    Raises:
        ModelFailure: `model-not-installed`: no such network; `weights-corrupt`;
            `model-output`: the manifest declares other outputs.
    """
    from models.runtime.adapters.torch_session import TorchSession
    from models.runtime.device import torch_device

    (file,) = files
    declared = {tensor.name for tensor in runtime.outputs}
    if declared != set(OUTPUTS) or len(runtime.inputs) != 1:
        raise ModelFailure("model-output", f"a detection network has {', '.join(OUTPUTS)}")
    network = _build(runtime)
    load_state(network, file)
    network.to(torch_device(options.device)).eval()
    return TorchSession(
        lambda images: _padded(network(list(images)), runtime.at_most),
        (*network.parameters(), *network.buffers()),
        [runtime.inputs[0].name],
        OUTPUTS,
        options.device,
        runtime.autocast,
    )


def _build(runtime: TorchvisionDetectionRuntime) -> torch.nn.Module:
    from torchvision import models  # type: ignore[import-untyped]

    if runtime.network not in models.list_models(module=models.detection):
        raise ModelFailure("model-not-installed", f"torchvision has no {runtime.network}")
    try:
        # Both default to a download.
        network: torch.nn.Module = models.get_model(
            runtime.network, weights=None, weights_backbone=None, **runtime.arguments
        )
    except (TypeError, ValueError) as error:
        raise ModelFailure("model-not-installed", f"{runtime.network}: its arguments") from error
    return network


def _padded(
    found: Sequence[Mapping[str, torch.Tensor]], at_most: int
) -> Mapping[str, torch.Tensor]:
    """Lists of different lengths as one tensor each; torchvision sorts them by score."""
    import torch

    counts = [min(at_most, len(item["scores"])) for item in found]
    padded: dict[str, Any] = {}
    for name in OUTPUTS[:-1]:
        first = found[0][name]
        whole = first.new_zeros((len(found), at_most, *first.shape[1:]))
        for row, (item, count) in enumerate(zip(found, counts, strict=True)):
            whole[row, :count] = item[name][:count]
        padded[name] = whole
    padded["count"] = torch.tensor(counts, dtype=torch.int64)
    return padded
