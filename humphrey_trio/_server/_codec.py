"""HTTP/1.1 on the wire: bytes in, heads and bodies out; responses in, bytes out. No I/O, and no App.

h11 parses. It is given one head and one body at a time, after the head was looked at here, because its events
hide what a strict server must refuse (RFC 9112): bare LF, folded lines, a repeated Content-Length, one beside
Transfer-Encoding, and heads beyond their limits that came in one read. Responses are written here: a
``Headers`` was checked when it was built, and a ``Response`` knows its length, so there is nothing left for
h11 to find out (docs/architecture.md has the figures).
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

_SWITCHING = 101
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# The fields that decide about framing and the connection, in a head whose letters are lower case.
_STEERING = re.compile(
    rb"\r\n(host|connection|content-length|transfer-encoding|expect|upgrade):[ \t]*([^\r]*?)[ \t]*(?=\r\n)"
)
_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/([0-9]\.[0-9])")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN_START = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]")
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
        wants_websocket: whether it asks for the WebSocket protocol.
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

    def to_request(self, content: bytes, address: Address) -> Request:
        headers = Headers._from_wire(self.fields)
        return Request(self.method, self.path, self.query, self.version, headers, content, address)


# ---------------------------------------------------------------------------------------------- reading


class RequestReader:
    """The requests of one connection, one after the other.

    Its buffer is the only one: h11 gets a head when it is whole, and hands back what is left behind a body.
    """

    __slots__ = ("_buffer", "_chunked", "_fed", "_h11", "_limits", "_scanned", "_skipped")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._scanned = 0
        self._skipped = False
        self._h11: h11.Connection | None = None
        self._chunked = False
        self._fed = b""  # what of the body h11 got last, and three bytes before it

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Bytes that came and belong to no head or body so far."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        """Give away what came behind the last head; for a connection that leaves HTTP."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_head(self) -> Head | None:
        """The next head, or None while it is incomplete.

        Raises:
            BadRequest: the bytes are no head that this server accepts.
        """
        raw = self._split_head()
        if raw is None:
            return None
        version = self._check_lines(raw)
        # A new parser for each message costs a microsecond, and nothing of one message reaches the next.
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        try:
            self._h11.receive_data(raw)
            # A whole head is a request or an error; isinstance would ask the ABC that h11's events have.
            event = cast("h11.Request", self._h11.next_event())
        except h11.RemoteProtocolError as exc:
            raise BadRequest(str(exc), exc.error_status_hint) from exc
        head = _head(event, raw.lower(), version)
        self._chunked = head.content_length is None
        self._fed = b""
        return head

    def next_body(self) -> bytes | None:
        """The next piece of the current body: empty at its end, None while more bytes are needed.

        Raises:
            BadRequest: the chunks are malformed.
        """
        parser = self._h11
        assert parser is not None
        try:
            event = parser.next_event()
            if event is h11.NEED_DATA and self._buffer:
                data = self.take_rest()
                parser.receive_data(data)
                self._fed = self._fed[-3:] + data
                event = parser.next_event()
        except h11.RemoteProtocolError as exc:
            raise BadRequest(str(exc), exc.error_status_hint) from exc
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Data):
            return bytes(event.data)
        rest = parser.trailing_data[0]
        # h11 would let LF alone end the trailers of a chunked body, where others do not see its end.
        if self._chunked and not self._fed[: len(self._fed) - len(rest)].endswith(b"\r\n\r\n"):
            raise BadRequest("a chunked body does not end in an empty line (RFC 9112, section 7.1)")
        self._buffer[:0] = rest
        return b""

    def _split_head(self) -> bytes | None:
        buffer = self._buffer
        # RFC 9112, section 2.2: one empty line before a request is ignored.
        if not self._skipped and buffer.startswith(b"\r\n"):
            del buffer[:2]
            self._skipped = True
        end = buffer.find(b"\r\n\r\n", self._scanned)
        if end < 0:
            self._check_incomplete()
            self._scanned = max(0, len(buffer) - 3)
            return None
        end += 4
        raw = bytes(buffer[:end])
        del buffer[:end]
        self._scanned = 0
        self._skipped = False
        return raw

    def _check_incomplete(self) -> None:
        """Refuse early what can never become a head."""
        buffer = self._buffer
        if not buffer:
            return
        if not _TOKEN_START.match(buffer) and bytes(buffer) != b"\r":
            raise BadRequest("this is not HTTP")
        line_end = buffer.find(b"\r\n")
        # A CR at the very end may be half of the line's end, which does not count.
        line_size = line_end if line_end >= 0 else len(buffer) - buffer.endswith(b"\r")
        self._check_size(len(buffer), line_size)
        if line_end >= 0 and not _REQUEST_LINE.fullmatch(buffer, 0, line_end):
            raise BadRequest("the request line is malformed")
        if buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise BadRequest("a line ends in LF without CR")

    def _check_size(self, head: int, request_line: int) -> None:
        if request_line > self._limits.request_line:
            raise BadRequest(f"the request line is longer than {self._limits.request_line} bytes", 414)
        if head > self._limits.head:
            raise BadRequest(f"the head is longer than {self._limits.head} bytes", 431)

    def _check_lines(self, raw: bytes) -> str:
        """Check what h11 does not; the version."""
        line_end = raw.index(b"\r\n")
        self._check_size(len(raw), line_end)
        line = _REQUEST_LINE.fullmatch(raw, 0, line_end)
        if line is None:
            raise BadRequest("the request line is malformed")
        lines = raw.count(b"\r\n")
        if lines - 2 > self._limits.headers:
            raise BadRequest(f"there are more than {self._limits.headers} header lines", 431)
        if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
            raise BadRequest("a line ends in LF without CR, or holds a CR")
        if _CONTROLS.search(raw):
            raise BadRequest("the head holds a control character (RFC 9110, section 5.5)")
        if b"\r\n " in raw or b"\r\n\t" in raw:
            raise BadRequest("a header line is folded (RFC 9112, section 5.2)")
        version = line[1]
        if version not in (b"1.1", b"1.0"):
            raise BadRequest(f"HTTP/{version.decode()} is not spoken here, only HTTP/1.1 and 1.0", 505)
        return f"HTTP/{version.decode()}"


def _head(event: h11.Request, lower: bytes, version: str) -> Head:
    target = event.target.decode("ascii")
    authority, path, query = _split_target(event.method, target)
    head = Head(event.method.decode("ascii"), path, query, version, event.headers.raw_items(), host=authority)
    head.close = version == "HTTP/1.0"
    lengths: list[bytes] = []
    chunked = False
    for name, value in _STEERING.findall(lower):
        if name == b"host":
            if not _HOST.fullmatch(value):
                raise BadRequest("the Host field is malformed")
            head.host = authority or value.decode("ascii")
        elif name == b"connection":
            head.close = head.close or "close" in tokens(value.decode("latin-1"))
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"expect":
            head.expects_continue = version == "HTTP/1.1" and "100-continue" in tokens(value.decode("latin-1"))
        else:
            head.wants_websocket = head.wants_websocket or "websocket" in tokens(value.decode("latin-1"))
    head.content_length = _body_length(lengths, chunked, version)
    return head


def _body_length(lengths: list[bytes], chunked: bool, version: str) -> int | None:
    """The declared length, None for a chunked body (RFC 9112, section 6.3)."""
    if chunked:
        if lengths:
            raise BadRequest("Content-Length stands beside Transfer-Encoding")
        if version == "HTTP/1.0":
            raise BadRequest("HTTP/1.0 has no Transfer-Encoding")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit():
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
    return [token.strip().lower() for token in value.split(",")]


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
            close: whether the connection ends behind it.
        """
        status, content, given = response.status, response.content, response.headers
        parts = [self._status_line(status)]
        if given:
            parts += self._fields_around(given, keep_length=head_only or status == 304)
            close = close and "close" not in tokens(given.get("Connection", ""))
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
