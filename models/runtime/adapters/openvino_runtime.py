"""OpenVINO: IR files, exported programs of torch, and ONNX files, on the CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.manifest.runtimes import LocalNetwork, OpenVinoRuntime
from models.runtime.base import Array, Arrays, ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class OpenVinoSession:
    """A compiled model. Inputs and outputs go by position, in the manifest's order.

    Args:
        compiled: `openvino.CompiledModel`.
        inputs, outputs: names, in order.
        memory_bytes: size of the weights.
    """

    def __init__(
        self, compiled: Any, inputs: Sequence[str], outputs: Sequence[str], memory_bytes: int
    ) -> None:
        self._compiled: Any = compiled
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._bytes = memory_bytes

    @property
    def memory_bytes(self) -> int:
        return self._bytes

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`."""
        if self._compiled is None:
            raise ModelFailure("model-failed", "the session is closed")
        given = {index: batch[name] for index, name in enumerate(self._inputs)}
        try:
            # A request of its own for each call: requests are not safe between threads.
            request = self._compiled.create_infer_request()
            request.infer(given)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelFailure("model-failed", type(error).__name__) from error
        return {
            name: request.get_output_tensor(index).data.copy()
            for index, name in enumerate(self._outputs)
        }

    def close(self) -> None:
        self._compiled = None


def load(runtime: OpenVinoRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session of an IR (.xml and .bin).

    Raises:
        ModelFailure: `weights-corrupt` or `model-not-installed`.
    """
    core = _core()
    model, weights = files
    try:
        read = core.read_model(model=model.data, weights=weights.data)
    except RuntimeError as error:
        raise ModelFailure("weights-corrupt", f"{model.file}: {type(error).__name__}") from error
    return _compile(core, read, runtime, options, len(weights.data))


def from_program(runtime: LocalNetwork, program: ExportedProgram, options: Options) -> Session:
    """A session of a program of torch.

    Raises:
        ModelFailure: `model-not-installed`, also when OpenVINO cannot convert it.
    """
    core = _core()
    try:
        converted = _converter()(program)
    except (RuntimeError, ValueError) as error:
        raise ModelFailure("model-not-installed", "OpenVINO cannot convert it") from error
    size = sum(item.numel() * item.element_size() for item in program.state_dict.values())
    return _compile(core, converted, runtime, options, size)


def from_onnx(runtime: LocalNetwork, file: Verified, options: Options) -> Session:
    """A session of an ONNX file.

    Raises:
        ModelFailure: `weights-corrupt` or `model-not-installed`.
    """
    core = _core()
    try:
        read = core.read_model(model=file.data)
    except RuntimeError as error:
        raise ModelFailure("weights-corrupt", f"{file.file}: {type(error).__name__}") from error
    return _compile(core, read, runtime, options, len(file.data))


def _compile(core: Any, model: Any, runtime: LocalNetwork, options: Options, size: int) -> Session:
    if len(model.inputs) != len(runtime.inputs) or len(model.outputs) != len(runtime.outputs):
        counts = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise ModelFailure("model-output", f"the file has {counts}")
    # Its own choice would be bfloat16 wherever the processor has it: other numbers.
    precision = "bf16" if runtime.autocast == "bfloat16" else "f32"
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": "1"}
    if options.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    try:
        compiled = core.compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise ModelFailure("model-not-installed", "OpenVINO cannot compile it") from error
    inputs = [tensor.name for tensor in runtime.inputs]
    return OpenVinoSession(compiled, inputs, [tensor.name for tensor in runtime.outputs], size)


def _core() -> Any:
    _silence()
    try:
        import openvino  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModelFailure("model-not-installed", "openvino is not installed") from error
    return openvino.Core()


def _converter() -> Any:
    return importlib.import_module("openvino").convert_model


def _silence() -> None:
    """Keep OpenVINO's converter from reporting each use to its maker over the network.

    It does so unless the user said no in a file of the home folder. Without the package
    `openvino_telemetry` it uses a stub of its own.

    Raises:
        ModelFailure: the converter was imported by somebody else before.
    """
    loaded = sys.modules.get("openvino.tools.ovc.telemetry_utils")
    if loaded is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    elif not loaded.tm.__name__.endswith("telemetry_stub"):
        raise ModelFailure("model-not-installed", "OpenVINO's usage reports are on")
