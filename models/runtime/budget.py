"""Back-pressure: how many bytes of pixels a worker holds at once, over all its studies."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

#: Of so many studies that are let in one is not urgent, when both kinds wait.
_SHARE = 8


class Hold:
    """Bytes that one study holds."""

    def __init__(self, budget: PixelBudget, size: int) -> None:
        self._budget, self._size = budget, size

    @property
    def size(self) -> int:
        return self._size

    def correct(self, size: int) -> None:
        """Say how many bytes it really is; never waits, for the pixels are there already."""
        if size < 0:
            raise ValueError("a size is not negative")
        self._budget._change(size - self._size)
        self._size = size


class PixelBudget:
    """Lets studies in as long as their pixels together stay below a limit.

    First come, first served, urgent ones first; nobody is passed by a smaller one of the same
    kind, so that a large study gets its turn. One that is larger than the limit is let in
    alone. Safe between threads; a thread that holds some must not ask for more.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("a budget is at least one byte")
        self._limit = limit
        self._held = 0
        self._studies = 0
        self._queues: dict[bool, deque[object]] = {True: deque(), False: deque()}
        self._passed = 0
        self._changed = threading.Condition()

    @property
    def held(self) -> int:
        """Bytes in flight; more than the limit when sizes were corrected upwards."""
        with self._changed:
            return self._held

    @property
    def waiting(self) -> int:
        """How many studies wait."""
        with self._changed:
            return sum(len(queue) for queue in self._queues.values())

    @contextmanager
    def hold(self, size: int, *, urgent: bool = False) -> Iterator[Hold]:
        """Wait until there is room, and hold it until the block ends.

        Args:
            size: bytes, as far as known; see `Hold.correct`.
            urgent: goes before what is not, but for one in eight.
        """
        if size < 0:
            raise ValueError("a size is not negative")
        self._enter(size, urgent)
        held = Hold(self, size)
        try:
            yield held
        finally:
            self._leave(held.size)

    def _enter(self, size: int, urgent: bool) -> None:
        ticket = object()
        with self._changed:
            queue = self._queues[urgent]
            queue.append(ticket)
            try:
                while not (self._next() is ticket and self._fits(size)):
                    self._changed.wait()
                if urgent and self._queues[False]:
                    self._passed += 1
                elif not urgent:
                    self._passed = 0
                self._held += size
                self._studies += 1
            finally:
                queue.remove(ticket)
                # The next one may fit too.
                self._changed.notify_all()

    def _leave(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._studies -= 1
            self._changed.notify_all()

    def _change(self, by: int) -> None:
        with self._changed:
            self._held += by
            self._changed.notify_all()

    def _next(self) -> object:
        urgent, others = self._queues[True], self._queues[False]
        if urgent and (not others or self._passed < _SHARE - 1):
            return urgent[0]
        return others[0]

    def _fits(self, size: int) -> bool:
        return self._studies == 0 or self._held + size <= self._limit
