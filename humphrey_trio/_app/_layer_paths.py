"""The paths of a layer: which requests it is called for.

A layer may be a guard, and handlers read paths in more than one way: parameters and files are percent-decoded, and
a handler may remove empty and dot segments. So a path is compared in each of its readings, and one match is
enough. In doubt a layer is called, never skipped. A comparison takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote, unquote

from .._http._urls import NOT_ENCODED
from .._wildcards import Wildcard
from ._patterns import parse_pattern

# In a reading, a slash that was sent as %2F. For some handlers it ends a segment, and for others it does not.
_ENCODED_SLASH = "\0"
_SENT_SLASH = re.compile("%2[Ff]")
_SEPARATOR = re.compile(f"([/{_ENCODED_SLASH}])")
_SKIPPED = ("", ".")
# Slashes with nothing but empty segments and "." between and behind them.
_SLASHES = re.compile(rf"[/{_ENCODED_SLASH}](?:\.?[/{_ENCODED_SLASH}])*(?:\.\Z)?")

#: The readings of a path with ``..``. What it names depends on the directory at which a handler stops. No URL
#: parser leaves such a segment in a path (WHATWG URL, section 4.4). So every layer is called for such a path.
_ANYTHING = ("..",)


class LayerPath:
    """The pattern of the paths for which a layer is called.

    Args:
        text: the pattern, as for a route.

    Raises:
        ValueError: the pattern is malformed, or could never match.
    """

    __slots__ = ("_is_encoded", "_read", "_sent")

    def __init__(self, text: str) -> None:
        self._sent = parse_pattern(text)
        self._read: _ReadPattern = _SegmentPattern(text) if "{" in text else _TextPattern(text)
        self._is_encoded = "%" in quote(text, safe=NOT_ENCODED + "{}")

    def matches(self, path: str, readings: Sequence[str]) -> bool:
        """Return whether the layer is called for a path.

        Args:
            path: the path as it was sent.
            readings: its readings, as of ``readings_of``.
        """
        if readings is _ANYTHING or self._sent.match(path) is not None:
            return True
        if not readings and self._is_encoded:
            readings = (path,)  # the path has only one reading, but the pattern has another one
        return any(self._read.matches(reading) for reading in readings)


def readings_of(path: str) -> Sequence[str]:
    """Return what handlers may read in a path, apart from the path itself.

    Args:
        path: the path as it was sent.

    Returns:
        The path, percent-decoded once, and the same without empty segments and ``.``. Nothing if the path can be
        read in one way only.
    """
    if "%" not in path and "//" not in path and "/." not in path:
        return ()
    reading = _decode(path)
    if ".." in reading and ".." in _SEPARATOR.split(reading):
        return _ANYTHING
    return (reading, _without_dots(reading))


class _ReadPattern(Protocol):
    """A pattern that is compared with readings."""

    def matches(self, reading: str, /) -> bool: ...


class _TextPattern:
    """A pattern without parameters. All slashes are equal to it, because ``*`` matches them as well."""

    __slots__ = ("_wildcard",)

    def __init__(self, text: str) -> None:
        self._wildcard = Wildcard(text, lambda literal: _with_slashes(_decode(literal)))

    def matches(self, reading: str) -> bool:
        return self._wildcard.matches(_with_slashes(reading))


class _SegmentPattern:
    """A pattern with parameters.

    A slash of the pattern matches any slash. The value of a parameter may contain encoded ones.
    """

    __slots__ = ("_has_rest", "_last", "_segments")

    def __init__(self, text: str) -> None:
        self._segments: list[str | None] = []  # None for a parameter
        for segment in text.split("/"):
            self._segments += [None] if segment.startswith("{") else _decode(segment).split(_ENCODED_SLASH)
        self._last = len(self._segments) - 1
        self._has_rest = text.endswith("*}")

    def matches(self, reading: str) -> bool:
        """Follow all ways to divide the reading among the segments of the pattern, at the same time.

        Empty segments and ``.`` may be skipped, or belong to a value: an empty one is accepted, too.
        """
        first, *others = _SEPARATOR.split(reading)
        reached = {0} if self._fits(0, first) else set[int]()
        pairs = list(zip(others[::2], others[1::2], strict=True))
        for number, (separator, segment) in enumerate(pairs, 1):
            if self._has_rest and self._last in reached:
                return True
            following = {at + 1 for at in reached if self._fits(at + 1, segment)}
            if segment in _SKIPPED and number < len(pairs):
                following |= reached
            elif separator == _ENCODED_SLASH:
                following |= {at for at in reached if self._segments[at] is None}
            reached = following
        return self._last in reached

    def _fits(self, at: int, segment: str) -> bool:
        return at <= self._last and self._segments[at] in (None, segment, "" if segment == "." else None)


def _decode(text: str) -> str:
    """Percent-decode a text once. Malformed escapes stay, and bytes that are not UTF-8 become U+FFFD."""
    return unquote(_SENT_SLASH.sub("%00", text)) if "%" in text else text


def _without_dots(reading: str) -> str:
    """Remove empty segments and ``.``. A slash at the end stays."""
    return _SLASHES.sub(lambda run: _ENCODED_SLASH if _ENCODED_SLASH in run[0] else "/", reading)


def _with_slashes(reading: str) -> str:
    return reading.replace(_ENCODED_SLASH, "/")
