"""Ordinary request heads, parsed by one regular expression. It does no I/O, and is only used on request.

It accepts the requests that most clients send: HTTP/1.1, a path as the target, one valid Host, at most one
Content-Length, no Transfer-Encoding, no Expect. For every other head, valid or not, h11 decides. So this module
must never accept a head that ``_h11_head`` rejects, and its result must be the same. ``python -m tests.parsers``
compares them.

The patterns need linear time: no two adjacent repetitions match the same character, and an iteration of a
repetition can end at one place only. They have no possessive quantifiers and no atomic groups: some versions of
Python 3.11 match these wrongly if they contain groups.
"""

from __future__ import annotations

import re

from .._http._field_lists import tokens
from .._http._headers import TCHAR
from .._http._limits import Limits
from .._http._sent_values import SentHeaders
from ._h11_head import CONTROL_FIELD, HOST, parse_h11
from ._head import Head
from ._sections import CRLF

_TCHAR = TCHAR.encode()

# The groups are the method, the path, the query, the version, and the field lines for ``Headers.deferred``
# (RFC 9112, sections 3 and 5). The target is in origin form, and has no fragment. A line with a control character
# or a fold does not match.
_HEAD = re.compile(
    rb"(" + _TCHAR + rb"+) "
    rb"(/[\x21\x22\x24-\x3e\x40-\x7e]*)(?:\?([\x21\x22\x24-\x7e]*))? "
    rb"(HTTP/1\.1)"
    rb"(\r\n(?:" + _TCHAR + rb"+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
)

# Decimal digits: as many as h11 accepts.
_MAX_LENGTH_DIGITS = 20


def parse_fast(raw: bytes, limits: Limits) -> Head:
    """Parse a complete head. The result is the same as that of ``parse_h11``.

    Args:
        raw: the head, including its empty line.
        limits: the limits for heads.

    Raises:
        BadRequest: the head is malformed, not supported, or exceeds a limit.
    """
    head = ordinary_head(raw, limits)
    return parse_h11(raw, limits) if head is None else head


def ordinary_head(raw: bytes, limits: Limits) -> Head | None:
    """Parse a complete head if it is an ordinary one, as the docstring of this module defines it.

    Args:
        raw: the head, including its empty line.
        limits: the limits for heads.

    Returns:
        The head, or None if h11 must decide.
    """
    match = _HEAD.fullmatch(raw)
    if match is None or not _is_within(limits, raw, match.end(4)):
        return None
    method, path, query, _, fields = match.groups()
    if method == b"CONNECT":
        return None
    head = Head(
        method.decode("ascii"),
        path.decode("ascii"),
        "" if query is None else query.decode("ascii"),
        "HTTP/1.1",
        SentHeaders.deferred(fields),
        "",
    )
    return head if _apply_control_fields(head, raw.lower()) else None


def _is_within(limits: Limits, raw: bytes, line_end: int) -> bool:
    return (
        len(raw) <= limits.head
        and line_end <= limits.request_line
        and raw.count(CRLF) - 2 <= limits.headers  # not counted: the request line and the empty line
    )


def _apply_control_fields(head: Head, lower: bytes) -> bool:
    """Set the attributes of a head that depend on its fields.

    Args:
        head: the head, for a message without a body so far.
        lower: its bytes in lower case.

    Returns:
        Whether it is an ordinary head.
    """
    host: bytes | None = None
    length: bytes | None = None
    upgrade = websocket = False
    for name, value in CONTROL_FIELD.findall(lower):
        if name == b"host" and host is None:
            host = value.strip(b" \t")
        elif name == b"connection":
            options = tokens(value.decode("latin-1"))
            head.close = head.close or "close" in options
            upgrade = upgrade or "upgrade" in options
        elif name == b"upgrade":
            websocket = websocket or "websocket" in tokens(value.decode("latin-1"))
        elif name == b"content-length" and length is None:
            length = value.strip(b" \t")
        else:
            return False
    if host is None or not HOST.fullmatch(host):
        return False
    head.host = host.decode("ascii")
    if length is not None:
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
            return False
        head.content_length = int(length)
    head.wants_websocket = websocket and upgrade and head.method == "GET" and not head.has_body
    return True
