"""Header fields whose values are comma-separated lists (RFC 9110, section 5.6.1)."""

from __future__ import annotations

from ._headers import Headers


def tokens(value: str) -> list[str]:
    """Split a comma-separated list into its members, in lower case (RFC 9110, section 5.6.1)."""
    # strip() without arguments would also remove other white space, such as NBSP.
    return [token.strip(" \t").lower() for token in value.split(",")]


def connection_options(headers: Headers) -> list[str]:
    """Return the members of all Connection fields, in lower case (RFC 9110, section 7.6.1)."""
    return [option for value in headers.get_all("Connection") for option in tokens(value) if option]
