"""Escape text from a peer for log lines, representations and error pages.

Unescaped, such text could forge log lines with newlines, control a terminal with escape sequences, or change the
order of the displayed text with bidirectional controls.
"""

from __future__ import annotations

# Characters. A request target or a header field may be as long as a head: too long for a log line.
_LONGEST = 500


def quoted(text: str) -> str:
    """Return the text in quotes, cut after 500 characters, with unprintable characters escaped as in ``repr``."""
    return repr(text) if len(text) <= _LONGEST else f"{text[:_LONGEST]!r}..."


def printable(text: str) -> str:
    """Return the text without quotes, with unprintable characters escaped as in ``repr``."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else repr(char)[1:-1] for char in text])


def escaped(text: str) -> str:
    """Return the text for the inside of double quotation marks in a line of fields.

    It is cut after 500 characters. Unprintable characters are escaped as in ``repr``, and ``"`` and ``\\`` with a
    backslash.
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return printable(text)
