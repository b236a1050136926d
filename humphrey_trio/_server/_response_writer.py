"""The writing side of the HTTP/1.1 codec: bytes out of responses. It does no I/O.

``Headers`` and ``Response`` are checked when they are constructed, so h11 would only repeat the checks
(docs/architecture.md has the measurements).
"""

from __future__ import annotations

import time
from email.utils import formatdate

from .._http._headers import Headers
from .._http._response import Response
from .._http._status import reason_phrase

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# Responses that never have a Content-Length: the server does not know that of the body that is not sent.
_WITHOUT_LENGTH = (204, 304)

# The fields of a handler that change how the automatic ones are written.
_SPECIAL_FIELDS = frozenset(("connection", "content-encoding", "content-length", "date", "server"))


class ResponseWriter:
    """Encode responses, and add the automatic header fields.

    Args:
        server_name: the value of the Server field; empty for none.
    """

    def __init__(self, server_name: str) -> None:
        self._server = Headers([("Server", server_name)] if server_name else ()).to_wire()
        self._second: int = -1
        self._date = b""
        self._status_lines: dict[int, bytes] = {}
        self._starts: dict[int, bytes] = {}  # status lines with Date and Server, for the current second

    def encode(self, response: Response, *, head_only: bool, close: bool) -> bytes:
        """Encode a response.

        Args:
            response: the response of the handler.
            head_only: whether it is the response to HEAD, which has the Content-Length, but no body (RFC 9110,
                section 9.3.2).
            close: whether the connection is closed after the response. Then it gets ``Connection: close``.
        """
        given = response.headers
        names = given.names
        if names and not _SPECIAL_FIELDS.isdisjoint(names):
            return self._encode_special(response, given, head_only, close)
        status, content = response.status, response.content
        return b"%b%b%b%b%b\r\n%b" % (
            self._start(status),
            given.to_wire(),
            b"" if "content-type" in names else _type_field(response),
            b"" if status in _WITHOUT_LENGTH else b"Content-Length: %d\r\n" % len(content),
            b"Connection: close\r\n" if close else b"",
            b"" if head_only else content,
        )

    def encode_head(self, response: Response, framing: bytes, *, close: bool) -> bytes:
        """Encode the head of a streamed response.

        Args:
            response: the response of the handler. Its Content-Length is replaced.
            framing: the header field that delimits the body.
            close: as for ``encode``.
        """
        given, names = response.headers.without_header("Content-Length"), response.headers.names
        if "connection" in names:
            given, close = _with_one_connection(given, close), False
        self._update_date()
        return b"%b%b%b%b%b%b%b\r\n" % (
            self._status_line(response.status),
            b"" if "date" in names else self._date,
            b"" if "server" in names else self._server,
            given.to_wire(),
            b"" if "content-type" in names else _type_field(response),
            framing,
            b"Connection: close\r\n" if close else b"",
        )

    def _encode_special(self, response: Response, given: Headers, head_only: bool, close: bool) -> bytes:
        """Encode a response with fields of the handler that change how the automatic ones are written."""
        status, content, names = response.status, response.content, given.names
        if "connection" in names:
            given, close = _with_one_connection(given, close), False
        has_length = "content-length" in names
        # Only the length of the body that is sent is right. With another, clients would misread the next response.
        if has_length and not head_only and status != 304:
            given = given.without_header("Content-Length")
        elif has_length:  # several lengths would be invalid (RFC 9110, section 8.6)
            given = _with_one_length(given)
        self._update_date()
        parts = [
            self._status_line(status),
            b"" if "date" in names else self._date,
            b"" if "server" in names else self._server,
            given.to_wire(),
            b"" if "content-type" in names else _type_field(response),
        ]
        # A coding of the response to HEAD, without content, means that the length is not known: a layer compresses
        # only for GET. It may be omitted (RFC 9110, section 9.3.2).
        is_unknown = head_only and (has_length or ("content-encoding" in names and not content))
        if status not in _WITHOUT_LENGTH and not is_unknown:
            parts.append(b"Content-Length: %d\r\n" % len(content))
        if close:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        if not head_only:
            parts.append(content)
        return b"".join(parts)

    def _start(self, status: int) -> bytes:
        """Return the status line, Date and Server."""
        self._update_date()
        start = self._starts.get(status)
        if start is None:
            start = self._starts[status] = self._status_line(status) + self._date + self._server
        return start

    def _update_date(self) -> None:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()
            self._starts.clear()

    def _status_line(self, status: int) -> bytes:
        line = self._status_lines.get(status)
        if line is None:
            line = self._status_lines[status] = b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status).encode())
        return line


def _type_field(response: Response) -> bytes:
    """Encode the automatic Content-Type; nothing if there is none."""
    content_type = response.content_type
    return b"Content-Type: %b\r\n" % content_type.encode("latin-1") if content_type else b""


def _with_one_length(given: Headers) -> Headers:
    """Keep the last Content-Length, which is that of the outermost layer."""
    lengths = given.get_all("Content-Length")
    if len(lengths) == 1:
        return given
    return given.without_header("Content-Length").with_header("Content-Length", lengths[-1])


def _with_one_connection(given: Headers, close: bool) -> Headers:
    """Merge the Connection fields into one, and add or keep ``close`` as needed (RFC 9112, section 9.6)."""
    lines = given.get_all("Connection")
    if len(lines) == 1 and not close:
        return given
    options = {option.strip(" \t").lower(): option.strip(" \t") for line in lines for option in line.split(",")}
    if close:
        options.pop("keep-alive", None)
        options["close"] = "close"
    return given.without_header("Connection").with_header("Connection", ", ".join(filter(None, options.values())))


def encode_switch(fields: bytes, extra: Headers) -> bytes:
    """Encode a 101, the last HTTP response of a connection (RFC 9110, section 15.2.2).

    Args:
        fields: encoded header fields.
        extra: further header fields.
    """
    return b"HTTP/1.1 101 Switching Protocols\r\n%b%b\r\n" % (fields, extra.to_wire())
