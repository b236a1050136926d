"""The bytes that clients send, and the checks of the replies.

Requests are encoded once, before the measured time. The first reply is parsed and checked. After that, a reply
that is equal to a checked one is accepted without parsing; any other is parsed and checked.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from benchmarks.payload import HELLO, JSON, JSON_FIELDS

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL_CLOSURE = (1000).to_bytes(2, "big")
MASK = b"\x37\xfa\x21\x3d"

# The key of RFC 6455, section 1.3, and the field that a server must send for it.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = rb"\r\n(?i:sec-websocket-accept): *s3pPLMBiTxaQ9kYGzzhZRbK\+xOo= *\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)


CLOSE_FIELD = b"Connection: close\r\n"
# What Chromium sends besides Host when a page is loaded, with the cookies of a session and of a web analysis.
# With the request line and Host, the head has 522 bytes.
BROWSER_FIELDS = (
    b"Connection: keep-alive\r\n"
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0"
    b" Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n"
    b"Cookie: session=dGhpcy1pcy1hLXNlc3Npb24taWQ; _ga=GA1.1.1208482613.1764291600\r\n"
)


class ReplyError(Exception):
    """A reply is wrong or missing."""


class Replies(Protocol):
    """Checks the replies to one kind of request."""

    one: bytes  # a reply that passed the check, or b"" before the first one

    def take(self, pending: bytearray) -> tuple[int, int]:
        """Remove the complete replies from the front of `pending`.

        Returns:
            The number of replies, and the number of pending bytes below which no further reply can be complete.

        Raises:
            ReplyError: a reply is wrong.
        """


class Exchange(NamedTuple):
    """A request and the check of its reply."""

    request: bytes
    replies: Replies


class HttpReplies:
    """Checks HTTP replies.

    Args:
        status: the required status.
        body: the required body.
        header: a regular expression that must match in the head.
    """

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
        """Check the received part of the first reply. Returns the least size that the reply can have."""
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
    """Checks WebSocket messages of one opcode and one payload, in one or several frames."""

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
        """Check the received part of the first message. Returns the least size that the message can have."""
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
    """Return the start of the payload of the unmasked frame at `at`, and its size, or 0 if it is not known yet."""
    start = at + 2
    if len(data) >= start:
        start += {126: 2, 127: 8}.get(data[at + 1], 0)
    if len(data) < start:
        return start, 0
    return start, data[at + 1] if start == at + 2 else int.from_bytes(data[at + 2 : start], "big")


def frame_header(opcode: int, size: int, masked: bool, last: bool = True) -> bytes:
    """Return the header of a frame, without the mask. `last` is the FIN bit."""
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
    """Return printable bytes, which are valid in text and in binary messages."""
    return bytes(32 + i % 95 for i in range(size))


def get(path: str = "/", fields: bytes = b"") -> Exchange:
    """Return a GET of `/` or `/json`. `fields` are header lines besides Host."""
    request = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n" % (path.encode(), fields)
    replies = HttpReplies(200, HELLO) if path == "/" else HttpReplies(200, JSON, _all_of(JSON_FIELDS))
    return Exchange(request, replies)


def _all_of(fields: dict[str, str]) -> bytes:
    """Return a regular expression that matches a head with all these fields, in any order.

    A server may add a parameter to a value, such as a charset.
    """
    one = r"(?=.*\r\n(?i:{}): *{} *(?:;[^\r]*)?\r\n)"
    lines = [one.format(re.escape(name), re.escape(value)) for name, value in fields.items()]
    return f"(?s){''.join(lines)}".encode()


def post(size: int) -> Exchange:
    body = some_bytes(size)
    head = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    return Exchange(head % size + body, HttpReplies(200, body))


def upgrade(path: str, offer: bytes = b"") -> Exchange:
    """Return an opening handshake. `offer` is a header line that offers extensions, or empty."""
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
