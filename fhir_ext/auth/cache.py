"""Grants of tokens that were verified, for as long as they hold."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from fhir_ext.auth.grant import Grant

#: Tokens that are remembered; about 2 kB each.
CAPACITY: Final = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified token.

    Attributes:
        grant: what it grants.
        until: when it must be verified again (seconds since 1970).
        generation: of the key set that it was verified with; None when no key was used.
    """

    grant: Grant
    until: float
    generation: int | None


class GrantCache:
    """Least recently used entries go first; tokens are kept as SHA-256 only."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def key(token: str) -> bytes:
        return hashlib.sha256(token.encode("ascii")).digest()

    def get(self, key: bytes) -> Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: Entry) -> None:
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def drop(self, key: bytes) -> None:
        with self._lock:
            self._entries.pop(key, None)
