"""HTTP/1.1 on the wire: bytes in, heads and bodies out; responses in, bytes out. No I/O, and no App.

h11 parses heads, one at a time. A head is checked here first, because h11's events hide what a strict server
must refuse (RFC 9112): bare LF, folded lines, a repeated Content-Length, one beside Transfer-Encoding, and
heads beyond their limits that came in one read. Bodies are framed here: h11 accepts any byte but LF in a chunk
extension, and some of its expressions take quadratic time on chunk lines and trailers. Responses are written
here: a ``Headers`` was checked when it was built, and a ``Response`` knows its length, so there is nothing left
for h11 to find out (docs/architecture.md has the figures).

Everything that reads what a peer sent takes linear time: each byte is looked at a bounded number of times,
however the bytes are split into reads.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import cast

import h11

from .._http._address import Address
from .._http._headers import Headers
from .._http._limits import Limits
from .._http._request import Request
from .._http._response import Response
from .._http._status import reason_phrase
from .._http._tls_info import TlsInfo

_SWITCHING = 101
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_CRLF = b"\r\n"
_EMPTY_LINE = b"\r\n\r\n"

# The fields that decide about framing and the connection.
_STEERING = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/([0-9]\.[0-9])")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# A method begins, or an empty line in front of one has come halfway.
_START = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]|\r\Z")
_FIELD_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:")
# RFC 9112, section 7.1. The size is bounded as h11 bounds it, blanks behind it are tolerated as h11 does, and an
# extension may hold anything but control characters: CR and NUL in it are what proxies read differently.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_HOST = re.compile(rb"(?:\[[0-9a-f:.]+\]|[-a-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")
_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)


class BadRequest(Exception):
    """The peer sent what is no acceptable request.

    Attributes:
        status: the status that says so.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Head:
    """A request's head, checked.

    Attributes:
        host: the authority it is addressed to in lower case, from an absolute target or the Host field.
        content_length: bytes of the body that follows; None if it is chunked.
        close: whether the client wants the connection closed after the response.
        expects_continue: whether it waits for a 100 before it sends the body.
        wants_websocket: whether it asks for the WebSocket protocol, by version, method and fields.
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

    def to_request(self, content: bytes, address: Address, tls: TlsInfo | None = None) -> Request:
        headers = Headers._from_wire(self.fields)
        return Request(self.method, self.path, self.query, self.version, headers, content, address, tls)


# ---------------------------------------------------------------------------------------------- reading


class RequestReader:
    """The requests of one connection, one after the other.

    Its buffer is the only one: h11 gets a head when it is whole, and bodies are taken out of it.

    Args:
        limits: sizes of a head, and of the lines of a chunked body.
        buffer: what was received before, which from now on is the reader's.
    """

    __slots__ = ("_body", "_buffer", "_limits", "_line_end", "_seen", "_skipped")

    def __init__(self, limits: Limits, buffer: bytearray | None = None) -> None:
        self._limits = limits
        self._buffer = bytearray() if buffer is None else buffer
        self._seen = 0  # bytes of the buffer that were searched for the end of a head
        self._line_end = -1  # of the request line; -1 until it was found
        self._skipped = False
        self._body: _SizedBody | _ChunkedBody | None = None

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Bytes that came and belong to no head or body so far."""
        return len(self._buffer)

    def take_rest(self) -> bytearray:
        """Give away what came behind the last head; for a connection that leaves HTTP.

        The buffer itself is handed over, so that many refused upgrades in one read do not copy it each.
        """
        rest, self._buffer = self._buffer, bytearray()
        return rest

    def next_head(self) -> Head | None:
        """The next head, or None while it is incomplete.

        Raises:
            BadRequest: the bytes are no head that this server accepts.
        """
        raw = self._split_head()
        if raw is None:
            return None
        version = self._check_head(raw)
        # A new parser for each message costs a microsecond, and nothing of one message reaches the next.
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        try:
            parser.receive_data(raw)
            # A whole head is a request or an error; isinstance would ask the ABC that h11's events have.
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
        """The next piece of the current body: empty at its end, None while more bytes are needed.

        Raises:
            BadRequest: the chunks are malformed.
        """
        if self._body is None:
            return b""
        piece = self._body.next_piece(self._buffer)
        if piece == b"":
            self._body = None
        return piece

    def _split_head(self) -> bytes | None:
        buffer = self._buffer
        # RFC 9112, section 2.2: one empty line before a request is ignored.
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
        """Refuse early what can never become a head."""
        buffer = self._buffer
        if not buffer:
            return
        if not _START.match(buffer):
            raise BadRequest("this is not HTTP")
        if self._line_end < 0:
            self._line_end = buffer.find(_CRLF, max(0, self._seen - 1))
            if self._line_end >= 0 and not _REQUEST_LINE.fullmatch(buffer, 0, self._line_end):
                raise BadRequest("the request line is malformed")
        # A CR at the very end may be half of the line's end, which does not count.
        line_size = self._line_end if self._line_end >= 0 else len(buffer) - buffer.endswith(b"\r")
        self._check_size(len(buffer), line_size)
        _check_line_ends(buffer, self._seen)

    def _check_size(self, head: int, request_line: int) -> None:
        if request_line > self._limits.request_line:
            raise BadRequest(f"the request line is longer than {self._limits.request_line} bytes", 414)
        if head > self._limits.head:
            raise BadRequest(f"the head is longer than {self._limits.head} bytes", 431)

    def _check_head(self, raw: bytes) -> str:
        """Check what h11 does not; the version."""
        line_end = raw.index(_CRLF)
        self._check_size(len(raw), line_end)
        line = _REQUEST_LINE.fullmatch(raw, 0, line_end)
        if line is None:
            raise BadRequest("the request line is malformed")
        _check_lines(raw, 1, self._limits)
        version = line[1]
        if version not in (b"1.1", b"1.0"):
            raise BadRequest(f"HTTP/{version.decode()} is not spoken here, only HTTP/1.1 and 1.0", 505)
        return f"HTTP/{version.decode()}"


# A head and the trailers of a chunked body are lines up to an empty one...


def _split_section(buffer: bytearray, seen: int) -> bytes | None:
    """Take the lines up to the first empty one out of a buffer; None while that is missing.

    Args:
        buffer: what was received.
        seen: how many bytes of it were searched before.
    """
    end = buffer.find(_EMPTY_LINE, max(0, seen - 3))
    return None if end < 0 else _take(buffer, end + 4)


def _take(buffer: bytearray, size: int) -> bytes:
    """Take at most so many bytes out of a buffer. Deleting them in front does not move those behind."""
    data = bytes(buffer) if size >= len(buffer) else bytes(buffer[:size])
    del buffer[:size]
    return data


def _check_line_ends(buffer: bytearray, seen: int) -> None:
    """Refuse a bare LF in what came behind the first ``seen`` bytes."""
    # The CR of the first new LF may have been seen before.
    if buffer.count(b"\n", seen) != buffer.count(_CRLF, max(0, seen - 1)):
        raise BadRequest("a line ends in LF without CR")


def _check_lines(raw: bytes, others: int, limits: Limits) -> None:
    """Check a whole section: how its lines end, what they hold, and how many there are.

    Args:
        raw: the section, its empty line included.
        others: lines in front of the fields.
        limits: how many fields there may be.
    """
    lines = raw.count(_CRLF)
    if lines - others - 1 > limits.headers:
        raise BadRequest(f"there are more than {limits.headers} header lines", 431)
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise BadRequest("a line ends in LF without CR, or holds a CR")
    if _CONTROLS.search(raw):
        raise BadRequest("a header line holds a control character (RFC 9110, section 5.5)")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise BadRequest("a header line is folded (RFC 9112, section 5.2)")


# Bodies...


class _SizedBody:
    """A body whose length its head says."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def next_piece(self, buffer: bytearray) -> bytes | None:
        """As ``RequestReader.next_body``; what it returns is taken out of the buffer."""
        if self._left and not buffer:
            return None
        piece = _take(buffer, self._left)
        self._left -= len(piece)
        return piece


class _ChunkedBody:
    """A chunked body (RFC 9112, section 7.1). Its trailers are checked and dropped (RFC 9110, section 6.5.1)."""

    __slots__ = ("_in_trailers", "_left", "_limits", "_line_start", "_seen")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = 0  # bytes of the current chunk that are still to come
        self._line_start = 0  # where the next size stands: behind the CRLF of the chunk before it, if there is one
        self._in_trailers = False
        self._seen = 0  # bytes of the buffer that were searched for the end of a line, or of the trailers

    def next_piece(self, buffer: bytearray) -> bytes | None:
        """As ``RequestReader.next_body``; what it returns is taken out of the buffer."""
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
        """Read the size of the next chunk; False while its line is incomplete."""
        start = self._line_start
        if not _CRLF[:start].startswith(buffer[:start]):
            raise BadRequest("a chunk does not end behind its last byte (RFC 9112, section 7.1)")
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
        """Take the trailers out of the buffer; False while they are incomplete."""
        if buffer.startswith(_CRLF):  # there are none
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
            raise BadRequest("a trailer is no header field (RFC 9112, section 7.1.2)")
        return True


# Heads...


def _head(event: h11.Request, raw: bytes, version: str) -> Head:
    target = event.target.decode("ascii")
    authority, path, query = _split_target(event.method, target)
    fields = event.headers.raw_items()
    head = Head(event.method.decode("ascii"), path, query, version, fields, host=authority)
    head.close = version == "HTTP/1.0"
    sized = chunked = upgrade = websocket = False
    for raw_name, value in fields:
        name = raw_name.lower()
        if name not in _STEERING:
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
    # RFC 6455, section 4.2.1, and RFC 9110, section 7.8. A request with a body is none: nobody could say where
    # HTTP ends.
    head.wants_websocket = (
        websocket and upgrade and head.method == "GET" and version == "HTTP/1.1" and not head.has_body
    )
    return head


def _body_length(raw: bytes, sized: bool, chunked: bool, version: str) -> int | None:
    """The declared length, None for a chunked body (RFC 9112, section 6.3)."""
    if chunked:
        if sized:
            raise BadRequest("Content-Length stands beside Transfer-Encoding")
        if version == "HTTP/1.0":
            raise BadRequest("HTTP/1.0 has no Transfer-Encoding")
        return None
    if not sized:
        return 0
    # As they were sent: h11 makes one length of several that are equal.
    lengths = [value.strip(b" \t") for value in _CONTENT_LENGTH.findall(raw)]
    if len(lengths) != 1 or not lengths[0].isdigit():
        raise BadRequest("Content-Length is repeated or no number")
    return int(lengths[0])


def _split_target(method: bytes, target: str) -> tuple[str, str, str]:
    """Authority, path and query of a request target (RFC 9112, section 3.2)."""
    if method == b"CONNECT":
        raise BadRequest("CONNECT is for proxies, which this server is not", 501)
    if "#" in target:
        raise BadRequest("a request target has no fragment")
    authority = ""
    if not target.startswith("/") and not (target == "*" and method == b"OPTIONS"):
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None or not absolute[1] or not _HOST.fullmatch(absolute[1].lower().encode()):
            raise BadRequest("the request target is neither a path nor a URL")
        authority = absolute[1].lower()
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    path, _, query = target.partition("?")
    return authority, path, query


def tokens(value: str) -> list[str]:
    """The members of a comma-separated list, in lower case (RFC 9110, section 5.6.1)."""
    # Other white space of Unicode, such as NBSP, is a part of a member.
    return [token.strip(" \t").lower() for token in value.split(",")]


def connection_options(headers: Headers) -> list[str]:
    """The members of all Connection fields, in lower case (RFC 9110, section 7.6.1)."""
    return [option for value in headers.get_all("Connection") for option in tokens(value) if option]


# ---------------------------------------------------------------------------------------------- writing


class ResponseWriter:
    """Turns responses into bytes, with the automatic header fields.

    Args:
        server_name: the value of the Server field; empty for none.
    """

    def __init__(self, server_name: str) -> None:
        self._server = Headers([("Server", server_name)] if server_name else ()).to_wire()
        self._date = b""
        self._date_second = -1
        self._status_lines: dict[int, bytes] = {}

    def encode(self, response: Response, *, head_only: bool, close: bool) -> bytes:
        """The whole response as it stands on the wire.

        Args:
            response: what the handler returned.
            head_only: whether it answers HEAD: the body is left out, not its length (RFC 9110, section 9.3.2).
            close: whether the connection ends behind it; then the one Connection field says so.
        """
        status, content, given = response.status, response.content, response.headers
        parts = [self._status_line(status)]
        if given:
            if "Connection" in given:
                given, close = _with_one_connection(given, close), False
            parts += self._fields_around(given, keep_length=head_only or status == 304)
        else:
            parts += (self._date_field(), self._server)
        if not given or "Content-Type" not in given:
            content_type = response.content_type
            if content_type:
                parts.append(b"Content-Type: %b\r\n" % content_type.encode("latin-1"))
        if status not in (204, 304) and not (head_only and "Content-Length" in given):
            parts.append(b"Content-Length: %d\r\n" % len(content))
        if close:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        if content and not head_only:
            parts.append(content)
        return b"".join(parts)

    def _fields_around(self, given: Headers, keep_length: bool) -> list[bytes]:
        """The handler's own fields, behind those of ours that they leave open."""
        fields: list[bytes] = []
        if "Date" not in given:
            fields.append(self._date_field())
        if "Server" not in given:
            fields.append(self._server)
        # Two lengths that differ are an attack; the one of the body that is really sent holds.
        if not keep_length and "Content-Length" in given:
            given = given.without_header("Content-Length")
        fields.append(given.to_wire())
        return fields

    def _status_line(self, status: int) -> bytes:
        line = self._status_lines.get(status)
        if line is None:
            line = self._status_lines[status] = b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status).encode())
        return line

    def _date_field(self) -> bytes:
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._date


def _with_one_connection(given: Headers, close: bool) -> Headers:
    """The handler's fields with one Connection field, which says close if the connection ends (RFC 9112, 9.6)."""
    lines = given.get_all("Connection")
    if len(lines) == 1 and not close:
        return given
    options = {option.strip(" \t").lower(): option.strip(" \t") for line in lines for option in line.split(",")}
    if close:
        options.pop("keep-alive", None)
        options["close"] = "close"
    return given.without_header("Connection").with_header("Connection", ", ".join(filter(None, options.values())))


def encode_switch(fields: bytes, extra: Headers) -> bytes:
    """A 101 with these header fields, which ends HTTP on a connection (RFC 9110, section 15.2.2)."""
    return b"HTTP/1.1 101 Switching Protocols\r\n%b%b\r\n" % (fields, extra.to_wire())


# --------------------------------------------------------------------------------------- the client's side


class ClientCodec:
    """Requests out, responses in, on one connection; for tests of applications."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        self._head: h11.Response | h11.InformationalResponse | None = None
        self._content: list[bytes] = []
        self._ended = False

    def request(self, method: str, target: str, headers: Headers, content: bytes) -> bytes:
        """The bytes of a request; the one before it was answered."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        parts = [self._h11.send(h11.Request(method=method, target=target, headers=list(headers)))]
        if content:
            parts.append(self._h11.send(h11.Data(data=content)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        return b"".join(parts)

    def receive(self, data: bytes) -> None:
        """Take bytes from the server; empty ones at its end of file."""
        self._ended = not data
        self._h11.receive_data(data)

    def next_response(self) -> tuple[int, Headers, bytes] | None:
        """Status, fields and body of the next response, or None while it is incomplete.

        Raises:
            ConnectionError: the server has closed the connection, or does not speak HTTP.
        """
        try:
            while (event := self._h11.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Data):
                    self._content.append(bytes(event.data))
                elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                    self._head = event
                    if event.status_code == _SWITCHING:
                        return self._whole()
                elif isinstance(event, h11.EndOfMessage):
                    return self._whole()
                else:
                    raise ConnectionError("the server has closed the connection")
        except h11.RemoteProtocolError as exc:
            if self._ended and self._head is None:
                raise ConnectionError("the server has closed the connection") from None
            raise ConnectionError(f"the server broke off, or does not speak HTTP: {exc}") from exc
        return None

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._h11.our_state is not h11.MUST_CLOSE and self._h11.their_state is not h11.CLOSED

    @property
    def rest(self) -> bytes:
        """What came behind a 101."""
        return self._h11.trailing_data[0]

    def _whole(self) -> tuple[int, Headers, bytes]:
        assert self._head is not None
        head, content = self._head, b"".join(self._content)
        self._head, self._content = None, []
        return head.status_code, Headers._from_wire(head.headers.raw_items()), content
