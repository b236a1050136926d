"""Parameters of header fields, as in ``multipart/form-data; boundary=x`` (RFC 9110, section 5.6.6).

This module splits a value. It leaves quoted values as they are, because Content-Type and Content-Disposition are
quoted by different rules.
"""

from __future__ import annotations

import re

from ._headers import TCHAR

# A quoted value ends at the first quote without a backslash, or else at the first quote: browsers do not escape
# backslashes. An unquoted value may be other than a token: many clients do not quote "=" or "/" in a boundary.
_PARAMETER = re.compile(
    rf'[ \t]*;[ \t]*(?:({TCHAR}+)[ \t]*=[ \t]*("[^"\\]*(?:\\.[^"\\]*)*"|"[^"]*"|[^;" \t]+))?',
)
_QUOTED_PAIR = re.compile(r"\\(.)")


def media_type(value: str) -> str:
    """Return the media type of a Content-Type field, in lower case and without parameters."""
    return value.partition(";")[0].strip(" \t").lower()


def parse_parameters(value: str) -> dict[str, str]:
    """Parse the parameters of a field value.

    Args:
        value: the value of a header field. What precedes the first semicolon is ignored.

    Returns:
        The values by the names in lower case. Quoted values are still quoted.

    Raises:
        ValueError: the parameters are malformed, or a name is repeated.
    """
    found: dict[str, str] = {}
    semicolon = value.find(";")
    at = len(value) if semicolon == -1 else semicolon
    end = len(value.rstrip(" \t"))
    while at < end:
        parameter = _PARAMETER.match(value, at)
        if parameter is None:
            raise ValueError("malformed parameters")
        at = parameter.end()
        if parameter[1]:
            name = parameter[1].lower()
            if name in found:
                raise ValueError(f"the parameter {name} is repeated")
            found[name] = parameter[2]
    return found


def unquote(value: str) -> str:
    """Return the content of a quoted string (RFC 9110, section 5.6.4), and any other value as it is."""
    return _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value.startswith('"') else value
