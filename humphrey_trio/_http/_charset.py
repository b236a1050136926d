"""Decode text from a peer by the charset of its Content-Type."""

from __future__ import annotations

from .._quoting import quoted
from ._errors import HttpError
from ._parameters import parse_parameters, unquote

# The names in Content-Type, and those of Python's codecs.
_CHARSETS = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "latin1"), "latin-1"),
    "windows-1252": "cp1252",
}


def decode_content(content_type: str, content: bytes, subject: str) -> str:
    """Decode a content.

    Args:
        content_type: the value of its Content-Type field; empty if there is none. Without a charset, it is UTF-8.
        content: the bytes.
        subject: what they are, for errors: ``the body``.

    Raises:
        HttpError: 400 if the content is malformed in its charset or the Content-Type is malformed, 415 if the
            charset is not supported.
    """
    try:
        charset = unquote(parse_parameters(content_type).get("charset", "utf-8")).lower()
    except ValueError as error:
        raise HttpError(400, f"the Content-Type of {subject} is malformed: {error}") from None
    if charset not in _CHARSETS:
        raise HttpError(415, f"{subject} has the charset {quoted(charset)}: send it as UTF-8")
    try:
        return content.decode(_CHARSETS[charset])
    except UnicodeDecodeError:
        raise HttpError(400, f"{subject} is not {charset}: send it as UTF-8") from None
