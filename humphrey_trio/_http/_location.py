"""The Location field of redirects (RFC 9110, section 10.2.2)."""

from __future__ import annotations

import re
from urllib.parse import quote

# Everything but control characters, white space at the ends, and halves of surrogate pairs.
_LOCATION = re.compile(r"(?!\s)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+(?<!\s)")
# What may stand in a URI reference (RFC 3986), and the percent sign of what is encoded already. Not the backslash:
# browsers take it for a slash, so "/\host" would lead to another host.
_KEPT = "%:/?#[]@!$&'()*+,;=-._~"


def encode_location(location: str) -> str:
    """Percent-encode, as UTF-8, what cannot stand in the Location field.

    Args:
        location: a URI or a relative reference. What is percent-encoded already stays so.

    Raises:
        TypeError: the location is not a str.
        ValueError: it is empty, or contains a control character, white space at an end, or half of a surrogate
            pair.
    """
    if not isinstance(location, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a location is a str, not {type(location).__name__}")
    if not _LOCATION.fullmatch(location):
        raise ValueError(
            f"{location!r} is not a valid Location: write a URI or a path, without control characters and white"
            " space at its ends"
        )
    return quote(location, safe=_KEPT)
