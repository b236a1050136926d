"""Error responses in JSON, for the paths of an API.

The layer only marks the request. The default error handler, which knows the error, creates the response.
"""

from __future__ import annotations

from .._http._request import Request
from .._http._request_key import RequestKey
from .._http._response import Response
from .._type_variables import State
from ._layer import CallNext

PLAIN, HTML, PROBLEM, JSON = "text/plain", "text/html", "application/problem+json", "application/json"

# Clients of JSON rarely name the type of problems.
_ONLY_JSON = (PROBLEM, JSON)
_PREFERABLY_JSON = (*_ONLY_JSON, PLAIN, HTML)

#: The media types among which the Accept field of a request chooses the format of an error response. The first one
#: counts if a client has no preference.
ERROR_FORMATS = RequestKey[tuple[str, ...]]("formats of errors")


def json_errors(*, always: bool = False) -> JsonErrorsLayer:
    """Create a layer that answers errors in JSON: ``with_layer(json_errors(), path="/api/*")``.

    Error responses of ``default_error_handler`` are ``application/problem+json`` (RFC 9457) for clients without a
    preference, such as curl and HTTP libraries, which send ``Accept: */*``. A client that prefers HTML or plain
    text, such as a browser, still gets that. Without this layer, clients without a preference get plain text.

    Add it before other layers with errors of their own, because it applies to what is inside it. An error handler
    of the application decides itself; it may call ``default_error_handler``.

    Args:
        always: whether all clients get JSON, also those that prefer another format, such as a browser that opens
            the path.

    Returns:
        The layer, for ``with_layer``.

    Raises:
        TypeError: ``always`` is not a bool.
    """
    if not isinstance(always, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"always is a bool, not {type(always).__name__}: write json_errors(always=True)")
    return JsonErrorsLayer(always)


class JsonErrorsLayer:
    """The layer of ``json_errors``."""

    def __init__(self, always: bool) -> None:
        self._always = always
        self._formats = _ONLY_JSON if always else _PREFERABLY_JSON

    def __repr__(self) -> str:
        return f"json_errors({'always=True' if self._always else ''})"

    async def __call__(self, request: Request, state: State, call_next: CallNext) -> Response:
        return await call_next(request.with_value(ERROR_FORMATS, self._formats))
