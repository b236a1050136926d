"""Wildcard matching for routes, hosts and origins.

Humphrey uses the algorithm of Kirk Krauss. This algorithm is another one: it needs linear time.
"""

from __future__ import annotations

from collections.abc import Callable


class Wildcard:
    """A pattern with wildcards.

    Args:
        pattern: literal text, in which each ``*`` matches any number of characters, including none and including
            ``/``. No other character is special, and ``*`` cannot be escaped.
        decode: called with each literal text between two wildcards. Returns the text that has to match.
    """

    __slots__ = ("_first", "_last", "_middle", "_size")

    def __init__(self, pattern: str, decode: Callable[[str], str] = str) -> None:
        pieces = [decode(piece) for piece in pattern.split("*")]
        self._first, *middle = pieces
        self._last = middle.pop() if middle else None  # None: there is no wildcard
        self._middle = tuple(middle)
        self._size = sum(map(len, pieces))

    def matches(self, text: str) -> bool:
        """Return whether the pattern matches the whole text. Letter case is significant."""
        first, last = self._first, self._last
        if last is None:
            return first == text
        if len(text) < self._size or not text.startswith(first) or not text.endswith(last):
            return False
        # The leftmost position of each piece leaves the most text for the next, so nothing has to be tried twice.
        position, end = len(first), len(text) - len(last)
        for piece in self._middle:
            position = text.find(piece, position, end)
            if position < 0:
                return False
            position += len(piece)
        return True


def wildcard_match(pattern: str, text: str) -> bool:
    """Return whether a pattern matches the whole text. See ``Wildcard``."""
    return Wildcard(pattern).matches(text)
