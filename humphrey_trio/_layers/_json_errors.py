"""Error responses in JSON, for the paths of an API.

The layer only marks the request. The default error handler, which knows the error, creates the response.
"""

from __future__ import annotations

from .._http._request import Request
from .._http._request_key import RequestKey
from .._http._response import Response
from .._type_variables import State
from ._layer import CallNext

#: Set to True for requests whose clients get JSON unless they prefer another format.
JSON_ERRORS = RequestKey[bool]("errors in JSON")


def json_errors() -> JsonErrorsLayer:
    """Create a layer that answers errors in JSON: ``with_layer(json_errors(), path="/api/*")``.

    Error responses of ``default_error_handler`` are ``application/problem+json`` (RFC 9457) for clients without a
    preference, such as curl and HTTP libraries, which send ``Accept: */*``. A client that prefers HTML or plain
    text, such as a browser, still gets that. Without this layer, clients without a preference get plain text.

    Add it before other layers with errors of their own, because it applies to what is inside it. An error handler
    of the application decides itself; it may call ``default_error_handler``.

    Returns:
        The layer, for ``with_layer``.
    """
    return JsonErrorsLayer()


class JsonErrorsLayer:
    """The layer of ``json_errors``."""

    def __repr__(self) -> str:
        return "json_errors()"

    async def __call__(self, request: Request, state: State, call_next: CallNext) -> Response:
        return await call_next(request.with_value(JSON_ERRORS, True))
