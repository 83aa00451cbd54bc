"""How many requests one client may send: a bucket per client that fills steadily."""

from __future__ import annotations

import math
import time

from fhir_ext.errors import ThrottledError

#: Clients remembered; the one that was silent longest is forgotten first.
MOST_CLIENTS = 10_000


class Flooded(ThrottledError):
    """One more request after one that was refused already."""


class Throttle:
    """Token buckets, for one process; used on the event loop only.

    Args:
        per_minute: requests per minute on average.
        burst: requests at once.
    """

    def __init__(self, per_minute: int, burst: int) -> None:
        self._rate, self._burst = per_minute / 60.0, float(burst)
        #: Level, when it was seen, and whether the last request was refused.
        self._buckets: dict[str, tuple[float, float, bool]] = {}

    def take(self, client: str, now: float | None = None) -> None:
        """Count one request.

        Raises:
            ThrottledError: the client's bucket is empty.
            Flooded: and it was told so before.
        """
        moment = time.monotonic() if now is None else now
        level, seen, told = self._buckets.pop(client, (self._burst, moment, False))
        level = min(self._burst, level + (moment - seen) * self._rate)
        allowed = level >= 1.0
        self._buckets[client] = (level - 1.0 if allowed else level, moment, not allowed)
        if len(self._buckets) > MOST_CLIENTS:
            del self._buckets[next(iter(self._buckets))]
        if not allowed:
            wait = math.ceil((1.0 - level) / self._rate)
            raise (Flooded if told else ThrottledError)(
                "too many requests of this client", retry_after=max(1, wait)
            )
