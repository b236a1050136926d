"""Request bodies out of bytes. This module does no I/O.

h11 is not used here. It accepts any byte except LF in a chunk extension, and two of its regular expressions need
quadratic time for chunk lines and trailers.
"""

from __future__ import annotations

import re

from .._http._headers import TCHAR
from .._http._limits import Limits
from ._head import BadRequest
from ._sections import CRLF, check_line_ends, check_lines, split_section, take

_FIELD_LINE = re.compile(TCHAR.encode() + rb"+:")

# RFC 9112, section 7.1. Like h11, this limits the size to 20 digits and accepts white space after it. An extension
# may contain any byte except control characters: proxies disagree about CR and NUL in it.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class SizedBody:
    """A body with a Content-Length."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def next_piece(self, buffer: bytearray) -> bytes | None:
        """See ``RequestReader.next_body``. Removes the piece from the buffer."""
        if self._left and not buffer:
            return None
        piece = take(buffer, self._left)
        self._left -= len(piece)
        return piece


class ChunkedBody:
    """A chunked body (RFC 9112, section 7.1). Trailers are checked and discarded (RFC 9110, section 6.5.1)."""

    __slots__ = ("_in_trailers", "_left", "_limits", "_line_start", "_seen")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = 0  # bytes of the current chunk that have not been returned yet
        self._line_start = 0  # the position of the next size line: 2 after a chunk, which ends with CRLF
        self._in_trailers = False
        self._seen = 0  # bytes of the buffer that were already searched for the end of a line or of the trailers

    def next_piece(self, buffer: bytearray) -> bytes | None:
        """See ``RequestReader.next_body``. Removes the piece from the buffer."""
        if not self._left and not self._in_trailers and not self._begin_chunk(buffer):
            return None
        if self._in_trailers:
            return b"" if self._skip_trailers(buffer) else None
        if not buffer:
            return None
        piece = take(buffer, self._left)
        self._left -= len(piece)
        return piece

    def _begin_chunk(self, buffer: bytearray) -> bool:
        """Parse the size line of the next chunk. Returns False if it is incomplete."""
        start = self._line_start
        if not CRLF[:start].startswith(buffer[:start]):
            raise BadRequest("a chunk is longer than its size (RFC 9112, section 7.1)")
        end = buffer.find(CRLF, max(start, self._seen - 1))
        if (len(buffer) if end < 0 else end) > self._limits.head:
            raise BadRequest(f"the size line of a chunk is longer than {self._limits.head} bytes")
        if end < 0:
            check_line_ends(buffer, self._seen)
            self._seen = len(buffer)
            return False
        line = _CHUNK_LINE.fullmatch(buffer, start, end)
        if line is None:
            raise BadRequest("the size line of a chunk is malformed (RFC 9112, section 7.1)")
        self._left = int(line[1], 16)
        self._in_trailers = not self._left
        self._line_start = len(CRLF)
        self._seen = 0
        del buffer[: end + len(CRLF)]
        return True

    def _skip_trailers(self, buffer: bytearray) -> bool:
        """Remove the trailers from the buffer. Returns False if they are incomplete."""
        if buffer.startswith(CRLF):  # no trailers
            del buffer[:2]
            return True
        raw = split_section(buffer, self._seen)
        if (len(buffer) if raw is None else len(raw)) > self._limits.head:
            raise BadRequest(f"the trailers are longer than {self._limits.head} bytes", 431)
        if raw is None:
            check_line_ends(buffer, self._seen)
            self._seen = len(buffer)
            return False
        check_lines(raw, 0, self._limits)
        if not all(map(_FIELD_LINE.match, raw.split(CRLF)[:-2])):
            raise BadRequest("a trailer is not a header field (RFC 9112, section 7.1.2)")
        return True
