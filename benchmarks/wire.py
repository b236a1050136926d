"""The bytes that a client sends and the check of those that come back.

Whatever is sent is built once, before the clock runs. A reply is taken apart and checked in full; after that
the load loops accept, without taking it apart, what equals byte for byte a reply that has passed.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

HELLO = b"Hello, world!"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL_CLOSURE = (1000).to_bytes(2, "big")
MASK = b"\x37\xfa\x21\x3d"

# The key of RFC 6455, section 1.3, and what a server makes of it.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = rb"\r\n(?i:sec-websocket-accept): *s3pPLMBiTxaQ9kYGzzhZRbK\+xOo= *\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)


class ReplyError(Exception):
    """The server did not do what it was asked for."""


class Replies(Protocol):
    """Checks the replies to one kind of request."""

    one: bytes  # a reply that passed, or b"" as long as none has

    def take(self, pending: bytearray) -> tuple[int, int]:
        """Remove the complete replies from the front of `pending`.

        Returns how many there were, and how many bytes must be pending before it is worth while to ask again.
        Raises ReplyError for a reply that is not the right one.
        """


class Exchange(NamedTuple):
    """A request and the check of its reply."""

    request: bytes
    replies: Replies


class HttpReplies:
    """Replies with one status, one body and, where `header` says so, a header that must be there."""

    def __init__(self, status: int, body: bytes, header: bytes = b"") -> None:
        self.one = b""
        self._start = b"HTTP/1.1 %d " % status
        self._body = body
        self._header = re.compile(header)

    def take(self, pending: bytearray) -> tuple[int, int]:
        count = 0
        while pending:
            size = len(self.one) if self.one and pending.startswith(self.one) else self._check(pending)
            if size > len(pending):
                return count, size
            self.one = bytes(pending[:size])
            del pending[:size]
            count += 1
        return count, 0

    def _check(self, pending: bytearray) -> int:
        """Check as much of the first reply as is there and return how long it is, at the least."""
        end = pending.find(b"\r\n\r\n") + 4
        if end < 4:
            return len(pending) + 1
        head = bytes(pending[: end - 2])
        length = CONTENT_LENGTH.search(head)
        if not head.startswith(self._start) or not self._header.search(head):
            raise ReplyError(f"unexpected reply {head[:200]!r}")
        if length is None and self._body:
            raise ReplyError(f"no Content-Length in {head[:200]!r}")
        size = end + (int(length[1]) if length else 0)
        if len(pending) >= size and pending[end:size] != self._body:
            raise ReplyError(f"wrong body of {size - end} bytes: {bytes(pending[end:size][:60])!r}")
        return size


class MessageReplies:
    """WebSocket messages of one opcode and one payload, in one frame or in several."""

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.one = server_frame(opcode, payload)
        self._opcode = opcode
        self._payload = payload

    def take(self, pending: bytearray) -> tuple[int, int]:
        count = 0
        while pending:
            size = len(self.one) if pending.startswith(self.one) else self._check(pending)
            if size > len(pending):
                return count, size
            del pending[:size]
            count += 1
        return count, 0

    def _check(self, pending: bytearray) -> int:
        """Check as much of the first message as is there and return how long it is, at the least."""
        payload = b""
        opcode = self._opcode
        end = 0
        while True:
            start, size = frame_bounds(pending, end)
            if start + size > len(pending):
                return start + size
            if pending[end] & 0x7F != opcode:
                raise ReplyError(f"unexpected frame {bytes(pending[end : start + 60])!r}")
            payload += pending[start : start + size]
            last = pending[end] & 0x80
            end = start + size
            opcode = 0
            if last:
                break
        if payload != self._payload:
            raise ReplyError(f"wrong message of {len(payload)} bytes: {payload[:60]!r}")
        return end


def frame_bounds(data: bytearray, at: int) -> tuple[int, int]:
    """Where the payload of the server's frame at `at` starts, and its size (0 if that has not come)."""
    start = at + 2
    if len(data) >= start:
        start += {126: 2, 127: 8}.get(data[at + 1], 0)
    if len(data) < start:
        return start, 0
    return start, data[at + 1] if start == at + 2 else int.from_bytes(data[at + 2 : start], "big")


def frame_header(opcode: int, size: int, masked: bool, last: bool = True) -> bytes:
    """The first bytes of a frame; `last` is whether its message ends with it."""
    first, flag = (0x80 if last else 0) | opcode, 0x80 if masked else 0
    if size < 126:
        return bytes((first, flag | size))
    if size < 2**16:
        return bytes((first, flag | 126)) + size.to_bytes(2, "big")
    return bytes((first, flag | 127)) + size.to_bytes(8, "big")


def server_frame(opcode: int, payload: bytes) -> bytes:
    return frame_header(opcode, len(payload), masked=False) + payload


def client_frame(opcode: int, payload: bytes, last: bool = True) -> bytes:
    size = len(payload)
    mask = (MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return frame_header(opcode, size, masked=True, last=last) + MASK + masked.to_bytes(size, "big")


def some_bytes(size: int) -> bytes:
    """Printable, so that the same bytes do for text and for binary."""
    return bytes(32 + i % 95 for i in range(size))


def get(close: bool = False) -> Exchange:
    last = b"Connection: close\r\n" if close else b""
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + last + b"\r\n"
    return Exchange(request, HttpReplies(200, HELLO))


def post(size: int) -> Exchange:
    body = some_bytes(size)
    head = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    return Exchange(head % size + body, HttpReplies(200, body))


def upgrade(path: str, offer: bytes = b"") -> Exchange:
    """An opening handshake, with a line that offers extensions if it shall have one."""
    request = (
        b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s\r\n" % (path.encode(), KEY, offer)
    )
    return Exchange(request, HttpReplies(101, b"", ACCEPT))


def message(opcode: int, payload: bytes) -> Exchange:
    return Exchange(client_frame(opcode, payload), MessageReplies(opcode, payload))


def echo(size: int, binary: bool = False) -> Exchange:
    return message(BINARY if binary else TEXT, some_bytes(size))


def close() -> Exchange:
    return message(CLOSE, NORMAL_CLOSURE)
