"""Files of the access journal: one JSON line per access, one writer per file.

A segment is locked (`flock`) by the process that writes it, and by whoever hands it over. The
kernel drops the lock of a process that dies, however it dies; a segment that can be locked has
therefore no writer any more. Locks of the same host only: the folder is on a local disk.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import orjson

from fhir_ext.audit.record import AccessRecord

Json = dict[str, Any]

SUFFIX: Final = ".jsonl"
#: A segment with a whole line that is no JSON keeps its bytes under this name.
DAMAGED: Final = ".damaged"

#: Most bytes of journal in one entry of the queue; a single longer line is an entry of its own.
PART_BYTES: Final = 1_000_000

#: Leftovers of a process that died while it made a segment are deleted after this (s).
_STALE_SECONDS: Final = 60.0


def line_of(record: AccessRecord) -> bytes:
    """A record as one line of the journal."""
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # A token may hold half of a surrogate pair, which is no UTF-8; the access counts.
        return orjson.dumps(_encodable(asdict(record)), option=orjson.OPT_APPEND_NEWLINE)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value


def record_of(data: Json) -> AccessRecord:
    """The record of one line.

    Raises:
        TypeError: a field is missing, or not known to this version.
    """
    values: Any = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
    }
    return AccessRecord(**values)


class Segment:
    """The file that this process writes; locked from before it has its name.

    Args:
        folder: the journal.

    Attributes:
        size: bytes of whole lines.
        broken: it ends in a part of a line that could not be cut off; nothing may follow.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        # The time first, so that names sort by age; random, since containers share pids.
        self.name = f"{time.time_ns():020d}-{secrets.token_hex(4)}{SUFFIX}"
        self.size = 0
        self.broken = False
        self._synced = 0
        hidden = folder / f".{self.name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._fd = os.open(hidden, flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(folder / self.name)
        except OSError:
            os.close(self._fd)
            hidden.unlink(missing_ok=True)
            raise

    def append(self, line: bytes) -> None:
        """Write one line, wholly or not at all.

        Raises:
            OSError: it cannot be written; what was written of it is cut off again.
        """
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError("the disk took a part of a line")
        except OSError:
            self.broken = True
            os.ftruncate(self._fd, self.size)
            self.broken = False
            raise
        self.size += written

    def sync(self) -> None:
        """Bring to the disk what was written since the last call."""
        size = self.size
        if size != self._synced:
            os.fsync(self._fd)
            self._synced = size

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Part:
    """What becomes one entry of the queue.

    Attributes:
        first: number of its first record in the segment, from 0.
    """

    first: int
    records: list[Json]

    @property
    def span(self) -> str:
        return f"{self.first}-{self.first + len(self.records) - 1}"


class ClosedSegment:
    """A segment without a writer, held until it is handed over.

    Attributes:
        torn: 1 when the last line ends in the middle: its writer died, and the access it
            speaks of was not answered.
        damaged: whole lines that are no JSON; a disk lost them.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.torn = self.damaged = 0

    @classmethod
    def take(cls, path: Path) -> ClosedSegment | None:
        """Hold a segment, or None when somebody else does or did."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if os.fstat(file.fileno()).st_nlink == 0:
            # A peer finished it between our look at the folder and the lock.
            file.close()
            return None
        return cls(path, file)

    @property
    def key(self) -> str:
        return self.path.name.removesuffix(SUFFIX)

    def parts(self, most: int) -> Iterator[Part]:
        """Its records in order, at most `most` in one part."""
        records: list[Json] = []
        first = size = 0
        for line in self._file:
            record = self._parsed(line)
            if record is None:
                continue
            if records and (len(records) == most or size + len(line) > PART_BYTES):
                yield Part(first, records)
                first, size, records = first + len(records), 0, []
            records.append(record)
            size += len(line)
        if records:
            yield Part(first, records)

    def _parsed(self, line: bytes) -> Json | None:
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return found
        if line.endswith(b"\n"):
            self.damaged += 1
        else:
            self.torn += 1
        return None

    def remove(self) -> None:
        """Delete it; one that a disk damaged is kept under another name, for a human."""
        if self.damaged:
            self.path.rename(self.path.with_suffix(DAMAGED))
        else:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()


def prepare_folder(folder: Path) -> None:
    """Make the journal's folder, for this user only, and clear what a dead process left.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    for path in folder.glob(f".*{SUFFIX}"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            # Nothing is written before a segment has its name.
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def segments(folder: Path) -> list[Path]:
    """All segments, oldest first."""
    found = (path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    return sorted(path for path in found if not path.name.startswith("."))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is noted and not yet in the queue.

    Attributes:
        oldest_seconds: age of the oldest access in it; 0 without one.
        damaged: segments that a disk damaged.
    """

    segments: int
    bytes: int
    oldest_seconds: float
    damaged: int


def backlog(folder: Path) -> Backlog:
    """Look at a journal from outside.

    Raises:
        OSError: the folder cannot be read.
    """
    count = size = 0
    oldest = 0.0
    if not folder.is_dir():
        return Backlog(0, 0, 0.0, 0)
    for path in segments(folder):
        try:
            length = path.stat().st_size
        except FileNotFoundError:
            continue
        if length:
            count, size = count + 1, size + length
            oldest = max(oldest, time.time() - _begin(path))
    return Backlog(count, size, oldest, len(list(folder.glob(f"*{DAMAGED}"))))


def _begin(path: Path) -> float:
    """When the first access in a segment ended; its name tells when it was made, idle or not."""
    try:
        with path.open("rb") as file:
            first = orjson.loads(file.readline())
        return datetime.fromisoformat(first["recorded"]).timestamp()
    except (OSError, ValueError, TypeError, KeyError):
        return time.time()
