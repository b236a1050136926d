"""Content-Disposition for downloads (RFC 6266), with names in any script (RFC 8187)."""

from __future__ import annotations

import re
from urllib.parse import quote

# Control characters, what separates folders on some system, and halves of surrogate pairs, which are not UTF-8.
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]")
# Some clients decode percent signs in the plain form (RFC 6266, appendix D), and a quotation mark ends it.
_NOT_IN_PLAIN = re.compile(r'[^\x20-\x7e]|[%"]')
# attr-char without letters and digits (RFC 8187, section 3.2.1).
_ATTR_CHARS = "!#$&+-.^_`|~"


def attachment(filename: str) -> str:
    """Return the value of a Content-Disposition field that lets the client store the content.

    Args:
        filename: the name that the client proposes to its user. Slashes, backslashes, control characters and lone
            surrogates are replaced by ``_``.
    """
    name = _NOT_IN_NAMES.sub("_", filename)
    plain = _NOT_IN_PLAIN.sub("_", name)
    value = f'attachment; filename="{plain}"'
    return value if plain == name else f"{value}; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"
