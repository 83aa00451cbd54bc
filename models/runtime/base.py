"""What the rest of the project sees of a network: a session, and how it fails."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy.typing as npt

from fhir_ext.errors import ParkedWork

Array = npt.NDArray[Any]
#: Tensor name of the manifest to array; the first axis counts the items of the batch.
Arrays = Mapping[str, Array]

#: Every code of a ModelFailure (CodeSystem `task-reason`), in words for an operator.
FAILURES: Mapping[str, str] = MappingProxyType(
    {
        "model-not-installed": "a file or a library of the model is missing",
        "weights-hash": "a file of the model is not the one that the manifest names",
        "weights-size": "a file of the model is over the size limit",
        "weights-corrupt": "a file of the model cannot be read",
        "weights-unsafe": "a file of the model holds code of a kind that is not loaded",
        "model-input": "the network was shown what its manifest does not declare",
        "model-output": "the network answered what its manifest does not declare",
        "model-not-finite": "the network answered NaN or infinity",
        "model-failed": "the network raised an error",
        "model-crashed": "the process of the network ended",
        "model-hung": "the network did not answer in time and was stopped",
        "model-memory": "the network wanted more memory than it may have and was stopped",
        "model-answer": "the model server answered nonsense",
        "model-disagrees": "two runtimes of the same network do not agree",
        "device-memory": "the device has too little memory for the network",
    }
)


#: What libraries raise over a file that they cannot read or a call that they cannot manage.
LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class ModelFailure(ParkedWork):
    """A network gives no number that may be used; the study waits for a human.

    Args:
        code: a key of FAILURES.
        detail: what exactly, without anything of the input beyond its shape.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        reason = FAILURES[code]
        super().__init__(f"{reason}: {detail}" if detail else reason, code=code)


class OutOfDeviceMemory(Exception):
    """A batch does not fit; a smaller one may. Never leaves `models.runtime`."""


class Session(Protocol):
    """A loaded network. `run` may be called from several threads."""

    @property
    def memory_bytes(self) -> int:
        """What it holds on its device between calls; an estimate."""

    def run(self, batch: Arrays) -> dict[str, Array]:
        """Outputs for a batch of at least one item; the batch is not changed.

        Raises:
            ModelFailure: no output that may be used.
            UpstreamError: a remote server is down or slow.
        """

    def close(self) -> None:
        """Give everything back; `run` must not be called afterwards."""
