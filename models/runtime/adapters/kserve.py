"""Models of a server that speaks the Open Inference Protocol (KServe v2) over HTTP/REST.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, the JSON
form, which every server has to take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import requests

from fhir_ext.clients.http import transport_errors
from fhir_ext.errors import UpstreamTimeout, UpstreamUnavailable
from fhir_ext.outgoing import read_bounded
from fhir_ext.settings import HttpAuth
from models.manifest.runtimes import KServeRuntime, Tensor
from models.runtime.base import Array, Arrays, ModelFailure, Session
from models.runtime.options import Options
from models.runtime.weights import Verified

#: Element types of the protocol.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_SERVER = "the model server"
#: Longest pause (s) after a silence.
_LONGEST_PAUSE = 30.0


class KServeSession:
    """A model elsewhere. Holds a pool of connections and nothing of the model.

    Args:
        runtime: of the manifest.
        session: of `OutgoingGuard.session`.
    """

    def __init__(self, runtime: KServeRuntime, session: requests.Session) -> None:
        self._runtime, self._session = runtime, session
        version = f"/versions/{quote(runtime.model_version)}" if runtime.model_version else ""
        self._url = f"{runtime.url.rstrip('/')}/v2/models/{quote(runtime.model)}{version}/infer"
        self._outputs = {tensor.name: tensor for tensor in runtime.outputs}
        self._silent_until = 0.0

    @property
    def memory_bytes(self) -> int:
        return 0

    def run(self, batch: Arrays) -> dict[str, Array]:
        """See `Session.run`.

        Raises:
            ModelFailure: `model-answer`: not what the protocol or the manifest say.
            UpstreamError: down, overloaded, or slower than `deadline_s`. After a silence the
                server is left alone for as long as it was waited for, 30 s at most: every
                study would wait for it anew.
        """
        if time.monotonic() < self._silent_until:
            raise UpstreamTimeout(f"{_SERVER} did not answer a moment ago")
        body = orjson.dumps(
            {
                "inputs": [_written(tensor, batch[tensor.name]) for tensor in self._runtime.inputs],
                "outputs": [{"name": name} for name in self._outputs],
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        if len(body) > self._runtime.max_mb * 1e6:
            raise ModelFailure("model-input", f"a request of {len(body)} bytes is over max_mb")
        try:
            answer = self._call(body)
        except UpstreamTimeout:
            self._silent_until = time.monotonic() + min(self._runtime.deadline_s, _LONGEST_PAUSE)
            raise
        listed = answer.get("outputs")
        if not isinstance(listed, list):
            raise ModelFailure("model-answer", "no outputs")
        found = dict(_read(item, self._outputs) for item in listed)
        if found.keys() != self._outputs.keys() or len(listed) != len(found):
            raise ModelFailure("model-answer", f"{len(listed)} outputs")
        return found

    def close(self) -> None:
        self._session.close()

    def _call(self, body: bytes) -> dict[str, Any]:
        deadline = time.monotonic() + self._runtime.deadline_s
        limit = int(self._runtime.max_mb * 1e6)
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        with (
            transport_errors(_SERVER),
            self._session.post(
                self._url,
                data=body,
                headers=headers,
                stream=True,
                timeout=self._runtime.deadline_s,
            ) as response,
        ):
            code = response.status_code
            if code in (408, 429) or code >= 500:
                raise UpstreamUnavailable(f"{_SERVER} answered {code}")
            data = read_bounded(response, _SERVER, limit, deadline)
        if code != 200:
            raise ModelFailure("model-answer", f"status {code}")
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ModelFailure("model-answer", "no JSON") from error
        if not isinstance(found, dict):
            raise ModelFailure("model-answer", "no JSON object")
        return found


def load(runtime: KServeRuntime, files: Sequence[Verified], options: Options) -> Session:
    """A session of a remote model. The server is not called yet.

    Raises:
        RefusedAddress: the installation does not allow the address.
        ModelFailure: `model-not-installed`: remote models are not allowed here at all, or
            our credentials would go to any host that a manifest names.
    """
    del files
    if options.guard is None:
        raise ModelFailure("model-not-installed", "remote models are not allowed here")
    if options.auth != HttpAuth() and not options.guard.names_hosts:
        raise ModelFailure("model-not-installed", "models.remote_auth needs outgoing.hosts")
    options.guard.check(runtime.url)
    session = options.guard.session(options.auth, timedelta(seconds=runtime.deadline_s))
    return KServeSession(runtime, session)


def _written(tensor: Tensor, array: Array) -> dict[str, Any]:
    # numpy's float16 is not known to orjson; float32 holds every one of them.
    wide = array.astype(np.float32) if array.dtype == np.float16 else array
    return {
        "name": tensor.name,
        "shape": list(array.shape),
        "datatype": DATATYPES[tensor.dtype],
        "data": np.ascontiguousarray(wide).reshape(-1),
    }


def _read(item: Any, outputs: dict[str, Tensor]) -> tuple[str, Array]:
    """(name, array) of one output of the answer."""
    entry = item if isinstance(item, dict) else {}
    tensor = outputs.get(str(entry.get("name")))
    if tensor is None:
        raise ModelFailure("model-answer", "an output that was not asked for")
    if entry.get("datatype") != DATATYPES[tensor.dtype]:
        raise ModelFailure("model-answer", f"{tensor.name} has another datatype")
    shape, data = entry.get("shape"), entry.get("data")
    if not isinstance(shape, list) or not all(map(_is_length, shape)):
        raise ModelFailure("model-answer", f"{tensor.name} has no shape")
    if len(shape) != len(tensor.shape):
        # Before they are multiplied: a list of a million lengths has a product of megabytes.
        raise ModelFailure("model-answer", f"{tensor.name} has {len(shape)} axes")
    if not isinstance(data, list):
        raise ModelFailure("model-answer", f"{tensor.name} has no data")
    if not _numbers(data):
        raise ModelFailure("model-answer", f"{tensor.name} holds something else than numbers")
    return tensor.name, _array(tensor, shape, data)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(data: list[Any]) -> bool:
    """Whether nested lists hold numbers only.

    JSON has no NaN: a server writes null. numpy makes every text as long as the longest one.
    """
    waiting = [data]
    while waiting:
        part = waiting.pop()
        kinds = set(map(type, part))
        if kinds == {list}:
            waiting.extend(part)
        elif not kinds <= {bool, int, float}:
            return False
    return True


def _array(tensor: Tensor, shape: list[int], data: list[Any]) -> Array:
    """The numbers in the tensor's type; nested lists are allowed by the protocol."""
    wanted = np.dtype(tensor.dtype)
    try:
        raw = np.array(data)
    except ValueError as error:
        raise ModelFailure("model-answer", f"{tensor.name} is ragged") from error
    kinds = {"b": "b", "f": "fiu"}.get(wanted.kind, "iu")
    if raw.size != math.prod(shape) or (raw.size and raw.dtype.kind not in kinds):
        raise ModelFailure("model-answer", f"{tensor.name} holds something else than numbers")
    if wanted.kind in "iu" and raw.size:
        limits = np.iinfo(wanted)
        if raw.min() < limits.min or raw.max() > limits.max:
            raise ModelFailure("model-answer", f"{tensor.name} holds numbers out of range")
    # What is too large becomes infinity, which is looked for with all that comes out.
    with np.errstate(over="ignore"):
        return raw.astype(wanted).reshape(shape)
