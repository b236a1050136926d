"""The reading side of the HTTP/1.1 codec: requests out of bytes. It does no I/O.

h11 parses the heads, one at a time. Each head is checked here first, because the events of h11 do not show what a
strict server must reject (RFC 9112): bare LF, folded lines, a repeated Content-Length, Content-Length together
with Transfer-Encoding, and heads above their limits that arrive in one read.

Bodies are decoded here. h11 accepts any byte except LF in a chunk extension, and two of its regular expressions
need quadratic time for chunk lines and trailers.

Parsing takes linear time in the number of bytes from the peer, no matter how they are split into reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import h11

from .._http._address import Address
from .._http._field_lists import tokens
from .._http._headers import TCHAR, Headers
from .._http._limits import Limits
from .._http._path_params import NO_PARAMS
from .._http._request import Request
from .._http._tls_info import TlsInfo

_CRLF = b"\r\n"

_EMPTY_LINE = b"\r\n\r\n"

# The fields that determine the framing of the message and the use of the connection.
_CONTROL_FIELDS = frozenset(
    (b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade")
)

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)

_TCHAR = TCHAR.encode()

_REQUEST_LINE = re.compile(_TCHAR + rb"+ [\x21-\x7e]+ HTTP/([0-9]\.[0-9])")

_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

# The start of a method, or the first half of the CRLF that may precede a request.
_START = re.compile(_TCHAR + rb"|\r\Z")

_FIELD_LINE = re.compile(_TCHAR + rb"+:")

# RFC 9112, section 7.1. Like h11, this limits the size to 20 digits and accepts white space after it. An extension
# may contain any byte except control characters: proxies disagree about CR and NUL in it.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")

_HOST = re.compile(rb"(?:\[[0-9a-f:.]+\]|[-a-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")

_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)


class BadRequest(Exception):
    """The peer has sent an invalid request, or one that exceeds a limit.

    Args:
        reason: the message, which is shown to the client. Must not contain secrets.
        status: the status code of the error response.

    Attributes:
        status: as above.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Head:
    """The head of a request, which was checked.

    Attributes:
        method, path, query, version: as in ``Request``.
        fields: the header fields as h11 returns them.
        host: the requested authority in lower case, from an absolute target or from the Host field.
        content_length: bytes of the body; None if it is chunked.
        close: whether the connection must be closed after the response.
        expects_continue: whether the client waits for a 100 before it sends the body.
        wants_websocket: whether this is a request to open a WebSocket, by its version, method and fields.
    """

    method: str
    path: str
    query: str
    version: str
    fields: list[tuple[bytes, bytes]]
    host: str
    content_length: int | None = 0
    close: bool = False
    expects_continue: bool = False
    wants_websocket: bool = False

    @property
    def has_body(self) -> bool:
        return self.content_length != 0

    def to_request(
        self, content: bytes, address: Address, tls: TlsInfo | None = None, params: Mapping[str, str] = NO_PARAMS
    ) -> Request:
        headers = Headers.from_checked(self.fields)
        return Request(self.method, self.path, self.query, self.version, headers, content, address, tls, params)


class RequestReader:
    """Parse the requests of one connection.

    Call ``next_head``, and then ``next_body`` until it returns empty bytes.

    This class has the only buffer. h11 gets a head when it is complete, and bodies are decoded from the buffer.

    Args:
        limits: the limits for heads, and for the lines and trailers of a chunked body.
        buffer: bytes that were received before. The reader takes ownership.
    """

    __slots__ = ("_body", "_buffer", "_limits", "_line_end", "_seen", "_skipped")

    def __init__(self, limits: Limits, buffer: bytearray | None = None) -> None:
        self._limits = limits
        self._buffer = bytearray() if buffer is None else buffer
        self._seen = 0  # bytes of the buffer that were already searched for the end of a head
        self._line_end = -1  # the position of the end of the request line; -1 if not found yet
        self._skipped = False  # whether an empty line before the request was skipped
        self._body: _SizedBody | _ChunkedBody | None = None

    def receive(self, data: bytes) -> None:
        """Add bytes from the peer to the buffer."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """The number of bytes that were received and not yet returned in a head or body."""
        return len(self._buffer)

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
        raw = self._split_head()
        if raw is None:
            return None
        version = self._check_head(raw)
        # A new parser for each message costs 1 us, and ensures that no state of a message affects the next one.
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        try:
            parser.receive_data(raw)
            # A complete head is a Request or an error. isinstance would be slow: h11's events are ABCs.
            event = cast("h11.Request", parser.next_event())
        except h11.RemoteProtocolError as exc:
            raise BadRequest(str(exc), exc.error_status_hint) from exc
        head = _head(event, raw, version)
        if head.content_length is None:
            self._body = _ChunkedBody(self._limits)
        else:
            self._body = _SizedBody(head.content_length) if head.content_length else None
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
        if not self._skipped and buffer.startswith(_CRLF):
            del buffer[:2]
            self._skipped = True
            self._seen = 0
        raw = _split_section(buffer, self._seen)
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
        if not buffer:
            return
        if not _START.match(buffer):
            raise BadRequest("this is not HTTP")
        if self._line_end < 0:
            self._line_end = buffer.find(_CRLF, max(0, self._seen - 1))
            if self._line_end >= 0 and not _REQUEST_LINE.fullmatch(buffer, 0, self._line_end):
                raise BadRequest("the request line is malformed")
        # A CR at the end may be the first half of the line's CRLF, which does not count.
        line_size = self._line_end if self._line_end >= 0 else len(buffer) - buffer.endswith(b"\r")
        self._check_size(len(buffer), line_size)
        _check_line_ends(buffer, self._seen)

    def _check_size(self, head: int, request_line: int) -> None:
        if request_line > self._limits.request_line:
            raise BadRequest(f"the request line is longer than {self._limits.request_line} bytes", 414)
        if head > self._limits.head:
            raise BadRequest(f"the head is longer than {self._limits.head} bytes", 431)

    def _check_head(self, raw: bytes) -> str:
        """Check a complete head for what h11 accepts. Returns the HTTP version."""
        line_end = raw.index(_CRLF)
        self._check_size(len(raw), line_end)
        line = _REQUEST_LINE.fullmatch(raw, 0, line_end)
        if line is None:
            raise BadRequest("the request line is malformed")
        _check_lines(raw, 1, self._limits)
        version = line[1]
        if version not in (b"1.1", b"1.0"):
            raise BadRequest(f"HTTP/{version.decode()} is not supported, only HTTP/1.1 and HTTP/1.0", 505)
        return f"HTTP/{version.decode()}"


def _split_section(buffer: bytearray, seen: int) -> bytes | None:
    """Remove a section from the start of a buffer.

    Args:
        buffer: the received bytes.
        seen: the number of bytes that were already searched for the empty line.

    Returns:
        The section with its empty line, or None if it is incomplete.
    """
    end = buffer.find(_EMPTY_LINE, max(0, seen - 3))
    return None if end < 0 else _take(buffer, end + 4)


def _take(buffer: bytearray, size: int) -> bytes:
    """Remove at most ``size`` bytes from the start of a buffer. A bytearray does this without moving the rest."""
    data = bytes(buffer) if size >= len(buffer) else bytes(buffer[:size])
    del buffer[:size]
    return data


def _check_line_ends(buffer: bytearray, seen: int) -> None:
    """Reject a bare LF after the first ``seen`` bytes."""
    # The first new byte may be an LF whose CR was the last old byte.
    if buffer.count(b"\n", seen) != buffer.count(_CRLF, max(0, seen - 1)):
        raise BadRequest("a line ends in LF without CR")


def _check_lines(raw: bytes, others: int, limits: Limits) -> None:
    """Check the line ends of a section, the characters of its lines, and their number.

    Args:
        raw: the section, including its empty line.
        others: the number of lines before the fields.
        limits: has the maximum number of fields.

    Raises:
        BadRequest: a check failed.
    """
    lines = raw.count(_CRLF)
    if lines - others - 1 > limits.headers:
        raise BadRequest(f"there are more than {limits.headers} header lines", 431)
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise BadRequest("a line ends in LF without CR, or contains a CR")
    if _CONTROLS.search(raw):
        raise BadRequest("a header line contains a control character (RFC 9110, section 5.5)")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise BadRequest("a header line is folded (RFC 9112, section 5.2)")


class _SizedBody:
    """A body with a Content-Length."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def next_piece(self, buffer: bytearray) -> bytes | None:
        """See ``RequestReader.next_body``. Removes the piece from the buffer."""
        if self._left and not buffer:
            return None
        piece = _take(buffer, self._left)
        self._left -= len(piece)
        return piece


class _ChunkedBody:
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
        piece = _take(buffer, self._left)
        self._left -= len(piece)
        return piece

    def _begin_chunk(self, buffer: bytearray) -> bool:
        """Parse the size line of the next chunk. Returns False if it is incomplete."""
        start = self._line_start
        if not _CRLF[:start].startswith(buffer[:start]):
            raise BadRequest("a chunk is longer than its size (RFC 9112, section 7.1)")
        end = buffer.find(_CRLF, max(start, self._seen - 1))
        if (len(buffer) if end < 0 else end) > self._limits.head:
            raise BadRequest(f"the size line of a chunk is longer than {self._limits.head} bytes")
        if end < 0:
            self._seen = len(buffer)
            return False
        line = _CHUNK_LINE.fullmatch(buffer, start, end)
        if line is None:
            raise BadRequest("the size line of a chunk is malformed (RFC 9112, section 7.1)")
        self._left = int(line[1], 16)
        self._in_trailers = not self._left
        self._line_start = len(_CRLF)
        self._seen = 0
        del buffer[: end + len(_CRLF)]
        return True

    def _skip_trailers(self, buffer: bytearray) -> bool:
        """Remove the trailers from the buffer. Returns False if they are incomplete."""
        if buffer.startswith(_CRLF):  # no trailers
            del buffer[:2]
            return True
        raw = _split_section(buffer, self._seen)
        if (len(buffer) if raw is None else len(raw)) > self._limits.head:
            raise BadRequest(f"the trailers are longer than {self._limits.head} bytes", 431)
        if raw is None:
            _check_line_ends(buffer, self._seen)
            self._seen = len(buffer)
            return False
        _check_lines(raw, 0, self._limits)
        if not all(map(_FIELD_LINE.match, raw.split(_CRLF)[:-2])):
            raise BadRequest("a trailer is not a header field (RFC 9112, section 7.1.2)")
        return True


def _head(event: h11.Request, raw: bytes, version: str) -> Head:
    target = event.target.decode("ascii")
    authority, path, query = _split_target(event.method, target)
    fields = event.headers.raw_items()
    head = Head(event.method.decode("ascii"), path, query, version, fields, host=authority)
    head.close = version == "HTTP/1.0"
    sized = chunked = upgrade = websocket = False
    for raw_name, value in fields:
        name = raw_name.lower()
        if name not in _CONTROL_FIELDS:
            continue
        if name == b"host":
            value = value.lower()
            if not _HOST.fullmatch(value):
                raise BadRequest("the Host field is malformed")
            head.host = authority or value.decode("ascii")
        elif name == b"content-length":
            sized = True
        elif name == b"transfer-encoding":
            chunked = True
        else:
            members = tokens(value.decode("latin-1"))
            if name == b"connection":
                head.close = head.close or "close" in members
                upgrade = upgrade or "upgrade" in members
            elif name == b"expect":
                head.expects_continue |= version == "HTTP/1.1" and "100-continue" in members
            else:
                websocket = websocket or "websocket" in members
    head.content_length = _body_length(raw, sized, chunked, version)
    # RFC 6455, section 4.2.1, and RFC 9110, section 7.8. A request with a body is an ordinary one, because it
    # would be undefined whether the body belongs to HTTP.
    head.wants_websocket = (
        websocket and upgrade and head.method == "GET" and version == "HTTP/1.1" and not head.has_body
    )
    return head


def _body_length(raw: bytes, sized: bool, chunked: bool, version: str) -> int | None:
    """Return the length of the body; None for a chunked body (RFC 9112, section 6.3)."""
    if chunked:
        if sized:
            raise BadRequest("Content-Length and Transfer-Encoding must not be combined")
        if version == "HTTP/1.0":
            raise BadRequest("Transfer-Encoding is not allowed in HTTP/1.0")
        return None
    if not sized:
        return 0
    # In the raw head, because h11 merges several equal lengths into one.
    lengths = [value.strip(b" \t") for value in _CONTENT_LENGTH.findall(raw)]
    if len(lengths) != 1 or not lengths[0].isdigit():
        raise BadRequest("Content-Length is repeated or not a number")
    return int(lengths[0])


def _split_target(method: bytes, target: str) -> tuple[str, str, str]:
    """Split a request target into authority, path and query (RFC 9112, section 3.2)."""
    if method == b"CONNECT":
        raise BadRequest("CONNECT is not supported: this server is not a proxy", 501)
    if "#" in target:
        raise BadRequest("the request target must not have a fragment")
    authority = ""
    if not target.startswith("/") and not (target == "*" and method == b"OPTIONS"):
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None or not absolute[1] or not _HOST.fullmatch(absolute[1].lower().encode()):
            raise BadRequest("the request target is neither a path nor a URL")
        authority = absolute[1].lower()
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    path, _, query = target.partition("?")
    return authority, path, query
