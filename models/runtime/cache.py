"""Sessions loaded on first use, kept while there is room, evicted when there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from models.runtime.base import ModelFailure, Session
from models.runtime.device import Device


@dataclass(slots=True)
class _Entry:
    """One session of one device.

    Attributes:
        bytes: what it holds, or will probably hold.
        session: None while it is loaded.
        users: calls that use or wait for it.
        used: when it was last given back, by a counter.
        doomed: to be closed when the last user is gone.
    """

    bytes: int
    session: Session | None = None
    users: int = 0
    used: int = 0
    doomed: bool = False


class SessionCache:
    """Holds sessions, each loaded once however many threads ask for it.

    Args:
        limits: bytes that the sessions of each device may hold together.
        patience: longest wait (s) until sessions in use are given back.
        step_back: how long (s) one waits for room before new users of what is loaded step back
            for it. Less would load and evict two busy networks in turns.
    """

    def __init__(
        self, limits: Mapping[Device, int], patience: float = 600.0, step_back: float = 10.0
    ) -> None:
        self._limits = dict(limits)
        self._patience, self._step_back = patience, step_back
        #: Who waits for room: on which device, and since when.
        self._waiting: dict[object, tuple[Device, float]] = {}
        self._entries: dict[tuple[Device, str], _Entry] = {}
        self._changed = threading.Condition()
        self._clock = 0

    @contextmanager
    def use(
        self, key: str, device: Device, needed: int, load: Callable[[], Session]
    ) -> Iterator[Session]:
        """A session that stays loaded until the block ends.

        Args:
            key: model version, with everything that makes another session of it.
            device: where it is.
            needed: bytes that it will probably hold; what it does hold counts afterwards.
            load: makes it; called in this thread, at most once at a time for each key.

        Raises:
            ModelFailure: `device-memory`: too large for the device, or others kept it full for
                too long; and what `load` raises, which is tried again by the next caller.
        """
        entry = self._enter((device, key), needed, load)
        try:
            assert entry.session is not None
            yield entry.session
        finally:
            self._leave((device, key), entry)

    def drop(self, key: str) -> None:
        """Close the sessions of a key on all devices; those in use when they are given back."""
        with self._changed:
            for place, entry in list(self._entries.items()):
                if place[1] == key:
                    entry.doomed = True
                    del self._entries[place]
                    self._close_unused(entry)
            self._changed.notify_all()

    def close(self) -> None:
        """Close everything; what is in use when it is given back."""
        for key in {key for _, key in list(self._entries)}:
            self.drop(key)

    def held(self, device: Device) -> int:
        """Bytes that the sessions of a device hold or will hold."""
        with self._changed:
            return self._held(device)

    def _enter(self, place: tuple[Device, str], needed: int, load: Callable[[], Session]) -> _Entry:
        came, ticket = time.monotonic(), object()
        with self._changed:
            try:
                while True:
                    entry = self._entries.get(place)
                    if entry is None:
                        if self._make_room(place[0], needed):
                            entry = self._entries[place] = _Entry(needed, users=1)
                            break
                        self._waiting[ticket] = (place[0], came)
                    elif entry.session is not None and self._free(place[0], came):
                        entry.users += 1
                        return entry
                    if not self._changed.wait(came + self._patience - time.monotonic()):
                        raise ModelFailure("device-memory", "other networks kept it full")
            finally:
                if self._waiting.pop(ticket, None):
                    self._changed.notify_all()
        return self._loaded(place, entry, load)

    def _free(self, device: Device, came: float) -> bool:
        """Whether nobody who came before has waited for room on the device for too long."""
        latest = min(came, time.monotonic() - self._step_back)
        return all(place != device or since >= latest for place, since in self._waiting.values())

    def _loaded(
        self, place: tuple[Device, str], entry: _Entry, load: Callable[[], Session]
    ) -> _Entry:
        try:
            session = load()
        except BaseException:
            with self._changed:
                self._entries.pop(place, None)
                self._changed.notify_all()
            raise
        with self._changed:
            entry.session, entry.bytes = session, session.memory_bytes
            # It may hold more than was thought.
            self._evict(place[0], 0)
            self._changed.notify_all()
        return entry

    def _leave(self, place: tuple[Device, str], entry: _Entry) -> None:
        with self._changed:
            self._clock += 1
            entry.users -= 1
            entry.used = self._clock
            self._close_unused(entry)
            self._evict(place[0], 0)
            self._changed.notify_all()

    def _make_room(self, device: Device, needed: int) -> bool:
        """Whether `needed` bytes are free now, after evicting what nobody uses."""
        limit = self._limits.get(device, 0)
        if needed > limit:
            raise ModelFailure("device-memory", f"{needed} bytes, and {limit} are allowed")
        self._evict(device, needed)
        return self._held(device) + needed <= limit

    def _evict(self, device: Device, needed: int) -> None:
        """Close sessions that nobody uses, the longest unused first, until there is room."""
        limit = self._limits.get(device, 0)
        idle = [
            (entry.used, place)
            for place, entry in self._entries.items()
            if place[0] == device and entry.users == 0 and entry.session is not None
        ]
        for _, place in sorted(idle, key=lambda item: item[0]):
            if self._held(device) + needed <= limit:
                return
            entry = self._entries.pop(place)
            entry.doomed = True
            self._close_unused(entry)

    def _held(self, device: Device) -> int:
        return sum(entry.bytes for place, entry in self._entries.items() if place[0] == device)

    def _close_unused(self, entry: _Entry) -> None:
        if entry.doomed and entry.users == 0 and entry.session is not None:
            session, entry.session = entry.session, None
            session.close()
