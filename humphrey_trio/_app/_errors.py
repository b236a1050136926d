"""Error responses: the type of error handlers, and the default one."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from .._http._errors import HttpError
from .._http._headers import Headers
from .._http._request import Request
from .._http._response import Response
from .._http._status import reason_phrase
from .._quoting import printable
from .._server._head import BadRequest
from .._websocket._errors import HandshakeError

#: A handler for ``with_error_handler``, called with ``(status, request, exception)``; plain or async. The last two
#: may be None.
ErrorHandler: TypeAlias = Callable[[int, Request | None, Exception | None], Response | Awaitable[Response]]

_HTML = Headers([("Content-Type", "text/html; charset=utf-8")])


def default_error_handler(status: int, request: Request | None, exception: Exception | None) -> Response:
    """Create a short HTML page with the status, and with what is wrong with the request.

    Exceptions of handlers are not shown, because they may contain secrets.

    Args:
        status: the status code.
        request: not used.
        exception: its message is shown if it is an ``HttpError``, or if the library has raised it for an invalid
            request or handshake.

    Returns:
        The response, with this status and Content-Type ``text/html; charset=utf-8``.
    """
    title = html.escape(f"{status} {reason_phrase(status)}".strip())
    is_ours = isinstance(exception, (BadRequest, HandshakeError, HttpError))
    detail = f"<p>{html.escape(printable(str(exception)))}</p>" if is_ours and str(exception) else ""
    page = f"<html><body><h1>{title}</h1>{detail}</body></html>"
    return Response(status, page, _HTML)
