"""Status codes under Humphrey's name, and their phrases."""

from __future__ import annotations

from http import HTTPStatus as StatusCode

_PHRASES = {int(status): status.phrase for status in StatusCode}


def reason_phrase(status: int) -> str:
    """The standard phrase of a status code, or an empty text for one without (RFC 9110, section 15)."""
    return _PHRASES.get(status, "")


__all__ = ["StatusCode", "reason_phrase"]
