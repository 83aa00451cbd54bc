"""The few pieces of ASGI that the gateway needs; no web framework, which costs more than a read.

Names follow the ASGI specification (HTTP connection scope, version 2.3).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fhir_ext.errors import BadRequestError, CallerError, TooLargeError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

#: Answers shorter than this (bytes) are not worth compressing.
COMPRESS_FROM = 1400

#: Longest wait (s) for a caller that does not read; its answer holds a connection of ours.
SLOWEST_READER = 60.0

#: zlib: gzip wrapper (RFC 1952) around the largest window.
_GZIP = 16 + zlib.MAX_WBITS


class RequestTimeout(CallerError):
    """The caller sends its body too slowly."""

    status = 408
    default_code = "request-timeout"
    issue_type = "timeout"


class Disconnected(Exception):
    """The caller went away; nobody reads an answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request before its body is read.

    Attributes:
        method: HTTP method in capitals.
        path: raw path below the mount point, undecoded, with its leading slash.
        query: raw query string.
        headers: names in lower case; the last of repeated ones.
        repeated: names that came more than once.
        address: IP address of the caller, as the server sees it.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    repeated: frozenset[str]
    address: str | None


def request_of(scope: Scope, mount: str) -> Request:
    """Read an HTTP scope.

    Raises:
        BadRequestError: path or headers are not ASCII or ISO 8859-1.
    """
    raw = scope.get("raw_path") or scope["path"].encode()
    try:
        path, query = raw.decode("ascii"), scope["query_string"].decode("ascii")
    except UnicodeDecodeError as error:
        raise BadRequestError("the address holds bytes that must be percent-encoded") from error
    headers: dict[str, str] = {}
    repeated = set()
    for name, value in scope["headers"]:
        key = name.decode("latin-1")
        if key in headers:
            repeated.add(key)
        headers[key] = value.decode("latin-1")
    client = scope.get("client")
    return Request(
        scope["method"],
        path.removeprefix(mount) or "/",
        query,
        headers,
        frozenset(repeated),
        client[0] if client else None,
    )


def timely(receive: Receive, patience: float) -> Receive:
    """`receive` that gives up on a caller who sends nothing for so long (s)."""

    async def receiving() -> Message:
        try:
            return await asyncio.wait_for(receive(), patience)
        except TimeoutError as error:
            raise RequestTimeout("the body did not arrive in time") from error

    return receiving


async def read_body(receive: Receive, most: int, patience: float, encoding: str = "") -> bytes:
    """The whole body.

    Args:
        most: largest size (bytes), before and after decompression.
        patience: longest wait (s) for the next piece.
        encoding: Content-Encoding; `gzip` and `identity` are understood.

    Raises:
        TooLargeError: it is larger.
        RequestTimeout: the caller is too slow.
        BadRequestError: another encoding, or not gzip.
        Disconnected: the caller went away.
    """
    pieces: list[bytes] = []
    size, receive = 0, timely(receive, patience)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        piece = message.get("body", b"")
        size += len(piece)
        if size > most:
            raise TooLargeError(f"the body is longer than {most} bytes")
        pieces.append(piece)
        if not message.get("more_body"):
            break
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise BadRequestError("Content-Encoding may be gzip or identity", code="content-encoding")
    return _unzipped(body, most)


def _unzipped(body: bytes, most: int) -> bytes:
    unzip = zlib.decompressobj(_GZIP)
    try:
        plain = unzip.decompress(body, most + 1)
    except zlib.error as error:
        raise BadRequestError("the body is not gzip", code="content-encoding") from error
    if len(plain) > most:
        raise TooLargeError(f"the body is longer than {most} bytes")
    if not unzip.eof:
        raise BadRequestError("the gzip body ends early", code="content-encoding")
    return plain


def accepts_gzip(request: Request) -> bool:
    """Whether the caller takes gzip (RFC 9110 section 12.5.3)."""
    for item in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() in ("gzip", "*") and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return True
    return False


class Answer:
    """Sends one response: whole or in pieces, compressed where the caller takes it.

    Args:
        send: of ASGI.
        common: headers that every answer of this request has (security, CORS, request id).
        gzip: whether the caller takes gzip.
        patience: longest wait (s) for a caller that does not read what was sent.
    """

    __slots__ = ("_gzip", "_patience", "_sending", "_zip", "common", "started", "status")

    def __init__(
        self, send: Send, common: Headers, gzip: bool, patience: float = SLOWEST_READER
    ) -> None:
        self._sending, self.common, self._gzip = send, common, gzip
        self._patience = patience
        self._zip: Any = None
        self.started = False
        self.status = 0

    async def whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send everything at once."""
        head = [*headers, *self.common]
        if self._gzip and len(body) >= COMPRESS_FROM:
            body = _zipped(body)
            head.append((b"content-encoding", b"gzip"))
        # RFC 9110 section 8.6: no Content-Length with 204; with 304 it would be another one.
        if status not in (204, 304):
            head.append((b"content-length", str(len(body)).encode()))
        await self._start(status, head)
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the head; `piece` and `end` follow."""
        head = [*headers, *self.common]
        if self._gzip:
            self._zip = zlib.compressobj(1, wbits=_GZIP)
            head.append((b"content-encoding", b"gzip"))
        await self._start(status, head)

    async def piece(self, body: bytes) -> None:
        """Send a piece of the body; waits while the caller reads slowly."""
        if self._zip:
            body = self._zip.compress(body)
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        """Send the last piece."""
        if self._zip:
            body = self._zip.compress(body) + self._zip.flush()
        await self._send({"type": "http.response.body", "body": body})

    async def _send(self, message: Message) -> None:
        """Send a piece; the server lets us wait while the caller does not read.

        Raises:
            Disconnected: it waited for too long.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._sending(message)
        except TimeoutError as error:
            raise Disconnected from error

    async def _start(self, status: int, headers: Headers) -> None:
        if self._gzip:
            headers.append((b"vary", b"accept-encoding"))
        self.started, self.status = True, status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _zipped(body: bytes) -> bytes:
    zipper = zlib.compressobj(1, wbits=_GZIP)
    return zipper.compress(body) + zipper.flush()
