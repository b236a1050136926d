"""Error responses: the type of error handlers, and the default one."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from .._http._errors import HttpError
from .._http._headers import Headers
from .._http._json import dumps
from .._http._negotiation import choose_media_type
from .._http._request import Request
from .._http._response import Response
from .._http._status import reason_phrase
from .._layers._json_errors import ERROR_FORMATS, HTML, JSON, PLAIN, PROBLEM
from .._quoting import printable
from .._websocket._errors import HandshakeError

#: A handler for ``with_error_handler``, called with ``(status, request, exception)``; plain or async. The last two
#: may be None.
ErrorHandler: TypeAlias = Callable[[int, Request | None, Exception | None], Response | Awaitable[Response]]

# The value of ERROR_FORMATS without the layer ``json_errors``.
_DEFAULT_FORMATS = (PLAIN, HTML, PROBLEM, JSON)


def default_error_handler(status: int, request: Request | None, exception: Exception | None) -> Response:
    """Create a short error response: what the status means, and what is wrong with the request.

    It is plain text, unless the client prefers an HTML page or a problem in JSON (RFC 9457) by its Accept field.
    Behind the layer ``json_errors``, it is JSON unless the client prefers another format, or always. Exceptions of
    handlers are not shown, because they may contain secrets.

    Args:
        status: the status code.
        request: its Accept field is used. Without a request, the response is plain text.
        exception: its message is shown if it is an ``HttpError``, or if the library has raised it for an invalid
            request or handshake.

    Returns:
        The response, with this status.
    """
    # A HandshakeError that an HTTP handler has raised is a failure, and not the reason of this status.
    is_ours = isinstance(exception, (HandshakeError, HttpError)) and exception.status == status
    detail = printable(str(exception)) if is_ours else ""
    if request is None:
        return Response(status, _plain(status, detail))
    offers = request.get(ERROR_FORMATS, _DEFAULT_FORMATS)
    accepted = choose_media_type(request.headers.get_all("Accept"), offers) or offers[0]
    write, headers = _FORMATS[accepted]
    return Response(status, write(status, detail), headers)


def _title(status: int) -> str:
    return f"{status} {reason_phrase(status)}".strip()


def _plain(status: int, detail: str) -> str:
    return f"{_title(status)}: {detail}\n" if detail else f"{_title(status)}\n"


def _page(status: int, detail: str) -> str:
    title = html.escape(_title(status))
    paragraph = f"<p>{html.escape(detail)}</p>" if detail else ""
    return f'<!DOCTYPE html><html lang="en"><title>{title}</title><h1>{title}</h1>{paragraph}</html>'


def _problem(status: int, detail: str) -> bytes:
    """Return a problem whose type is "about:blank", the default (RFC 9457, section 4.2.1)."""
    members = {"title": reason_phrase(status), "status": status, "detail": detail}
    return dumps({name: value for name, value in members.items() if value})


def _fields(content_type: str) -> Headers:
    # Caches may store some errors, such as a 404 (RFC 9110, section 15.1).
    return Headers([("Content-Type", content_type), ("Vary", "Accept")])


_FORMATS: dict[str, tuple[Callable[[int, str], str | bytes], Headers]] = {
    PLAIN: (_plain, _fields("text/plain; charset=utf-8")),
    HTML: (_page, _fields("text/html; charset=utf-8")),
    PROBLEM: (_problem, _fields(PROBLEM)),
    JSON: (_problem, _fields(PROBLEM)),
}
