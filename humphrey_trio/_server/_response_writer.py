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


class ResponseWriter:
    """Encode responses, and add the automatic header fields.

    Args:
        server_name: the value of the Server field; empty for none.
    """

    def __init__(self, server_name: str) -> None:
        self._server = Headers([("Server", server_name)] if server_name else ()).to_wire()
        self._date = b""
        self._date_second = -1
        self._status_lines: dict[int, bytes] = {}

    def encode(self, response: Response, *, head_only: bool, close: bool) -> bytes:
        """Encode a response.

        Args:
            response: the response of the handler.
            head_only: whether it is the response to HEAD, which has the Content-Length, but no body (RFC 9110,
                section 9.3.2).
            close: whether the connection is closed after the response. Then it gets ``Connection: close``.
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
        """Encode the fields of the handler, after the automatic fields that they do not contain."""
        fields: list[bytes] = []
        if "Date" not in given:
            fields.append(self._date_field())
        if "Server" not in given:
            fields.append(self._server)
        # Only the length of the body that is sent is right. With another, clients would misread the next response.
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
