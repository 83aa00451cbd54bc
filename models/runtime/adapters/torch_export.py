"""Programs of `torch.export.save` (.pt2): by torch, or by OpenVINO on the CPU."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.manifest.runtimes import TorchExportRuntime
from models.runtime.archives import check_exported, check_operators
from models.runtime.base import LIBRARY_ERRORS, ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def load(runtime: TorchExportRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session of the engine that the manifest and the device ask for.

    Raises:
        ModelFailure: `weights-unsafe`, `weights-corrupt`, `model-not-installed`.
    """
    (file,) = files
    program = read_program(file)
    wanted = runtime.engine
    if wanted == "auto":
        wanted = "openvino" if options.device.kind == "cpu" else "torch"
    if wanted == "openvino" and not options.reference:
        from models.runtime.adapters.openvino_runtime import from_program

        return from_program(runtime, program, options)
    return _by_torch(runtime, program, options)


def read_program(file: Verified) -> ExportedProgram:
    """The program in a `.pt2` without pickles (`archives.check_exported`).

    Raises:
        ModelFailure: `weights-unsafe` or `weights-corrupt`.
    """
    import torch

    check_exported(file.data, file.file)
    try:
        program = torch.export.load(io.BytesIO(file.data))
    except LIBRARY_ERRORS as error:
        raise ModelFailure("weights-corrupt", f"{file.file}: {type(error).__name__}") from error
    graphs = (part for part in program.graph_module.modules() if hasattr(part, "graph"))
    check_operators((node.target for part in graphs for node in part.graph.nodes), file.file)
    return program


def _by_torch(runtime: TorchExportRuntime, program: ExportedProgram, options: Options) -> Session:
    from torch.export.passes import move_to_device_pass

    from models.runtime.adapters.torch_session import TorchSession

    if options.device.kind != "cpu":
        program = move_to_device_pass(program, str(options.device))
    # An exported module has no `eval`: it was exported in the mode that it has.
    module: Any = program.module()
    return TorchSession(
        module,
        (*module.parameters(), *module.buffers()),
        [tensor.name for tensor in runtime.inputs],
        [tensor.name for tensor in runtime.outputs],
        options.device,
        runtime.autocast,
    )
