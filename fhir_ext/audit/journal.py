"""The access journal: an access is on a file of ours before it is answered.

    note          one line, one write, by the thread that answers
    flusher       every `flush_interval`: fsync, close, hand over to the durable queue, delete

A segment is deleted only once the queue has all of it; until then it stays, over restarts and
kills of any process. The same path takes up segments of dead processes: what has no writer is
handed over by whoever sees it first. Handing over twice is harmless, since keys follow from the
segment, and ids of AuditEvents from the request.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fhir_ext.audit.record import AccessRecord
from fhir_ext.audit.segments import (
    ClosedSegment,
    Segment,
    line_of,
    prepare_folder,
    segments,
    sync_folder,
)
from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.logs import event, get_logger, incident
from fhir_ext.settings import AuditSettings

log = get_logger(__name__)

#: Puts records into the durable queue under a key; what it raises is tried again.
HandOver = Callable[[str, list[dict[str, Any]]], object]

#: A segment is not left to grow beyond this while the queue is down (bytes).
SEGMENT_BYTES: Final = 64_000_000

#: With less free space than this (bytes) nothing is begun that would have to be noted.
RESERVE_BYTES: Final = 16_000_000

#: Longest pause before a queue that is down is tried again (s).
LONGEST_WAIT: Final = 30.0

#: Segments that may fail in one round before the queue counts as down.
_FAILURES: Final = 3


class AccessJournal:
    """Notes accesses and hands them over; one per process.

    Args:
        settings: where and how often.
        hand_over: runs in the flusher's thread; when it returns, the queue has the records
            durably. The same key always comes with the same records.

    Attributes:
        torn: lines that a process did not finish because it died.
        damaged: whole lines that a disk lost.
    """

    def __init__(self, settings: AuditSettings, hand_over: HandOver) -> None:
        self._folder, self._batch = settings.journal, settings.batch
        self._interval = settings.flush_interval.total_seconds()
        self._hand_over = hand_over
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._stopping = threading.Event()
        self._closed = False
        self._deadline = 0.0
        self._wait, self._next_try = self._interval, 0.0
        self.torn = self.damaged = 0
        self._thread = threading.Thread(target=self._run, name="access-journal", daemon=True)

    def start(self) -> None:
        """Begin to hand over, first what earlier processes left.

        Raises:
            UpstreamUnavailable: the folder cannot be written.
        """
        with self._lock:
            self._opened()
        self._thread.start()

    def ready(self) -> None:
        """Ask before the access whether it can be noted, since a write is not taken back.

        Raises:
            UpstreamUnavailable: the disk is nearly full, or the folder is gone.
        """
        try:
            disk = os.statvfs(self._folder)
        except OSError as error:
            raise _unavailable() from error
        if disk.f_bavail * disk.f_frsize < RESERVE_BYTES:
            raise _unavailable()

    def note(self, record: AccessRecord) -> None:
        """Write one access down; when this returns, no death of this process loses it.

        Raises:
            UpstreamUnavailable: it cannot be written (disk full); the access must not happen.
        """
        line = line_of(record)
        with self._lock:
            segment = self._segment or self._opened()
            try:
                segment.append(line)
            except OSError as error:
                if segment.broken:
                    segment.close()
                    self._segment = None
                raise _unavailable() from error

    def close(self, timeout: float = 10.0) -> None:
        """Hand over what is left, as far as that works in `timeout` seconds; the rest waits."""
        with self._lock:
            self._closed = True
        if self._thread.ident is None:
            self._turn()
            return
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._thread.join(timeout + 1)

    def _opened(self) -> Segment:
        if self._closed:
            raise UpstreamUnavailable("the service is stopping", code="audit-unavailable")
        try:
            prepare_folder(self._folder)
            self._segment = Segment(self._folder)
        except OSError as error:
            raise _unavailable() from error
        return self._segment

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._round()
        self._next_try = 0.0
        while not self._round() and time.monotonic() < self._deadline:
            time.sleep(0.1)
            self._next_try = 0.0

    def _round(self) -> bool:
        """One look at the journal; True when nothing is left to be handed over."""
        try:
            self._turn()
            return time.monotonic() >= self._next_try and self._drain()
        except OSError as error:
            # The folder cannot be read or written; `note` tells the callers.
            self._failed(error)
            return False

    def _turn(self) -> None:
        """Bring the current segment to the disk, and start another when it should go out."""
        segment = self._segment
        if segment is None:
            return
        down = self._wait > self._interval
        due = segment.size > 0 and (not down or segment.size >= SEGMENT_BYTES)
        if not due and not self._closed:
            segment.sync()
            return
        # Synced once nobody writes to it, since a write waits for the fsync of its file.
        following = None if self._closed else self._following()
        with self._lock:
            self._segment = following
        segment.sync()
        # Closing gives the lock up: from here on it is a segment like those of the dead.
        segment.close()

    def _following(self) -> Segment | None:
        """The next segment; None on a full disk, which only handing over may relieve."""
        try:
            following = Segment(self._folder)
            sync_folder(self._folder)
        except OSError as error:
            incident(log, "journal-not-opened", error)
            return None
        return following

    def _drain(self) -> bool:
        failures = 0
        left = False
        for path in segments(self._folder):
            taken = self._take(path)
            if taken is None:
                continue
            try:
                with taken:
                    self._give(taken)
            except Exception as error:  # noqa: BLE001  whatever the queue raises, it is tried again
                left = True
                failures += 1
                self._failed(error)
                if failures == _FAILURES:
                    break
        if not left:
            self._recovered()
        return not left

    def _take(self, path: Path) -> ClosedSegment | None:
        current = self._segment
        if current is not None and path.name == current.name:
            return None
        return ClosedSegment.take(path)

    def _give(self, taken: ClosedSegment) -> None:
        """Hand one segment over, part by part, and delete it.

        A part is named by what it holds, so that another `batch` after a restart does not
        give a known name to other records.
        """
        parts = taken.parts(self._batch)
        part, more = next(parts, None), next(parts, None)
        if part is not None and more is None:
            self._hand_over(taken.key, part.records)
        elif part is not None and more is not None:
            for piece in (part, more, *parts):
                self._hand_over(f"{taken.key}.{piece.span}", piece.records)
                if current := self._segment:
                    current.sync()
        taken.remove()
        self._count(taken)

    def _count(self, taken: ClosedSegment) -> None:
        self.torn += taken.torn
        self.damaged += taken.damaged
        if taken.torn:
            event(log, "journal-torn", count=self.torn)
        if taken.damaged:
            event(log, "journal-damaged", count=self.damaged)

    def _failed(self, error: Exception) -> None:
        if self._wait <= self._interval:
            incident(log, "journal-stuck", error)
        self._wait = min(self._wait * 2, LONGEST_WAIT)
        self._next_try = time.monotonic() + self._wait

    def _recovered(self) -> None:
        if self._wait > self._interval:
            event(log, "journal-recovered")
        self._wait = self._interval


def _unavailable() -> UpstreamUnavailable:
    return UpstreamUnavailable(
        "the access cannot be recorded, so it is not answered", code="audit-unavailable"
    )
