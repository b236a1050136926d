"""Redirect a route to another place."""

from __future__ import annotations

from collections.abc import Callable

from .._http._request import Request
from .._http._response import Response


def redirect(location: str, *, status: int = 302) -> Callable[[Request, object], Response]:
    """Make a handler for ``with_route`` that redirects every request.

    Args:
        location: the value of the Location field: a URL or a reference relative to that of the request,
            percent-encoded. The query of the request is not added.
        status: 302 (the default), 301, 303, 307 or 308. Browsers may store a 301 or a 308 without a limit, so that
            it cannot be taken back.

    Returns:
        The handler.

    Raises:
        ValueError: the status is not one of these, or the location is not a valid header value.
    """
    response = Response.redirect(location, status=status)
    return lambda request, state: response
