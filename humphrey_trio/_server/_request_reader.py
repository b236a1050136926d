"""The reading side of the HTTP/1.1 codec: requests out of bytes. It does no I/O.

This module finds the end of each head, and rejects bytes that can no longer become one. A ``HeadParser`` parses
the complete head.

Parsing takes linear time in the number of bytes from the peer, no matter how they are split into reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from .._http._headers import TCHAR
from .._http._limits import Limits
from ._body_decoder import ChunkedBody, SizedBody
from ._client_hello import is_tls
from ._h11_head import REQUEST_LINE, parse_h11
from ._head import BadRequest, Head, TlsOnPlainPort
from ._sections import CRLF, check_line_ends, check_size, split_section

#: Parses a complete head, including its empty line, within limits. Raises ``BadRequest``.
HeadParser: TypeAlias = Callable[[bytes, Limits], Head]

# The start of a method, or the first half of the CRLF that may precede a request.
_START = re.compile(TCHAR.encode() + rb"|\r\Z")


class RequestReader:
    """Parse the requests of one connection.

    Call ``next_head``, and then ``next_body`` until it returns empty bytes.

    This class has the only buffer. The parser gets a head when it is complete, and bodies are decoded from the
    buffer.

    Args:
        limits: the limits for heads, and for the lines and trailers of a chunked body.
        buffer: bytes that were received before. The reader takes ownership.
        parse: parses the heads.
    """

    __slots__ = ("_body", "_buffer", "_limits", "_line_end", "_parse", "_refused", "_seen", "_skipped")

    def __init__(self, limits: Limits, buffer: bytearray | None = None, *, parse: HeadParser = parse_h11) -> None:
        self._limits = limits
        self._parse = parse
        self._buffer = bytearray() if buffer is None else buffer
        self._seen = 0  # bytes of the buffer that were already searched for the end of a head
        self._line_end = -1  # the position of the end of the request line; -1 if not found yet
        self._skipped = False  # whether an empty line before the request was skipped
        self._body: SizedBody | ChunkedBody | None = None
        self._refused = b""  # a complete head that is not valid

    def receive(self, data: bytes) -> None:
        """Add bytes from the peer to the buffer."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """The number of bytes that were received and not yet returned in a head or body."""
        return len(self._buffer)

    @property
    def is_refused_head_request(self) -> bool:
        """Whether the method is HEAD, of a head that was refused or is not complete."""
        return (self._refused or self._buffer).startswith(b"HEAD ")

    def take_rest(self) -> bytearray:
        """Return the bytes after the last head, and clear the buffer. For an upgrade of the connection.

        Returns the buffer itself. A copy for each of many refused upgrades in one read would take quadratic time.
        """
        rest, self._buffer = self._buffer, bytearray()
        return rest

    def next_head(self) -> Head | None:
        """Parse the next head.

        Returns:
            The head, or None if it is incomplete.

        Raises:
            BadRequest: the head is malformed, not supported, or exceeds a limit.
        """
        if not self._buffer:
            return None
        raw = self._split_head()
        if raw is None:
            return None
        try:
            head = self._parse(raw, self._limits)
        except BadRequest:
            self._refused = raw
            raise
        length = head.content_length
        if length is None:
            self._body = ChunkedBody(self._limits)
        else:
            self._body = SizedBody(length) if length else None
        return head

    def next_body(self) -> bytes | None:
        """Decode the next piece of the current body.

        Returns:
            At least one byte; empty at the end of the body, None if more bytes are needed.

        Raises:
            BadRequest: a chunk is malformed, or its size line or the trailers exceed a limit.
        """
        if self._body is None:
            return b""
        piece = self._body.next_piece(self._buffer)
        if piece == b"":
            self._body = None
        return piece

    def _split_head(self) -> bytes | None:
        buffer = self._buffer
        # A server should ignore an empty line before the request line (RFC 9112, section 2.2).
        if not self._skipped and buffer.startswith(CRLF):
            del buffer[:2]
            self._skipped = True
            self._seen = 0
        raw = split_section(buffer, self._seen)
        if raw is None:
            self._check_incomplete()
            self._seen = len(buffer)
            return None
        self._seen = 0
        self._line_end = -1
        self._skipped = False
        return raw

    def _check_incomplete(self) -> None:
        """Reject an incomplete head that can no longer become valid."""
        buffer = self._buffer
        if not buffer:  # it was only the empty line before a request
            return
        if not _START.match(buffer):
            raise TlsOnPlainPort if is_tls(buffer) else BadRequest("this is not HTTP")
        if self._line_end < 0:
            self._line_end = buffer.find(CRLF, max(0, self._seen - 1))
            if self._line_end >= 0 and not REQUEST_LINE.fullmatch(buffer, 0, self._line_end):
                raise BadRequest("the request line is malformed")
        # A CR at the end may be the first half of the line's CRLF, which does not count.
        line_size = self._line_end if self._line_end >= 0 else len(buffer) - buffer.endswith(b"\r")
        check_size(len(buffer), line_size, self._limits)
        check_line_ends(buffer, self._seen)
