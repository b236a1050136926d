"""Sections of a message: header lines up to an empty line. Heads and trailers are sections.

These functions find the end of a section in a buffer, and check what every section must satisfy.
"""

from __future__ import annotations

import re

from .._http._limits import Limits
from ._head import BadRequest

CRLF = b"\r\n"

_EMPTY_LINE = b"\r\n\r\n"

_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def split_section(buffer: bytearray, seen: int) -> bytes | None:
    """Remove a section from the start of a buffer.

    Args:
        buffer: the received bytes.
        seen: the number of bytes that were already searched for the empty line.

    Returns:
        The section with its empty line, or None if it is incomplete.
    """
    end = buffer.find(_EMPTY_LINE, seen - 3 if seen > 3 else 0)
    return None if end < 0 else take(buffer, end + 4)


def take(buffer: bytearray, size: int) -> bytes:
    """Remove at most ``size`` bytes from the start of a buffer. A bytearray does this without moving the rest."""
    data = bytes(buffer) if size >= len(buffer) else bytes(buffer[:size])
    del buffer[:size]
    return data


def check_line_ends(buffer: bytearray, seen: int) -> None:
    """Reject a bare LF after the first ``seen`` bytes."""
    # The first new byte may be an LF whose CR was the last old byte.
    if buffer.count(b"\n", seen) != buffer.count(CRLF, max(0, seen - 1)):
        raise BadRequest("a line ends in LF without CR")


def check_size(head: int, request_line: int, limits: Limits) -> None:
    """Reject a head or a request line that is too long.

    Args:
        head, request_line: bytes that have arrived so far.
        limits: the limits for heads.
    """
    if request_line > limits.request_line:
        raise BadRequest(f"the request line is longer than {limits.request_line} bytes", 414)
    if head > limits.head:
        raise BadRequest(f"the head is longer than {limits.head} bytes", 431)


def check_number(lines: int, limits: Limits) -> None:
    """Reject too many header lines."""
    if lines > limits.headers:
        raise BadRequest(f"there are more than {limits.headers} header lines", 431)


def check_lines(raw: bytes, others: int, limits: Limits) -> None:
    """Check the line ends of a section, the characters of its lines, and their number.

    Args:
        raw: the section, including its empty line.
        others: the number of lines before the fields.
        limits: has the maximum number of fields.

    Raises:
        BadRequest: a check failed.
    """
    lines = raw.count(CRLF)
    check_number(lines - others - 1, limits)
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise BadRequest("a line ends in LF without CR, or contains a CR")
    if _CONTROLS.search(raw):
        raise BadRequest("a header line contains a control character (RFC 9110, section 5.5)")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise BadRequest("a header line is folded (RFC 9112, section 5.2)")
