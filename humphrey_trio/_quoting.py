"""Text of a peer in log lines, representations and error pages: always on one line, and harmless to a terminal.

Raw, it could forge log lines with newlines, drive a terminal with escape sequences, or reorder what is shown with
bidirectional controls.
"""

from __future__ import annotations

# A target or a header field may be as long as the whole head; a log line need not be.
_LONGEST = 500


def quoted(text: str) -> str:
    """The text in quotes, with what is not printable escaped as in a str literal; cut after 500 characters."""
    return repr(text) if len(text) <= _LONGEST else f"{text[:_LONGEST]!r}..."


def printable(text: str) -> str:
    """The text as it is, but with what is not printable escaped as in a str literal."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else repr(char)[1:-1] for char in text])
