"""Decode what is percent-encoded: queries, urlencoded forms, and segments of paths.

Queries and forms are decoded as browsers encode them, and never fail on their content (WHATWG URL, section 5.1).
Paths are decoded strictly, because a path that is read in two ways is a way around checks.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from ._fields import Fields

#: The characters that browsers do not percent-encode in a path, beside letters and digits (WHATWG URL, section
#: 1.3: the path percent-encode set). An escape stays an escape.
NOT_ENCODED = "/%:@!$&'()*+,;=[]|\\"

_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class TooManyFieldsError(ValueError):
    """A query or a form has more fields than are allowed."""


def parse_query(query: str, *, max_fields: int) -> Fields:
    """Parse the query of a request target (WHATWG URL, section 5.1).

    Args:
        query: the target after the first ``?``.
        max_fields: the greatest number of fields. Empty fields, as between the separators of ``a=1&&b=2``, count.

    Returns:
        The fields. ``+`` is a space. A field without ``=`` has an empty value. A malformed percent-encoding stays
        as it is, and bytes that are not UTF-8 are replaced by U+FFFD. Empty fields are omitted.

    Raises:
        TooManyFieldsError: there are more fields.
    """
    return parse_form(query.encode("utf-8", "replace"), max_fields=max_fields)


def parse_form(body: bytes, *, max_fields: int) -> Fields:
    """Parse a body of the type ``application/x-www-form-urlencoded`` (WHATWG URL, section 5.1).

    Args:
        body: the whole body.
        max_fields: as for ``parse_query``.

    Returns:
        The fields, decoded as by ``parse_query``.

    Raises:
        TooManyFieldsError: there are more fields.
    """
    if body.count(b"&") >= max_fields:
        raise TooManyFieldsError(f"there are more than {max_fields} fields")
    pieces = [piece.partition(b"=") for piece in body.split(b"&") if piece]
    return Fields([(_decoded(name), _decoded(value)) for name, _, value in pieces])


def percent_decode_path(segment: str) -> str:
    """Decode a segment of a path strictly (RFC 3986, section 2.1). ``+`` stays ``+``.

    Args:
        segment: a part of ``Request.path``, as it was sent.

    Returns:
        The text. It may contain any character, ``/``, ``..`` and NUL included: the caller checks it for its use.

    Raises:
        ValueError: a percent sign is not followed by two hexadecimal digits, or the bytes are not UTF-8.
    """
    if "%" not in segment:
        return segment
    if _MALFORMED_ESCAPE.search(segment):
        raise ValueError("a percent sign in the path is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise ValueError("the percent-encoded path is not UTF-8") from None


def _decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")
