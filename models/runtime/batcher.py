"""Which items go into the next batch: fair between studies, urgent ones first.

Nothing here starts a thread or takes a lock; `models.runtime.lane` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from models.runtime.calls import Batch, Call, Form, Part

#: How long (s) a study that has had items in a network may be expected to bring more.
_EXPECTED = 1.0
#: Longest wait for more items, as a part of what a batch takes: a device is idle a tenth of
#: the time at most, whatever the manifest says.
_WORTH = 0.1
#: Of so many batches one begins with what is not urgent, when both wait.
_SHARE = 8
#: Studies whose last turn is known.
_TURNS = 1000

Turn = Callable[[str], int]


@dataclass(slots=True)
class Counts:
    """What one network did on one device.

    Attributes:
        batches, items: that ran.
        busy_seconds: time in the network.
        waited_seconds: time of all items in the queue, added up.
    """

    batches: int = 0
    items: int = 0
    busy_seconds: float = 0.0
    waited_seconds: float = 0.0

    def add(self, other: Counts) -> None:
        """Count what another one counted."""
        self.batches += other.batches
        self.items += other.items
        self.busy_seconds += other.busy_seconds
        self.waited_seconds += other.waited_seconds


class Bucket:
    """Calls of one network whose items have the same form, in the order in which they came."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.calls: deque[Call] = deque()

    @property
    def waiting(self) -> int:
        return sum(call.waiting for call in self.calls)

    def holds(self, urgent: bool) -> bool:
        """Whether a call of that kind waits."""
        return any(call.urgent == urgent and call.waiting for call in self.calls)

    def ready_at(self, now: float, idle_since: float) -> float:
        """When (by the monotonic clock) it should run at the latest; `now` or before: at once.

        It waits for more only if it is not full, nothing is urgent, and a study could come
        that has nothing here yet; never longer than the manifest says, counted from when the
        device had nothing to do.
        """
        batcher = self.batcher
        if self.waiting >= batcher.size or self.holds(urgent=True):
            return now
        if not batcher.expects(now):
            return now
        oldest = min(call.entered for call in self.calls if call.waiting)
        return max(oldest, idle_since) + batcher.patience

    def first_turn(self, urgent: bool, turn: Turn) -> int:
        """The longest-ago turn of a study whose calls of that kind wait here."""
        return min(turn(c.study) for c in self.calls if c.urgent == urgent and c.waiting)

    def take(self, urgent_first: bool, turn: Turn) -> Batch:
        """A batch, filled one item of each study at a time, those first that waited longest."""
        wanted: dict[Call, int] = {}
        room = self.batcher.size
        for urgent in (urgent_first, not urgent_first):
            studies: dict[str, deque[Call]] = {}
            for call in self.calls:
                if call.urgent == urgent and call.waiting:
                    studies.setdefault(call.study, deque()).append(call)
            order = deque(sorted(studies, key=turn))
            while order and room:
                calls = studies[order[0]]
                room -= 1
                wanted[calls[0]] = wanted.get(calls[0], 0) + 1
                if wanted[calls[0]] == calls[0].waiting:
                    calls.popleft()
                # Next study; one without further items does not come again.
                order.rotate(-1)
                if not calls:
                    order.pop()
        parts = []
        for call, count in wanted.items():
            parts.append(Part(call, call.taken, call.taken + count))
            call.taken += count
        self.calls = deque(call for call in self.calls if call.waiting)
        return Batch(tuple(parts))


class Batcher:
    """What waits for one network on one device.

    Args:
        service, version: which network.
        device: where; `remote` for a model server.
        size: most items of one batch.
        wait_s: how long an idle device may wait for more.
        deadline_s: longest time for one batch, where nobody else sees to it.
        shared: whether items of different calls may be in one batch.
    """

    def __init__(
        self,
        service: str,
        version: str,
        device: str,
        *,
        size: int,
        wait_s: float,
        deadline_s: float | None = None,
        shared: bool = True,
    ) -> None:
        self.service, self.version, self.device = service, version, device
        self.size, self.deadline_s = size, deadline_s
        self.counts = Counts()
        #: It hung where it cannot be stopped.
        self.broken = False
        self._wait, self._shared = wait_s, shared
        self._buckets: dict[tuple[int, Form, int], Bucket] = {}
        self._seen: dict[str, float] = {}
        self._mean: float | None = None

    @property
    def waiting(self) -> int:
        """Items that no batch has taken."""
        return sum(bucket.waiting for bucket in self._buckets.values())

    @property
    def patience(self) -> float:
        """Longest wait (s) of an idle device for more items."""
        return self._wait if self._mean is None else min(self._wait, _WORTH * self._mean)

    def add(self, call: Call, now: float) -> None:
        key = (id(call.session), call.form, 0 if self._shared else id(call))
        self._buckets.setdefault(key, Bucket(self)).calls.append(call)
        if call.known:
            self._seen[call.study] = now

    def buckets(self) -> list[Bucket]:
        """Those in which something waits; the others are forgotten."""
        self._buckets = {key: item for key, item in self._buckets.items() if item.waiting}
        return list(self._buckets.values())

    def calls(self) -> list[Call]:
        """Calls with items that no batch has taken."""
        return [call for bucket in self.buckets() for call in bucket.calls]

    def expects(self, now: float) -> bool:
        """Whether a study of which nothing waits may bring items soon."""
        self._seen = {s: at for s, at in self._seen.items() if now - at < _EXPECTED}
        return bool(self._seen.keys() - {call.study for call in self.calls()})

    def ran(self, batch: Batch, begin: float, end: float) -> None:
        """Count a batch that has run."""
        seconds = end - begin
        self.counts.batches += 1
        self.counts.items += batch.items
        self.counts.busy_seconds += seconds
        self.counts.waited_seconds += batch.waited(begin)
        self._mean = seconds if self._mean is None else 0.8 * self._mean + 0.2 * seconds
        for part in batch.parts:
            if part.call.known:
                self._seen[part.call.study] = end


class Turns:
    """Whose turn it is, over all networks of a device: that of who had it longest ago."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._count = 0
        self._passed = 0

    def of(self, study: str) -> int:
        """When it last was; a new study comes before all others."""
        return self._last.get(study, -1)

    def choose(self, buckets: list[Bucket]) -> tuple[Bucket, Batch]:
        """The next batch, and the bucket it comes from; none of those given is empty."""
        urgent_first = self._urgent_first(buckets)
        able = [bucket for bucket in buckets if bucket.holds(urgent_first)]
        chosen = min(able, key=lambda item: item.first_turn(urgent_first, self.of))
        batch = chosen.take(urgent_first, self.of)
        self._count += 1
        for study in batch.studies:
            # Taken out first, so that the order of the dict is that of the turns.
            self._last.pop(study, None)
            self._last[study] = self._count
        while len(self._last) > _TURNS:
            del self._last[next(iter(self._last))]
        return chosen, batch

    def _urgent_first(self, buckets: list[Bucket]) -> bool:
        urgent = any(bucket.holds(urgent=True) for bucket in buckets)
        if not (urgent and any(bucket.holds(urgent=False) for bucket in buckets)):
            return urgent
        self._passed = (self._passed + 1) % _SHARE
        return self._passed != 0
