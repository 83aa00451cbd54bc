"""What networks and detectors of MONAI bundles have in common.

Importing MONAI takes seconds and hundreds of megabytes: it is imported inside functions.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

from models.runtime.adapters.safetensors_net import load_state
from models.runtime.base import LIBRARY_ERRORS, ModelFailure
from models.runtime.bundle_config import Json, check_config
from models.runtime.options import Options
from models.runtime.weights import Verified

if TYPE_CHECKING:
    import torch

#: Keys below which trainers of MONAI put a state.
_STATE_KEYS = ("model", "state_dict", "network")


def parsed(config: Json, name: str, options: Options) -> Any:
    """One entry of the configuration, built; on our device, whatever the bundle prefers."""
    from monai.bundle.config_parser import ConfigParser

    config = {**config, "device": f"$torch.device('{options.device}')"}
    checked = check_config(config, name)
    try:
        return ConfigParser(checked).get_parsed_content(name)
    except LIBRARY_ERRORS as error:
        raise ModelFailure("weights-corrupt", f"{name} of the bundle cannot be built") from error


def fill_network(network: torch.nn.Module, file: Verified) -> None:
    """Load the weights of a bundle into its network.

    Raises:
        ModelFailure: `weights-unsafe` or `weights-corrupt`.
    """
    import torch

    if file.file.endswith(".safetensors"):
        load_state(network, file)
        return
    try:
        state = torch.load(io.BytesIO(file.data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFailure("weights-unsafe", f"{file.file} is more than tensors") from error
    except LIBRARY_ERRORS as error:
        raise ModelFailure("weights-corrupt", f"{file.file}: {type(error).__name__}") from error
    for key in _STATE_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelFailure("weights-corrupt", f"{file.file} is of another network") from error


def formats_of(metadata: Json) -> Json:
    """`network_data_format` of a bundle's metadata.

    Raises:
        ModelFailure: there is none.
    """
    formats = metadata.get("network_data_format")
    if not isinstance(formats, dict):
        raise ModelFailure("weights-corrupt", "the metadata have no network_data_format")
    return formats
