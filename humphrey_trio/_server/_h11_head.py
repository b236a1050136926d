"""Request heads, parsed by h11. It does no I/O.

Each head is checked here first, because the events of h11 do not show what a strict server must reject (RFC 9112):
bare LF, folded lines, a repeated Content-Length, Content-Length together with Transfer-Encoding, and heads above
their limits that arrive in one read.

After these checks, h11 gets the request line and the fields whose values it checks. The other fields satisfy its
grammar, and would only cost 1 us each. A head that does not satisfy the grammar is invalid. If no check of a
single rule finds the error, h11 gets the whole head, and finds it.
"""

from __future__ import annotations

import re
from typing import NoReturn, TypeAlias, cast

import h11

from .._http._field_lists import tokens
from .._http._headers import TCHAR
from .._http._limits import Limits
from .._http._sent_values import SentHeaders
from ._head import BadRequest, Head
from ._sections import CRLF, check_lines, check_number, check_size

_TCHAR = TCHAR.encode()

#: The request line of a request that may be valid, with the digits of its version as the group.
REQUEST_LINE = re.compile(_TCHAR + rb"+ [\x21-\x7e]+ HTTP/([0-9]\.[0-9])")

# A head that satisfies everything that _check_parts checks, except for the limits, and the grammar of h11 for its
# lines. The groups are the request line, and the field lines as ``Headers.deferred`` takes them.
_CLEAN = re.compile(
    rb"(" + _TCHAR + rb"+ [\x21-\x7e]+ HTTP/1\.[01])(\r\n(?:" + _TCHAR + rb"+:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)

#: The control fields, which determine the framing of the message and the use of the connection. In a head in lower
#: case.
CONTROL_FIELD = re.compile(rb"\n(host|connection|content-length|transfer-encoding|expect|upgrade):([^\r]*)")

_CHECKED_BY_H11 = (b"host", b"content-length", b"transfer-encoding")

#: The value of a Host field, in lower case.
HOST = re.compile(rb"(?:\[[0-9a-f:.]+\]|[-a-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?")

_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)

_Control: TypeAlias = tuple[bytes, bytes]


def parse_h11(raw: bytes, limits: Limits) -> Head:
    """Parse a complete head.

    Args:
        raw: the head, including its empty line.
        limits: the limits for heads.

    Returns:
        The head.

    Raises:
        BadRequest: the head is malformed, not supported, or exceeds a limit.
    """
    clean = _CLEAN.fullmatch(raw)
    if clean is None:
        _refuse(raw, limits)
    request_line, fields = clean.groups()
    check_size(len(raw), len(request_line), limits)
    check_number(fields.count(CRLF) - 1, limits)
    controls: list[_Control] = CONTROL_FIELD.findall(raw.lower())
    lines = [request_line]
    for name, value in controls:
        if name in _CHECKED_BY_H11:
            lines.append(b"%b:%b" % (name, value))
    head = _to_head(_parse(b"%b\r\n\r\n" % b"\r\n".join(lines)), fields)
    _apply_controls(head, controls)
    return head


def _parse(head: bytes) -> h11.Request:
    # A new parser for each message costs 1 us, and ensures that no state of a message affects the next one.
    parser = h11.Connection(h11.SERVER)
    try:
        parser.receive_data(head)
        # A complete head is a Request or an error. isinstance would be slow: h11's events are ABCs.
        return cast("h11.Request", parser.next_event())
    except h11.RemoteProtocolError as exc:
        raise BadRequest(str(exc), exc.error_status_hint) from exc


def _refuse(raw: bytes, limits: Limits) -> NoReturn:
    """Find the error of a head that does not satisfy the grammar, and raise it."""
    _check_parts(raw, limits)
    _parse(raw)
    raise BadRequest("the head is malformed")


def _check_parts(raw: bytes, limits: Limits) -> None:
    """Check the parts of a head one by one, to find the error."""
    line_end = raw.index(CRLF)
    check_size(len(raw), line_end, limits)
    line = REQUEST_LINE.fullmatch(raw, 0, line_end)
    if line is None:
        raise BadRequest("the request line is malformed")
    check_lines(raw, 1, limits)
    if line[1] not in (b"1.1", b"1.0"):
        raise BadRequest(f"HTTP/{line[1].decode()} is not supported, only HTTP/1.1 and HTTP/1.0", 505)


def _to_head(event: h11.Request, fields: bytes) -> Head:
    authority, path, query = _split_target(event.method, event.target.decode("ascii"))
    version = "HTTP/1.1" if event.http_version == b"1.1" else "HTTP/1.0"
    return Head(event.method.decode("ascii"), path, query, version, SentHeaders.deferred(fields), authority)


def _apply_controls(head: Head, controls: list[_Control]) -> None:
    """Set the attributes of a head that depend on its control fields."""
    head.close = head.version == "HTTP/1.0"
    lengths: list[bytes] = []
    chunked = upgrade = websocket = False
    for name, value in controls:
        if name == b"host":
            value = value.strip(b" \t")
            if not HOST.fullmatch(value):
                raise BadRequest("the Host field is malformed")
            head.host = head.host or value.decode("ascii")
        elif name == b"content-length":
            lengths.append(value.strip(b" \t"))
        elif name == b"transfer-encoding":
            chunked = True
        else:
            members = tokens(value.decode("latin-1"))
            if name == b"connection":
                head.close = head.close or "close" in members
                upgrade = upgrade or "upgrade" in members
            elif name == b"expect":
                head.expects_continue |= head.version == "HTTP/1.1" and "100-continue" in members
            else:
                websocket = websocket or "websocket" in members
    if lengths or chunked:
        head.content_length = _body_length(lengths, chunked, head.version)
    # RFC 6455, section 4.2.1, and RFC 9110, section 7.8. A request with a body is an ordinary one, because it
    # would be undefined whether the body belongs to HTTP.
    head.wants_websocket = (
        websocket and upgrade and head.method == "GET" and head.version == "HTTP/1.1" and not head.has_body
    )


def _body_length(lengths: list[bytes], chunked: bool, version: str) -> int | None:
    """Return the length of the body; None for a chunked body (RFC 9112, section 6.3)."""
    if chunked:
        if lengths:
            raise BadRequest("Content-Length and Transfer-Encoding must not be combined")
        if version == "HTTP/1.0":
            raise BadRequest("Transfer-Encoding is not allowed in HTTP/1.0")
        return None
    # h11 accepts several equal lengths, in one field or in several.
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
        if absolute is None or not absolute[1] or not HOST.fullmatch(absolute[1].lower().encode()):
            raise BadRequest("the request target is neither a path nor a URL")
        authority = absolute[1].lower()
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    path, _, query = target.partition("?")
    return authority, path, query
