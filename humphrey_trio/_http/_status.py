"""Status codes, under the name that Humphrey uses, and their reason phrases."""

from __future__ import annotations

from http import HTTPStatus as StatusCode

# Some versions of Python have the older phrases of RFC 7231 for these.
_RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_PHRASES = {int(status): status.phrase for status in StatusCode} | _RENAMED


def reason_phrase(status: int) -> str:
    """Return the standard reason phrase of a status code (RFC 9110, section 15); empty if there is none."""
    return _PHRASES.get(status, "")


__all__ = ["StatusCode", "reason_phrase"]
