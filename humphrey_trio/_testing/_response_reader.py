"""Responses out of bytes, for a test client. It does no I/O.

It rejects what ordinary clients tolerate (RFC 9112), because it is used to test servers. It shares no code with
the parsers of the server, so that it does not share their errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .._http._field_lists import connection_options, tokens
from .._http._headers import TCHAR, Headers
from .._http._response import Response
from .._quoting import quoted

_CRLF = b"\r\n"
_NO_TRAILERS = Headers()
_SWITCHING = 101
_NO_CONTENT = 204
_RESET_CONTENT = 205
_NOT_MODIFIED = 304
# Bytes of a head, of the trailers, or of the size line of a chunk.
_MAX_LINES = 256 * 1024

# RFC 9112, section 4. The space after the status code is required, and the reason phrase is not.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD_NAME = re.compile(TCHAR.encode() + rb"+")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class ResponseError(ConnectionError):
    """The server has sent a response that violates HTTP, or that a client cannot use.

    Args:
        reason: the message.
        response: the response, if it is complete.

    Attributes:
        response: as above; None if the response is malformed or incomplete.
    """

    def __init__(self, reason: str, response: Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response, which was checked.

    Attributes:
        status: the status code. Below 200 for an interim response, except for 101.
        headers: all header fields.
        close: whether the connection cannot be used after the response.
    """

    status: int
    headers: Headers
    close: bool

    @property
    def is_interim(self) -> bool:
        """Whether the final response follows (RFC 9110, section 15.2)."""
        return self.status < 200 and self.status != _SWITCHING


@dataclass(frozen=True, slots=True)
class ResponseEnd:
    """The end of a response.

    Attributes:
        trailers: the fields after a chunked body (RFC 9112, section 7.1.2).
    """

    trailers: Headers = _NO_TRAILERS


Event: TypeAlias = ResponseHead | bytes | ResponseEnd


class ResponseReader:
    """Parses the responses of one connection, to one request after the other."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ended = False
        self._method = ""
        self._head = _Section()
        self._body: _Body | None = None

    def begin(self, method: str) -> None:
        """Expect the response to a request.

        Args:
            method: the method of the request. The response to HEAD has no body.
        """
        self._method = method
        self._head = _Section()
        self._body = None

    def receive(self, data: bytes) -> None:
        """Add bytes from the server; empty bytes at its end of file."""
        self._buffer += data
        self._ended = not data

    @property
    def ended(self) -> bool:
        """Whether the server has sent its end of file."""
        return self._ended

    @property
    def rest(self) -> bytes:
        """The bytes after the head of a 101, which are not HTTP."""
        return bytes(self._buffer)

    def next(self) -> Event | None:
        """Parse the next part of the response.

        Returns:
            The head, a piece of the body, or the end. None if more bytes are needed.

        Raises:
            ResponseError: the response is malformed, or incomplete at the end of file.
            ConnectionError: the end of file is there instead of a response.
        """
        if self._body is None:
            return self._next_head()
        found = self._body.next(self._buffer, self._ended)
        if found is None and self._ended:
            raise ResponseError("the server has closed the connection before the end of the body")
        if isinstance(found, ResponseEnd) and self._buffer:
            raise ResponseError(f"there are bytes after the end of the response: {_shown(self._buffer)}")
        return found

    def _next_head(self) -> ResponseHead | None:
        lines = self._head.take(self._buffer)
        if lines is not None:
            head = _parse_head(lines)
            if head.is_interim:
                _check_without_framing(head)
            else:
                self._body = _body_of(head, self._method)
            return head
        if self._ended and self._buffer:
            raise ResponseError(f"the server has closed the connection in a head: {_shown(self._buffer)}")
        if self._ended:
            raise ConnectionError("the server has closed the connection without a response")
        return None


class _Section:
    """Header lines up to an empty line, in a buffer. Bytes that were searched are not searched again."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen = 0

    def take(self, buffer: bytearray) -> list[bytes] | None:
        """Remove the section from the start of the buffer.

        Returns:
            Its lines without their ends, or None if it is incomplete.
        """
        end = buffer.find(b"\r\n\r\n", max(0, self._seen - 3))
        if (len(buffer) if end < 0 else end) > _MAX_LINES:
            raise ResponseError(f"a head or the trailers are longer than {_MAX_LINES} bytes")
        if end < 0:
            _check_line_ends(buffer, self._seen)
            self._seen = len(buffer)
            return None
        lines = bytes(buffer[:end]).split(_CRLF)
        del buffer[: end + 4]
        self._seen = 0
        return lines


def _check_line_ends(buffer: bytearray, seen: int) -> None:
    # The first new byte may be an LF whose CR was the last old byte.
    if buffer.count(b"\n", seen) != buffer.count(_CRLF, max(0, seen - 1)):
        raise ResponseError(f"a line ends in LF without CR: {_shown(buffer)}")


# Heads...


def _parse_head(lines: list[bytes]) -> ResponseHead:
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ResponseError(f"the status line is malformed (RFC 9112, section 4): {_shown(lines[0])}")
    headers = _parse_fields(lines[1:])
    close = status_line[1] == b"0" or "close" in connection_options(headers)
    return ResponseHead(int(status_line[2]), headers, close)


def _parse_fields(lines: list[bytes]) -> Headers:
    fields: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name) or _CONTROLS.search(value):
            raise ResponseError(f"a header line is malformed (RFC 9112, section 5): {_shown(line)}")
        fields.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    return Headers.from_checked(tuple(fields))


def _body_of(head: ResponseHead, method: str) -> _Body:
    """Return the body that a head announces (RFC 9112, section 6.3)."""
    if head.status in (_SWITCHING, _NO_CONTENT):
        _check_without_framing(head)
        return _ForeignBody() if head.status == _SWITCHING else _SizedBody(0)
    length, chunked = _content_length(head), _is_chunked(head)
    if length is not None and chunked:
        raise ResponseError("a response has Content-Length and Transfer-Encoding (RFC 9112, section 6.2)")
    if method == "HEAD" or head.status == _NOT_MODIFIED:
        return _SizedBody(0)
    if head.status == _RESET_CONTENT and length != 0:
        raise ResponseError("a 205 must have Content-Length: 0 (RFC 9110, section 15.3.6)")
    if chunked:
        return _ChunkedBody()
    return _BodyUntilEnd() if length is None else _SizedBody(length)


def _check_without_framing(head: ResponseHead) -> None:
    for name in ("Content-Length", "Transfer-Encoding"):
        if name in head.headers:
            raise ResponseError(f"a {head.status} must not have {name} (RFC 9110, section 8.6)")


def _content_length(head: ResponseHead) -> int | None:
    if "Content-Length" not in head.headers:
        return None
    value = ", ".join(head.headers.get_all("Content-Length"))
    if not value.isascii() or not value.isdigit():
        raise ResponseError(f"Content-Length is repeated or not a number: {quoted(value)}")
    return int(value)


def _is_chunked(head: ResponseHead) -> bool:
    codings = [coding for value in head.headers.get_all("Transfer-Encoding") for coding in tokens(value)]
    if codings not in ([], ["chunked"]):
        raise ResponseError(f"the client did not accept this Transfer-Encoding: {quoted(', '.join(codings))}")
    return bool(codings)


# Bodies...


class _Body(Protocol):
    def next(self, buffer: bytearray, ended: bool) -> bytes | ResponseEnd | None:
        """Remove the next piece from the buffer, or return the end. None if more bytes are needed."""
        ...


class _SizedBody:
    """A body with a Content-Length."""

    def __init__(self, size: int) -> None:
        self._left = size

    def next(self, buffer: bytearray, ended: bool) -> bytes | ResponseEnd | None:
        if not self._left:
            return ResponseEnd()
        piece = _take(buffer, self._left)
        self._left -= len(piece)
        return piece or None


class _BodyUntilEnd:
    """A body that ends with the connection."""

    def next(self, buffer: bytearray, ended: bool) -> bytes | ResponseEnd | None:
        return _take(buffer, len(buffer)) or (ResponseEnd() if ended else None)


class _ForeignBody:
    """What follows a 101 belongs to another protocol, and stays in the buffer."""

    def next(self, buffer: bytearray, ended: bool) -> bytes | ResponseEnd | None:
        raise ResponseError("the server has switched the protocol: use websocket_client for WebSockets")


class _ChunkedBody:
    """A chunked body (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._left = 0
        self._mark = b""  # what the chunk before must end with
        self._seen = 0  # bytes of the buffer that were already searched for the end of a size line
        self._trailers: _Section | None = None

    def next(self, buffer: bytearray, ended: bool) -> bytes | ResponseEnd | None:
        if self._trailers is None and not self._left:
            self._begin_chunk(buffer)
        if self._trailers is not None:
            return self._end(buffer, self._trailers)
        piece = _take(buffer, self._left)
        self._left -= len(piece)
        return piece or None

    def _begin_chunk(self, buffer: bytearray) -> None:
        """Parse the size line of the next chunk, if it is complete."""
        mark = self._mark
        if not mark.startswith(buffer[: len(mark)]):
            raise ResponseError("a chunk is longer than its size (RFC 9112, section 7.1)")
        end = buffer.find(_CRLF, max(len(mark), self._seen - 1))
        if (len(buffer) if end < 0 else end) > _MAX_LINES:
            raise ResponseError(f"the size line of a chunk is longer than {_MAX_LINES} bytes")
        if end < 0:
            _check_line_ends(buffer, self._seen)
            self._seen = len(buffer)
            return
        line = _CHUNK_LINE.fullmatch(buffer, len(mark), end)
        if line is None:
            raise ResponseError(f"the size line of a chunk is malformed: {_shown(buffer[len(mark) : end])}")
        self._left = int(line[1], 16)
        self._mark, self._seen = _CRLF, 0
        if self._left:
            del buffer[: end + 2]
        else:
            del buffer[:end]  # so that the trailers always begin with CRLF
            self._trailers = _Section()

    def _end(self, buffer: bytearray, trailers: _Section) -> ResponseEnd | None:
        lines = trailers.take(buffer)
        return None if lines is None else ResponseEnd(_parse_fields(lines[1:]))


def _take(buffer: bytearray, size: int) -> bytes:
    piece = bytes(buffer[:size])
    del buffer[:size]
    return piece


def _shown(data: bytes | bytearray) -> str:
    return repr(bytes(data[:100])) + ("..." if len(data) > 100 else "")
