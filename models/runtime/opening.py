"""From a manifest's `runtime` to a session that keeps its promises."""

from __future__ import annotations

import importlib
from pathlib import Path

from models.manifest.runtimes import KServeRuntime, NetworkRuntime
from models.runtime.base import ModelFailure, Session
from models.runtime.batches import BatchedSession
from models.runtime.checked import CheckedSession
from models.runtime.options import Options
from models.runtime.weights import read_weights

_ADAPTERS = {
    "torch-export": "torch_export",
    "torchscript": "torchscript",
    "safetensors": "safetensors_net",
    "torchvision-detection": "torchvision_detection",
    "onnx": "onnx_runtime",
    "openvino": "openvino_runtime",
    "monai-bundle": "monai_bundle",
    "kserve": "kserve",
}


def open_session(runtime: NetworkRuntime, folder: Path, options: Options) -> Session:
    """Verify the files of a network, load it, and guard it.

    What comes out is checked at every call; batches of any size are cut to what fits; a
    network with `isolate` lives in a process of its own.

    Args:
        runtime: of the manifest.
        folder: of the manifest.
        options: what the installation decides.

    Raises:
        ModelFailure: it cannot be loaded.
        RefusedAddress: a remote server that may not be called.
        UpstreamError: a remote server is down.
    """
    inner: Session
    if runtime.isolate:
        from models.runtime.isolated import IsolatedSession

        inner = IsolatedSession(runtime, folder, options)
    else:
        inner = load_adapter(runtime, folder, options)
    checked = CheckedSession(inner, runtime.inputs, runtime.outputs)
    return BatchedSession(checked, options.max_batch, runtime.fixed_batch)


def load_adapter(runtime: NetworkRuntime, folder: Path, options: Options) -> Session:
    """The session of the adapter itself, in this process and without checks."""
    kind: str = getattr(runtime, "kind", "")
    files = read_weights(folder, runtime.files(), options.max_weights_bytes)
    try:
        module = importlib.import_module(f"models.runtime.adapters.{_ADAPTERS[kind]}")
        session: Session = module.load(runtime, files, options)
    except ModuleNotFoundError as error:
        raise ModelFailure("model-not-installed", f"{error.name} is not installed") from error
    return session


def memory_needed(runtime: NetworkRuntime, folder: Path) -> int:
    """Bytes that a session will probably hold, before it is loaded.

    Raises:
        ModelFailure: `model-not-installed`: a file is missing.
    """
    if runtime.memory_mb is not None:
        return int(runtime.memory_mb * 1e6)
    if isinstance(runtime, KServeRuntime):
        return 0
    try:
        return 2 * sum((folder / item.file).stat().st_size for item in runtime.files())
    except OSError as error:
        raise ModelFailure("model-not-installed", "a file of the model is missing") from error
