"""A value fetched from another server, kept, and fetched again when it grows old."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Generic, TypeVar

from fhir_ext.errors import FhirExtError
from fhir_ext.logs import event, get_logger

#: How long after its lifetime a value stays in use when its server is down.
GRACE: Final = timedelta(hours=1)

_log = get_logger(__name__)

T = TypeVar("T")


class Refreshed(Generic[T]):
    """One value of a server that may be slow or down; safe to share between threads.

    - In its lifetime the value is handed out without waiting.
    - Then it is still handed out, while one thread in the background fetches a new one.
    - `GRACE` after its lifetime it is not used any more: callers wait for a fetch.

    Between the end of one fetch and the start of the next lies at least the cooldown, however
    many callers there are and whether or not it succeeded. Callers that come while a fetch is
    under way wait for its result.

    Args:
        kind: what is fetched, for the log; kebab-case.
        fetch: gets the value; raises errors of our tree only.
        lifetime: after so long it is fetched again.
        cooldown: shortest pause between two fetches.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        kind: str,
        fetch: Callable[[], T],
        *,
        lifetime: timedelta,
        cooldown: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind, self._fetch, self._clock = kind, fetch, clock
        self._lifetime = lifetime.total_seconds()
        self._cooldown = cooldown.total_seconds()
        self._usable = self._lifetime + GRACE.total_seconds()
        #: Held during a fetch.
        self._fetching = threading.Lock()
        #: Value and when its fetch began; replaced as a whole.
        self._held: tuple[T, float] | None = None
        self._next_attempt = float("-inf")
        self._error: FhirExtError | None = None
        #: Held while a thread in the background is at work.
        self._background = threading.Lock()

    def peek(self) -> T | None:
        """The value if it may be used, without waiting and without I/O.

        An old one is fetched again in the background.
        """
        held = self._held
        if held is None:
            return None
        age = self._clock() - held[1]
        if age >= self._lifetime:
            self._refresh_in_background()
        return held[0] if age < self._usable else None

    def get(self) -> T:
        """The value; waits for it when there is none that may be used.

        Raises:
            FhirExtError: what the last fetch raised.
        """
        value = self.peek()
        if value is not None:
            return value
        with self._fetching:
            held = self._held
            if held is not None and self._clock() - held[1] < self._lifetime:
                return held[0]
            return self._attempt()

    def other_than(self, seen: T) -> T:
        """A newer value than `seen`, which lacks something; `seen` itself while it is too
        early to ask again.

        Raises:
            FhirExtError: what the last fetch raised.
        """
        with self._fetching:
            held = self._held
            if held is not None and held[0] is not seen:
                return held[0]
            if self._error is None and self._clock() < self._next_attempt:
                return seen
            return self._attempt()

    def _attempt(self) -> T:
        """Fetch, or repeat the last error while it is too early. `_fetching` is held."""
        began = self._clock()
        if began < self._next_attempt and self._error is not None:
            raise copy.copy(self._error).with_traceback(None)
        try:
            value = self._fetch()
        except FhirExtError as error:
            self._error = error
            raise
        else:
            self._error = None
            self._held = (value, began)
            return value
        finally:
            self._next_attempt = self._clock() + self._cooldown

    def _refresh_in_background(self) -> None:
        if self._clock() < self._next_attempt or not self._background.acquire(blocking=False):
            return
        thread = threading.Thread(target=self._refresh, name=f"refresh-{self._kind}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No more threads: whoever asks next tries again.
            self._background.release()

    def _refresh(self) -> None:
        try:
            with self._fetching:
                # Whoever waited for a value may have fetched it since.
                if self._clock() >= self._next_attempt:
                    self._attempt()
        except FhirExtError as error:
            event(_log, "refresh-failed", level=logging.WARNING, kind=self._kind, code=error.code)
        finally:
            self._background.release()
