"""The thread of a device: runs batches one after another, and survives what they do."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fhir_ext.errors import FhirExtError
from models.runtime.base import LIBRARY_ERRORS, ModelFailure
from models.runtime.batcher import Batcher, Turns
from models.runtime.calls import Batch, Call, Outcome

#: Failures that one item may cause for a whole batch; the others concern the network itself.
OF_ITEMS = frozenset(
    {
        "model-input", "model-output", "model-not-finite", "model-failed", "model-crashed",
        "model-hung", "model-memory", "model-answer",
    }
)  # fmt: skip
#: How often (s) those who wait look whether the running batch takes too long.
_LOOK = 1.0
#: How long (s) the end of a thread is waited for.
_LAST_BATCH = 30.0


@dataclass(frozen=True, slots=True)
class BatchRan:
    """One batch that has run, for whoever counts.

    Attributes:
        service, version: which network.
        device: where; `remote` for a model server.
        items, studies: how many.
        busy_seconds: time in the network.
        waited_seconds: time of all items in the queue, added up.
        failed: it gave no outputs.
    """

    service: str
    version: str
    device: str
    items: int
    studies: int
    busy_seconds: float
    waited_seconds: float
    failed: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    batcher: Batcher
    batch: Batch
    begin: float


class Lane:
    """Runs the batches of some networks, one at a time, in a thread of its own.

    A batch of several studies that fails because of its items is run again, study by study,
    so that an error reaches those only whose items cause it. A batch that takes longer than
    its batcher allows is given up together with its thread, which cannot be stopped; its
    network is not asked again, and the others go on in a new thread.

    Args:
        name: of the thread.
        ran: told of every batch, from the thread.
    """

    def __init__(self, name: str, ran: Callable[[BatchRan], None]) -> None:
        self._name, self._ran = name, ran
        self._changed = threading.Condition()
        self._batchers: list[Batcher] = []
        self._again: deque[tuple[Batcher, Batch]] = deque()
        self._turns = Turns()
        self._running: _Running | None = None
        self._thread: threading.Thread | None = None
        self._idle_since = time.monotonic()
        self._closed = False

    def submit(self, batcher: Batcher, call: Call) -> None:
        """Put a call into the queue of a batcher, which from now on is this lane's.

        Raises:
            ModelFailure: `model-hung`: the network hung before; `model-failed`: closed.
        """
        with self._changed:
            if self._closed:
                raise ModelFailure("model-failed", "the worker ends")
            if batcher.broken:
                raise ModelFailure("model-hung", "before, in this process, and is not asked again")
            if batcher not in self._batchers:
                self._batchers.append(batcher)
            batcher.add(call, time.monotonic())
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def watch(self) -> float:
        """Give up a batch that takes too long; seconds until one should look again."""
        with self._changed:
            running = self._running
            deadline = None if running is None else running.batcher.deadline_s
            if running is None or deadline is None:
                return _LOOK
            left = running.begin + deadline - time.monotonic()
            if left > 0:
                return min(left, _LOOK)
            self._give_up(running, ModelFailure("model-hung", f"after {deadline:g} s"))
            self._start()
            return _LOOK

    def close(self) -> None:
        """End the thread after its present batch; what waits fails."""
        with self._changed:
            self._closed = True
            thread = self._thread
            failure = ModelFailure("model-failed", "the worker ends")
            for batcher in self._batchers:
                self._fail(batcher, failure)
            self._changed.notify_all()
        if thread is not None:
            thread.join(_LAST_BATCH)

    def _give_up(self, running: _Running, failure: ModelFailure) -> None:
        running.batcher.broken = True
        self._running = None
        running.batch.deliver(failure)
        self._fail(running.batcher, failure)
        self._batchers.remove(running.batcher)

    def _fail(self, batcher: Batcher, failure: ModelFailure) -> None:
        """Deliver a failure to everybody who waits for a network."""
        again, self._again = self._again, deque()
        for owner, batch in again:
            if owner is batcher:
                batch.deliver(failure)
            else:
                self._again.append((owner, batch))
        for call in batcher.calls():
            call.deliver(0, call.items, failure)

    def _start(self) -> None:
        # A daemon: a network that hangs must not keep the worker from ending.
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._run_batches()
        finally:
            with self._changed:
                # Something ended it that nobody expects; others wait for their turn.
                if self._thread is threading.current_thread() and not self._closed:
                    self._start()

    def _run_batches(self) -> None:
        """Until the lane is closed, or the batch that ran was given up."""
        while True:
            with self._changed:
                while (chosen := self._next(time.monotonic())) is None:
                    if self._closed:
                        return
                running = self._running = _Running(*chosen, time.monotonic())
            outcome: Outcome = ModelFailure("model-failed", "its thread ended")
            try:
                outcome = running.batch.run()
            except (FhirExtError, MemoryError, *LIBRARY_ERRORS) as error:
                outcome = error
            finally:
                # Also when this thread dies of any other error: nobody waits for ever.
                mine = self._ended(running, outcome)
            if not mine:
                return

    def _next(self, now: float) -> tuple[Batcher, Batch] | None:
        """What runs now; None after having waited for a change, or for long enough."""
        if self._closed:
            return None
        if self._again:
            return self._again.popleft()
        waiting = [bucket for batcher in self._batchers for bucket in batcher.buckets()]
        times = [bucket.ready_at(now, self._idle_since) for bucket in waiting]
        ready = [bucket for bucket, at in zip(waiting, times, strict=True) if at <= now]
        if not ready:
            self._changed.wait(min(times) - now if times else None)
            return None
        bucket, batch = self._turns.choose(ready)
        return bucket.batcher, batch

    def _ended(self, running: _Running, outcome: Outcome) -> bool:
        """Deliver, or plan another try; False when the batch was given up meanwhile."""
        end = time.monotonic()
        failed = isinstance(outcome, BaseException)
        with self._changed:
            if self._running is not running:
                return False
            self._running = None
            self._idle_since = end
            running.batcher.ran(running.batch, running.begin, end)
            code = outcome.code if isinstance(outcome, ModelFailure) else ""
            if code in OF_ITEMS and len(running.batch.studies) > 1 and not self._closed:
                self._again.extend((running.batcher, batch) for batch in running.batch.by_study())
            else:
                running.batch.deliver(outcome)
        self._ran(_report(running, end, failed))
        return True


def _report(running: _Running, end: float, failed: bool) -> BatchRan:
    batcher, batch = running.batcher, running.batch
    return BatchRan(
        batcher.service,
        batcher.version,
        batcher.device,
        batch.items,
        len(batch.studies),
        end - running.begin,
        batch.waited(running.begin),
        failed,
    )
