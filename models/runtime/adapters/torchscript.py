"""Modules of `torch.jit.save`.

Their archive holds TorchScript, which runs in torch's own interpreter, and a pickle, which
torch's C++ unpickler reads: neither reaches Python. Code that opens files is refused.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from models.manifest.runtimes import TorchScriptRuntime
from models.runtime.archives import check_operators, check_script
from models.runtime.base import ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified


def load(runtime: TorchScriptRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session around the module.

    Raises:
        ModelFailure: `weights-unsafe`, `weights-corrupt` or `weights-size`.
    """
    import torch

    from models.runtime.adapters.torch_session import module_session

    (file,) = files
    check_script(file.data, file.file)
    try:
        with warnings.catch_warnings():
            # Deprecated by torch since 2.10; files of this kind stay in use.
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(file.data), map_location="cpu"
            )
    except (RuntimeError, ValueError) as error:
        raise ModelFailure("weights-corrupt", f"{file.file}: {type(error).__name__}") from error
    check_operators(_kinds(module), file.file)
    return module_session(
        module,
        [tensor.name for tensor in runtime.inputs],
        [tensor.name for tensor in runtime.outputs],
        options.device,
        runtime.autocast,
    )


def _kinds(module: Any) -> Iterator[str]:
    """Kinds of all nodes of the code that a call runs, with what it calls in its place."""
    # Held until the end: its nodes and blocks do not keep it.
    graph = module.inlined_graph
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes():
            yield node.kind().rpartition("::")[2]
            waiting.extend(node.blocks())
