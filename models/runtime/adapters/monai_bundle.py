"""MONAI bundles: network, inferer and postprocessing as `inference.json` has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from models.manifest.runtimes import MonaiBundleRuntime, Tensor
from models.runtime.adapters import monai_detector
from models.runtime.adapters.monai_parts import fill_network, formats_of, parsed
from models.runtime.base import ModelFailure, Session
from models.runtime.bundle_config import Json, transforms
from models.runtime.options import Options
from models.runtime.weights import Verified


def load(runtime: MonaiBundleRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session that calls the bundle's inferer with the bundle's network.

    Raises:
        ModelFailure: `weights-corrupt`, `weights-unsafe`; `model-output`: the bundle's
            metadata speak of other tensors than the manifest.
    """
    from models.runtime.adapters.torch_session import TorchSession
    from models.runtime.device import torch_device

    config, metadata = _json(files[0]), _json(files[1])
    if runtime.detector is not None:
        return monai_detector.load(runtime, config, metadata, files[2], options)
    finish = _postprocessing(config) if runtime.postprocess else []
    _compare(runtime, metadata, reshaped=bool(finish))
    target = torch_device(options.device)
    network = parsed(config, runtime.network, options)
    import torch

    if not isinstance(network, torch.nn.Module):
        raise ModelFailure("weights-corrupt", f"{runtime.network} of the bundle is no network")
    fill_network(network, files[2])
    network.to(target).eval()
    call: Callable[..., Any] = network
    if runtime.inferer is not None and runtime.inferer in config:
        inferer = parsed(config, runtime.inferer, options)
        call = lambda image: inferer(inputs=image, network=network)  # noqa: E731
    return TorchSession(
        lambda image: _finished(call(image), finish),
        (*network.parameters(), *network.buffers()),
        [tensor.name for tensor in runtime.inputs],
        [tensor.name for tensor in runtime.outputs],
        options.device,
        runtime.autocast,
    )


def _json(file: Verified) -> Json:
    try:
        found = json.loads(file.data)
    except (ValueError, RecursionError) as error:
        raise ModelFailure("weights-corrupt", f"{file.file} is no JSON") from error
    if not isinstance(found, dict):
        raise ModelFailure("weights-corrupt", f"{file.file} is no JSON object")
    return found


def _postprocessing(config: Json) -> list[Callable[[Any], Any]]:
    """Activation and discretization of the bundle, for one item without its batch axis."""
    from monai.transforms.post.array import Activations, AsDiscrete

    known = {
        "Activationsd": (Activations, ("sigmoid", "softmax")),
        "AsDiscreted": (AsDiscrete, ("argmax", "to_onehot", "threshold")),
    }
    found: list[Callable[[Any], Any]] = []
    for item in transforms(config, "postprocessing"):
        name = str(item.get("_target_", "")).rpartition(".")[2]
        if name in known:
            kind, arguments = known[name]
            given = {key: item[key] for key in arguments if item.get(key) is not None}
            if not all(isinstance(value, bool | int | float) for value in given.values()):
                raise ModelFailure("weights-unsafe", f"{name} of the bundle has other arguments")
            found.append(kind(**given))
    return found


def _finished(found: Any, steps: Sequence[Callable[[Any], Any]]) -> Any:
    """A tensor (batch, channel, ...) after the steps; a dict or list is left as it is."""
    import torch

    if not steps or not isinstance(found, torch.Tensor):
        return found
    items = []
    for item in found:
        for step in steps:
            item = step(item)
        items.append(torch.as_tensor(item))
    return torch.stack(items)


def _compare(runtime: MonaiBundleRuntime, metadata: Json, *, reshaped: bool) -> None:
    """The manifest's tensors against `network_data_format` of the metadata.

    Args:
        reshaped: the postprocessing may have changed the outputs' channels and element type.
    """
    formats = formats_of(metadata)
    for part, declared in (("inputs", runtime.inputs), ("outputs", runtime.outputs)):
        stated = formats.get(part)
        if not isinstance(stated, dict) or list(stated) != [tensor.name for tensor in declared]:
            names = ", ".join(stated) if isinstance(stated, dict) else "none"
            raise ModelFailure("model-output", f"{part} of the bundle: {names}")
        if part == "outputs" and reshaped:
            continue
        for tensor in declared:
            _compare_tensor(tensor, stated[tensor.name])


def _compare_tensor(tensor: Tensor, stated: Any) -> None:
    entry = stated if isinstance(stated, dict) else {}
    channels, kind = entry.get("num_channels"), entry.get("dtype")
    ours = tensor.shape[1] if len(tensor.shape) > 1 else None
    if isinstance(channels, int) and isinstance(ours, int) and channels != ours:
        raise ModelFailure("model-output", f"{tensor.name} of the bundle has {channels} channels")
    if isinstance(kind, str) and kind != tensor.dtype:
        raise ModelFailure("model-output", f"{tensor.name} of the bundle is {kind}")
