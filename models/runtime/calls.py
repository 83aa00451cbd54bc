"""Items of one study on their way through a network, and batches made of several of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.runtime.base import Array, Arrays, ModelFailure, Session

#: Shape and element type of one item, by tensor.
Form = tuple[tuple[str, str, tuple[int, ...]], ...]
Outcome = dict[str, Array] | BaseException


class Call:
    """Items of one study for one session; their outputs come in parts, in any order.

    Args:
        session: what runs them.
        arrays: tensor name to array; the first axis counts the items.
        study: whose turn it is; a call without one is a study of its own.
        urgent: goes before what is not.
        end: called once, when the outputs or an error are there.

    Raises:
        ModelFailure: `model-input`: no items, or tensors of different lengths.
    """

    def __init__(
        self,
        session: Session,
        arrays: Arrays,
        study: str = "",
        urgent: bool = False,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self.items = items_of(arrays)
        self.session, self.arrays = session, arrays
        self.study, self.urgent = study or f"call {id(self)}", urgent
        #: Whether the same study may bring more.
        self.known = bool(study)
        self.entered = time.monotonic()
        self.taken = 0
        self.error: BaseException | None = None
        self._end = end
        self._left = self.items
        self._found: list[tuple[int, dict[str, Array]]] = []
        self._done = threading.Event()

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet; none after an error."""
        return 0 if self.error is not None else self.items - self.taken

    @property
    def form(self) -> Form:
        """What items of one batch have in common."""
        return tuple(
            (name, array.dtype.str, array.shape[1:]) for name, array in sorted(self.arrays.items())
        )

    def deliver(self, start: int, stop: int, outcome: Outcome) -> None:
        """Outputs of some items, or why there are none; one thread at a time."""
        if self._done.is_set():
            return
        if isinstance(outcome, BaseException):
            self.error = outcome
        else:
            self._found.append((start, outcome))
            self._left -= stop - start
        if self._left == 0 or self.error is not None:
            self._end()
            self._done.set()

    def wait(self, watch: Callable[[], float]) -> dict[str, Array]:
        """All outputs, in the order of the items.

        Args:
            watch: called while nothing comes; says how long (s) to wait until it is called again.

        Raises:
            BaseException: what was delivered instead.
        """
        while not self._done.wait(watch()):
            pass
        if self.error is not None:
            raise self.error
        return joined([part for _, part in sorted(self._found, key=lambda item: item[0])])


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Items `start` to `stop` of a call."""

    call: Call
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Items of several calls with the same session and form, in the order of `parts`."""

    parts: tuple[Part, ...]

    @property
    def items(self) -> int:
        return sum(part.stop - part.start for part in self.parts)

    @property
    def studies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.call.study for part in self.parts))

    def waited(self, now: float) -> float:
        """Seconds that its items have waited, added up."""
        return sum((now - part.call.entered) * (part.stop - part.start) for part in self.parts)

    def run(self) -> dict[str, Array]:
        """Outputs of all items; see `Session.run`."""
        first = self.parts[0].call
        arrays = {
            name: stacked([part.call.arrays[name][part.start : part.stop] for part in self.parts])
            for name in first.arrays
        }
        return first.session.run(arrays)

    def deliver(self, outcome: Outcome) -> None:
        """Give every call what is its own."""
        at = 0
        for part in self.parts:
            size = part.stop - part.start
            if isinstance(outcome, BaseException) or len(self.parts) == 1:
                part.call.deliver(part.start, part.stop, outcome)
            else:
                # Copied: a view would keep the outputs of other studies in memory.
                own = {name: array[at : at + size].copy() for name, array in outcome.items()}
                part.call.deliver(part.start, part.stop, own)
            at += size

    def by_study(self) -> list[Batch]:
        """The same items, one batch for each study."""
        return [
            Batch(tuple(part for part in self.parts if part.call.study == study))
            for study in self.studies
        ]


def items_of(arrays: Arrays) -> int:
    """How many items there are.

    Raises:
        ModelFailure: `model-input`: none, or tensors of different lengths.
    """
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ModelFailure("model-input", "the tensors of a batch have different lengths")
    return lengths.pop()


def joined(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Outputs of parts, one after another.

    Raises:
        ModelFailure: `model-output`: they have different shapes.
    """
    if len(parts) == 1:
        return parts[0]
    for name in parts[0]:
        if len({part[name].shape[1:] for part in parts}) > 1:
            raise ModelFailure("model-output", "parts of one call have different shapes")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def stacked(arrays: Sequence[Array]) -> Array:
    """Arrays along the first axis; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
