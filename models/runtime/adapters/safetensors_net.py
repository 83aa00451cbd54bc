"""Weights in safetensors, and a network class of the package `models`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.manifest.runtimes import SafetensorsRuntime
from models.runtime.base import ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified

if TYPE_CHECKING:
    import torch


def load(runtime: SafetensorsRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session around the network.

    Raises:
        ModelFailure: `model-not-installed`: no such class; `weights-corrupt`: no safetensors,
            or not the tensors of this network.
    """
    from models.runtime.adapters.torch_session import module_session

    (file,) = files
    network = _build(runtime)
    load_state(network, file)
    return module_session(
        network,
        [tensor.name for tensor in runtime.inputs],
        [tensor.name for tensor in runtime.outputs],
        options.device,
        runtime.autocast,
    )


def load_state(network: torch.nn.Module, file: Verified) -> None:
    """Fill a network with the tensors of a safetensors file: exactly these, in these shapes.

    Raises:
        ModelFailure: `weights-corrupt`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    try:
        network.load_state_dict(read(file.data), strict=True)
    except SafetensorError as error:
        raise ModelFailure("weights-corrupt", f"{file.file} is no safetensors") from error
    except RuntimeError as error:
        raise ModelFailure("weights-corrupt", f"{file.file} is of another network") from error


def _build(runtime: SafetensorsRuntime) -> torch.nn.Module:
    import torch

    module_name, _, name = runtime.network.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelFailure("model-not-installed", runtime.network) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise ModelFailure("model-not-installed", f"{runtime.network} is no network")
    try:
        network: torch.nn.Module = kind(**runtime.arguments)
    except (TypeError, ValueError) as error:
        raise ModelFailure("model-not-installed", f"{runtime.network}: its arguments") from error
    return network
