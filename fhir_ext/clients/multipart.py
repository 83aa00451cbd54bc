"""Splits a multipart/related answer (RFC 2046 5.1) while it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

from fhir_ext.errors import RefusedInput, UpstreamUnavailable

#: Longest header block of one part; DICOMweb servers send about 200 bytes.
_MAX_HEADER_BYTES = 16 * 1024
_FIRST_BUFFER = 2 * 1024 * 1024


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart media type; None for any other type."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_maintype() != "multipart" or not boundary:
        return None
    return boundary.encode("latin-1")


def split_parts(
    chunks: Iterable[bytes], boundary: bytes, max_part_bytes: int
) -> Iterator[memoryview]:
    """Yield the body of each part as soon as its last byte is in.

    Memory is bounded by the largest part and one chunk. Where a part names its
    Content-Length and the delimiter is found there, its bytes are not searched.

    Args:
        chunks: the body of the answer, cut anywhere.
        boundary: as in the Content-Type, without the leading dashes.
        max_part_bytes: largest body of one part.

    Yields:
        Views into a buffer that is used again: valid until the next part is asked for.

    Raises:
        RefusedInput: `too-large`: a part is larger than allowed.
        UpstreamUnavailable: `connection-dropped`: the body ends before the closing
            delimiter; `malformed-multipart`: it does not follow RFC 2046.
    """
    buffer = _Buffer(iter(chunks))
    delimiter = b"\r\n--" + boundary
    # The first delimiter may stand at the very start, without the line break.
    if not buffer.starts_with(delimiter[2:]):
        _take_until(buffer, delimiter, max_part_bytes)
    else:
        buffer.skip(len(delimiter) - 2)
    while not _closing(buffer):
        length = _content_length(bytes(_take_until(buffer, b"\r\n\r\n", _MAX_HEADER_BYTES)))
        if length is not None and length > max_part_bytes:
            raise RefusedInput("a part is over the limit", code="too-large")
        if length is not None and buffer.starts_with(delimiter, at=length):
            body = buffer.take(length)
            buffer.skip(len(delimiter))
            yield body
        else:
            yield _take_until(buffer, delimiter, max_part_bytes)


def _closing(buffer: _Buffer) -> bool:
    """After a delimiter: True at the closing one, else step to the headers of the next part."""
    if buffer.starts_with(b"--"):
        return True
    padding = bytes(_take_until(buffer, b"\r\n", _MAX_HEADER_BYTES, keep_mark=True))
    if padding.strip(b" \t"):
        raise UpstreamUnavailable("a delimiter is malformed", code="malformed-multipart")
    # A part without headers begins with the line break that ends them.
    return False


def _content_length(headers: bytes) -> int | None:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def _take_until(buffer: _Buffer, mark: bytes, limit: int, *, keep_mark: bool = False) -> memoryview:
    """Bytes before `mark`; the mark itself is skipped unless `keep_mark`."""
    searched = 0
    while (found := buffer.find(mark, searched)) < 0:
        # The mark may lie across two chunks.
        searched = max(0, buffer.size - len(mark) + 1)
        if searched > limit:
            raise RefusedInput("a part is over the limit", code="too-large")
        if not buffer.read_more():
            raise UpstreamUnavailable(
                "the archive ended its answer in the middle", code="connection-dropped"
            )
    if found > limit:
        raise RefusedInput("a part is over the limit", code="too-large")
    body = buffer.take(found)
    if not keep_mark:
        buffer.skip(len(mark))
    return body


class _Buffer:
    """A window onto the stream. Grows only with what really arrived, not with what is claimed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._data = bytearray(_FIRST_BUFFER)
        self._view = memoryview(self._data)
        self._start = self._end = 0

    @property
    def size(self) -> int:
        return self._end - self._start

    def read_more(self) -> bool:
        """Append the next chunk; False at the end of the stream."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        if self._end + len(chunk) > len(self._data):
            self._make_room(len(chunk))
        self._view[self._end : self._end + len(chunk)] = chunk
        self._end += len(chunk)
        return True

    def _make_room(self, more: int) -> None:
        size = self.size
        window = self._view[self._start : self._end]
        if 2 * (size + more) > len(self._data):
            self._data = bytearray(2 * (size + more))
            self._view = memoryview(self._data)
        self._view[:size] = window
        self._start, self._end = 0, size

    def starts_with(self, expected: bytes, at: int = 0) -> bool:
        """Whether the stream goes on with `expected` after `at` bytes; reads what is needed."""
        while self.size < at + len(expected):
            begun = bytes(self._view[self._start + at : self._end])
            if not expected.startswith(begun) or not self.read_more():
                return False
        begin = self._start + at
        return self._data.startswith(expected, begin, begin + len(expected))

    def find(self, mark: bytes, start: int) -> int:
        found = self._data.find(mark, self._start + start, self._end)
        return found if found < 0 else found - self._start

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, which must be in."""
        view = self._view[self._start : self._start + count]
        self._start += count
        return view

    def skip(self, count: int) -> None:
        self._start += count
