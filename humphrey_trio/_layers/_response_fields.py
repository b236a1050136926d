"""Changes of the header fields of a response that several layers need."""

from __future__ import annotations

from collections.abc import Iterable

from .._http._field_lists import tokens
from .._http._response import Response


def with_vary(response: Response, *names: str) -> Response:
    """Add names to the Vary field (RFC 9110, section 12.5.5), unless it has them or is ``*``."""
    present = {token for value in response.headers.get_all("Vary") for token in tokens(value)}
    missing = [name for name in names if name.lower() not in present]
    if not missing or "*" in present:
        return response
    return response.with_header("Vary", ", ".join(missing))


def replace_fields(response: Response, remove: Iterable[str], add: Iterable[tuple[str, str]]) -> Response:
    """Remove the fields of some names, and then add others at the end."""
    for name in remove:
        if name in response.headers:
            response = response.without_header(name)
    for name, value in add:
        response = response.with_header(name, value)
    return response


def replace_content(response: Response, content: bytes) -> Response:
    """Return a response with the same status, content type and fields, but another body.

    Args:
        response: the response.
        content: the body.
    """
    headers = response.headers
    if response.content_type and "Content-Type" not in headers:
        headers = headers.with_header("Content-Type", response.content_type)
    return Response(response.status, content, headers)
