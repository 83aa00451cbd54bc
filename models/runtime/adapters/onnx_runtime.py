"""ONNX files: by OpenVINO on the CPU, or by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from models.manifest.runtimes import OnnxRuntime
from models.runtime.base import Array, Arrays, ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified


class OnnxSession:
    """A session of ONNX Runtime. Inputs and outputs go by the names in the file.

    Args:
        session: `onnxruntime.InferenceSession`.
        memory_bytes: size of the file.
    """

    def __init__(self, session: Any, memory_bytes: int) -> None:
        self._session: Any = session
        self._bytes = memory_bytes

    @property
    def memory_bytes(self) -> int:
        return self._bytes

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`."""
        import onnxruntime  # type: ignore[import-untyped]

        if self._session is None:
            raise ModelFailure("model-failed", "the session is closed")
        names = [output.name for output in self._session.get_outputs()]
        try:
            found = self._session.run(names, dict(batch))
        except _errors(onnxruntime) as error:
            raise ModelFailure("model-failed", type(error).__name__) from error
        return dict(zip(names, found, strict=True))

    def close(self) -> None:
        self._session = None


def load(runtime: OnnxRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session of the engine that the manifest and the device ask for.

    Raises:
        ModelFailure: `weights-unsafe`: it refers to other files; `weights-corrupt`,
            `model-not-installed`, `model-output`.
    """
    (file,) = files
    _check(file, runtime)
    wanted = runtime.engine
    if wanted == "auto":
        wanted = "openvino" if options.device.kind == "cpu" else "onnxruntime"
    if wanted == "openvino" and not options.reference:
        from models.runtime.adapters.openvino_runtime import from_onnx

        return from_onnx(runtime, file, options)
    return _by_onnxruntime(file, options)


def _by_onnxruntime(file: Verified, options: Options) -> Session:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.use_deterministic_compute = True
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    providers: list[Any] = ["CPUExecutionProvider"]
    if options.device.kind == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ModelFailure("model-not-installed", "ONNX Runtime is the build without CUDA")
        choice = {"device_id": options.device.index, "use_tf32": 0}
        providers.insert(0, ("CUDAExecutionProvider", choice))
    try:
        session = onnxruntime.InferenceSession(file.data, settings, providers=providers)
    except _errors(onnxruntime) as error:
        raise ModelFailure("weights-corrupt", f"{file.file}: {type(error).__name__}") from error
    return OnnxSession(session, len(file.data))


def _errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    more = ("NoSuchFile", "NoModel", "RuntimeException", "EPFail", "ModelLoaded", "EngineError")
    own = tuple(getattr(state, name) for name in (*names, *more) if hasattr(state, name))
    return (*own, RuntimeError, ValueError)


def _check(file: Verified, runtime: OnnxRuntime) -> None:
    """The file holds its weights itself, and its tensors are those of the manifest, in order."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModelFailure("model-not-installed", f"{error.name} is not installed") from error
    try:
        model = onnx.load_model_from_string(file.data)
    except DecodeError as error:
        raise ModelFailure("weights-corrupt", f"{file.file} is no ONNX") from error
    # An empty file is a valid message of nothing.
    if not model.graph.node:
        raise ModelFailure("weights-corrupt", f"{file.file} holds no network")
    if any(_tensors_elsewhere(model.graph)):
        raise ModelFailure("weights-unsafe", f"{file.file} refers to other files")
    initial = {item.name for item in model.graph.initializer}
    inputs = [item.name for item in model.graph.input if item.name not in initial]
    outputs = [item.name for item in model.graph.output]
    declared = ([tensor.name for tensor in part] for part in (runtime.inputs, runtime.outputs))
    if [inputs, outputs] != list(declared):
        shown = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise ModelFailure("model-output", f"the tensors of the file are {shown}")


def _tensors_elsewhere(graph: Any) -> Iterator[bool]:
    """True for each tensor, also of inner graphs, whose data are in another file."""
    waiting = [graph]
    while waiting:
        item = waiting.pop()
        tensors = [*item.initializer, *(s.values for s in item.sparse_initializer)]
        for node in item.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs
                tensors += [attribute.t] if attribute.HasField("t") else []
                tensors += attribute.tensors
        # onnx.TensorProto.EXTERNAL
        yield from (tensor.data_location == 1 for tensor in tensors)
