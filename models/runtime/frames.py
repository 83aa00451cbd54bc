"""Messages between a worker and the process of an isolated network.

A frame is one letter, eight bytes of length (big endian), and the content: JSON, or tensors
as a safetensors file. Nothing is unpickled: the other process may have been taken over.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final

import numpy as np

from models.runtime.base import Array, Arrays

#: Letters of frames.
START: Final = b"S"
READY: Final = b"R"
BATCH: Final = b"B"
ANSWER: Final = b"A"
FAILED: Final = b"F"

_HEAD: Final = 9
#: Largest frame, in bytes.
MAX_BYTES: Final = 16_000_000_000


class Closed(Exception):
    """The other side has gone."""


class Malformed(Exception):
    """The other side does not speak our language."""


def send(channel: socket.socket, letter: bytes, content: bytes, deadline: float | None) -> None:
    """Send one frame.

    Raises:
        Closed, TimeoutError: `deadline` (`time.monotonic`) has passed.
    """
    channel.settimeout(_left(deadline))
    try:
        channel.sendall(letter + len(content).to_bytes(_HEAD - 1, "big"))
        channel.settimeout(_left(deadline))
        channel.sendall(content)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def receive(channel: socket.socket, deadline: float | None) -> tuple[bytes, bytes]:
    """(letter, content) of the next frame.

    Raises:
        Closed, Malformed, TimeoutError: `deadline` (`time.monotonic`) has passed.
    """
    head = _exactly(channel, _HEAD, deadline)
    length = int.from_bytes(head[1:], "big")
    if length > MAX_BYTES:
        raise Malformed
    return head[:1], _exactly(channel, length, deadline)


def _exactly(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < length:
        channel.settimeout(_left(deadline))
        try:
            piece = channel.recv(min(length - len(data), 1 << 20))
        except ConnectionResetError as error:
            raise Closed from error
        if not piece:
            raise Closed
        data += piece
    return bytes(data)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def pack(arrays: Arrays) -> bytes:
    """Tensors as a safetensors file."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def unpack(data: bytes) -> dict[str, Array]:
    """The tensors of `pack`.

    Raises:
        Malformed: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise Malformed from error


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object of a frame.

    Raises:
        Malformed: it is none.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    if not isinstance(found, dict):
        raise Malformed
    return found
