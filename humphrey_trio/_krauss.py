"""Wildcard matching, the one rule behind routes and hosts.

The name is Humphrey's, after the author of the matcher it uses; this one is linear and misses no match.
"""

from __future__ import annotations


def wildcard_match(pattern: str, text: str) -> bool:
    """Whether the whole of ``text`` matches ``pattern``.

    Args:
        pattern: literal text in which each ``*`` stands for any run of characters, empty ones and ``/``
            included. Nothing else is special, and there is no escape.
        text: what is looked at; letter case counts.
    """
    first, *others = pattern.split("*")
    if not others:
        return first == text
    last = others.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    # Taking each middle piece at its leftmost place leaves the most room for those behind it.
    position, end = len(first), len(text) - len(last)
    for piece in others:
        position = text.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True
