"""Modules of `torch.jit.save`.

Their archive holds TorchScript, which runs in torch's own interpreter, and a pickle, which
torch's C++ unpickler reads: neither reaches Python.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from models.manifest.runtimes import TorchScriptRuntime
from models.runtime.archives import open_archive
from models.runtime.base import ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified


def load(runtime: TorchScriptRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session around the module.

    Raises:
        ModelFailure: `weights-corrupt` or `weights-size`.
    """
    import torch

    from models.runtime.adapters.torch_session import module_session

    (file,) = files
    open_archive(file.data, file.file).close()
    try:
        with warnings.catch_warnings():
            # Deprecated by torch since 2.10; files of this kind stay in use.
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(file.data), map_location="cpu"
            )
    except (RuntimeError, ValueError) as error:
        raise ModelFailure("weights-corrupt", f"{file.file}: {type(error).__name__}") from error
    return module_session(
        module,
        [tensor.name for tensor in runtime.inputs],
        [tensor.name for tensor in runtime.outputs],
        options.device,
        runtime.autocast,
    )
