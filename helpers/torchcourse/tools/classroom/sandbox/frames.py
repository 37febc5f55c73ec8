"""Messages over a socket between a grader and a sandbox: JSON, with its length before it."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
MOST = 64 * 2**20
"""Bytes of the longest message."""
MOST_PARTS = 2 * 2**20
"""Brackets of a message that is read, also those in its texts, which are shorter: each may take 200 bytes of memory."""


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Raise OSError if the other end is gone, ValueError for a message that is too long."""
    data = json.dumps(message, default=repr, skipkeys=True).encode()
    if len(data) > MOST:
        raise ValueError(f"The message is {len(data):,} bytes long, and at most {MOST:,} are sent.")
    channel.sendall(_LENGTH.pack(len(data)) + data)


class Reader:
    """Puts messages together from what has arrived, and never waits."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> dict[str, Any] | None:
        """Return a message as soon as it is whole.

        Raises:
            ValueError: if what arrives is no message; who sent it cannot be trusted.
        """
        self._data += data
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > MOST:
            raise ValueError("The message is too long.")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        text = self._data[_LENGTH.size : end]
        if text.count(b"[") + text.count(b"{") > MOST_PARTS:
            raise ValueError("The message has too many parts.")
        message = json.loads(text)
        del self._data[:end]
        if not isinstance(message, dict):
            raise ValueError("The message is no object.")
        return message


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """Wait for the next message; None if the other end is gone."""
    header = _exactly(channel, _LENGTH.size)
    if header is None:
        return None
    (length,) = _LENGTH.unpack(header)
    data = _exactly(channel, length)
    return None if data is None else json.loads(data)


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        more = channel.recv(min(count - len(data), 2**20))
        if not more:
            return None
        data += more
    return bytes(data)
