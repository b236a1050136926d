"""Range requests (RFC 9110, section 14): which bytes are asked for, and how the response frames them.

This module computes positions and the text around the content. It reads no content.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ._headers import Headers

#: The most ranges in one response, after merging. If more are requested, the whole representation is sent.
MAX_RANGES = 16

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
# Longer numbers are not converted: they lie behind the end of every representation, and conversion is quadratic.
_MOST_DIGITS = 20
_BEYOND = 10**_MOST_DIGITS


class RangeNotSatisfiableError(ValueError):
    """No requested range overlaps the representation: answer with 416 (RFC 9110, section 15.5.17)."""


class ByteRange(NamedTuple):
    """A range of bytes.

    Attributes:
        first: the position of the first byte, from 0.
        last: the position of the last byte, which belongs to the range.
    """

    first: int
    last: int

    @property
    def length(self) -> int:
        """The number of bytes, at least 1."""
        return self.last - self.first + 1


def parse_ranges(values: Sequence[str], size: int) -> tuple[ByteRange, ...]:
    """Parse the Range field of a GET (RFC 9110, sections 14.1.2 and 14.2).

    Args:
        values: the values of all Range fields.
        size: the size of the representation in bytes.

    Returns:
        The ranges to send, at most ``MAX_RANGES``, in the order in which they were requested. Ranges that overlap
        or touch are merged. Empty if the whole representation is sent: there is no field or more than one, the
        unit is unknown, the value is malformed, the representation is empty, or there are too many ranges.

    Raises:
        RangeNotSatisfiableError: the field is valid, but no range in it overlaps the representation.
    """
    if len(values) != 1 or size == 0:
        return ()
    unit, _, specs = values[0].partition("=")
    requested = _parse_specs(specs) if unit.lower() == "bytes" else []
    if not requested:
        return ()
    ranges = [found for first, last in requested if (found := _clamp(first, last, size))]
    if not ranges:
        raise RangeNotSatisfiableError(f"none of the requested ranges overlaps the {size} bytes")
    merged = _merge(ranges)
    return merged if len(merged) <= MAX_RANGES else ()


def content_range(part: ByteRange, size: int) -> str:
    """Return the value of the Content-Range field of a 206 (RFC 9110, section 14.4)."""
    return f"bytes {part.first}-{part.last}/{size}"


def unsatisfied_range(size: int) -> str:
    """Return the value of the Content-Range field of a 416 (RFC 9110, section 14.4)."""
    return f"bytes */{size}"


class MultipartRanges:
    """The framing of a response with several ranges: ``multipart/byteranges`` (RFC 9110, section 14.6). Immutable.

    The body is, for each of ``parts``, its head and then the bytes of its range, and ``end`` behind the last one.

    Args:
        ranges: the ranges, as from ``parse_ranges``.
        size: the size of the representation in bytes.
        content_type: the media type of the representation; empty if it has none.
        boundary: the boundary between the parts (RFC 2046, section 5.1.1). If omitted, it is 128 random bits,
            which the content does not contain except by chance.

    Raises:
        ValueError: the media type is not a valid header value.
    """

    __slots__ = ("_boundary", "_end", "_parts")

    def __init__(
        self, ranges: Iterable[ByteRange], size: int, content_type: str, *, boundary: str | None = None
    ) -> None:
        self._boundary = boundary or secrets.token_hex(16)
        self._end = f"\r\n--{self._boundary}--\r\n".encode("ascii")
        opening = f"\r\n--{self._boundary}\r\n".encode("ascii")
        given = [("Content-Type", content_type)] if content_type else []
        self._parts = tuple(
            (
                b"%b%b\r\n" % (opening, Headers([*given, ("Content-Range", content_range(part, size))]).to_wire()),
                part,
            )
            for part in ranges
        )

    @property
    def content_type(self) -> str:
        """The value of the Content-Type field of the response."""
        return f"multipart/byteranges; boundary={self._boundary}"

    @property
    def parts(self) -> tuple[tuple[bytes, ByteRange], ...]:
        """For each range, the bytes in front of its content, and the range."""
        return self._parts

    @property
    def end(self) -> bytes:
        """The bytes behind the content of the last range."""
        return self._end

    @property
    def length(self) -> int:
        """The size of the whole body in bytes: the value of the Content-Length field."""
        return sum(len(head) + part.length for head, part in self._parts) + len(self._end)


def _parse_specs(specs: str) -> list[tuple[str, str]]:
    """Parse a range set into pairs of digits without leading zeros; "" is an omitted number.

    Returns:
        The pairs. Empty if the set is malformed (RFC 9110, section 14.1.1).
    """
    found = [_SPEC.fullmatch(spec) for spec in _members(specs)]
    pairs = [(_significant(match[1]), _significant(match[2])) for match in found if match]
    return pairs if len(pairs) == len(found) and all(_is_valid(*pair) for pair in pairs) else []


def _members(specs: str) -> Iterator[str]:
    # A list may have empty members (RFC 9110, section 5.6.1.2).
    return filter(None, (spec.strip(" \t") for spec in specs.split(",")))


def _significant(digits: str) -> str:
    return digits.lstrip("0") or digits[:1]


def _is_valid(first: str, last: str) -> bool:
    """Whether one position is given, and they are in order."""
    if not first or not last:
        return bool(first or last)
    return (len(first), first) <= (len(last), last)


def _clamp(first: str, last: str, size: int) -> ByteRange | None:
    """Return the part of a range that lies in the representation; None if there is none."""
    if not first:
        length = min(_number(last), size)
        return ByteRange(size - length, size - 1) if length else None
    begin = _number(first)
    return ByteRange(begin, min(_number(last), size - 1) if last else size - 1) if begin < size else None


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else _BEYOND


def _merge(ranges: Sequence[ByteRange]) -> tuple[ByteRange, ...]:
    """Merge ranges that overlap or touch, in the order in which the first range of each was requested."""
    merged: list[tuple[int, ByteRange]] = []
    for index, part in sorted(enumerate(ranges), key=lambda entry: entry[1]):
        if merged and part.first <= merged[-1][1].last + 1:
            earliest, before = merged[-1]
            merged[-1] = min(earliest, index), ByteRange(before.first, max(before.last, part.last))
        else:
            merged.append((index, part))
    return tuple(part for _, part in sorted(merged))
