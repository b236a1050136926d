"""Wildcard matching for routes, hosts and origins.

The module has the name of Humphrey's, which uses the algorithm of Kirk Krauss. This algorithm is another one: it
needs linear time.
"""

from __future__ import annotations


def wildcard_match(pattern: str, text: str) -> bool:
    """Match a text against a pattern.

    Args:
        pattern: literal text, in which each ``*`` matches any number of characters, including none and including
            ``/``. No other character is special, and ``*`` cannot be escaped.
        text: the text to match. Letter case is significant.

    Returns:
        Whether the pattern matches the whole text.
    """
    first, *others = pattern.split("*")
    if not others:
        return first == text
    last = others.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    # The leftmost position of each piece leaves the most text for the next ones, so nothing has to be tried twice.
    position, end = len(first), len(text) - len(last)
    for piece in others:
        position = text.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True
