"""Routes: map the path of a request to a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeAlias

from .._http._request import Request
from .._http._response import Response
from .._state import State
from .._websocket._stream._upgrade import Upgrade
from ._routing import Answer, HostRoutes, HttpRoute

#: A handler for ``with_route``, called with ``(request, state)``; plain or async.
RequestHandler: TypeAlias = Callable[[Request, State], Answer]
#: A handler for ``with_stateless_route``, called with ``(request)``; plain or async.
StatelessRequestHandler: TypeAlias = Callable[[Request], Answer]
#: A handler for ``with_path_aware_route``, called with ``(request, state, pattern)``; plain or async.
PathAwareRequestHandler: TypeAlias = Callable[[Request, State, str], Answer]


class Routes(Generic[State]):
    """The routes of one host.

    A pattern is compared with the path of a request, without the query. ``*`` matches any number of characters,
    including ``/``. The first registered route that matches is used. A route matches every method: see
    ``request.method``.

    Handlers are async functions, or plain functions that do not block. They return a ``Response``.
    """

    def __init__(self) -> None:
        self._routes = HostRoutes()

    def with_route(self, pattern: str, handler: RequestHandler[State]) -> Self:
        """Add a route whose handler gets the request and the state of the app.

        Args:
            pattern: the path, such as ``/users/*``.
            handler: called with ``(request, state)``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the pattern begins with neither ``/`` nor ``*``, so no path could match it.
            TypeError: the handler is not callable.
        """
        return self._with(pattern, handler, handler)

    def with_stateless_route(self, pattern: str, handler: StatelessRequestHandler) -> Self:
        """Add a route whose handler gets only the request.

        Args:
            pattern: the path, such as ``/users/*``.
            handler: called with ``(request)``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_route``.
        """
        return self._with(pattern, handler, lambda request, _: handler(request))

    def with_path_aware_route(self, pattern: str, handler: PathAwareRequestHandler[State]) -> Self:
        """Add a route whose handler also gets the pattern, so that one handler can serve several routes.

        Args:
            pattern: the path, such as ``/users/*``.
            handler: called with ``(request, state, pattern)``, where ``pattern`` is the argument above.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_route``.
        """
        return self._with(pattern, handler, lambda request, state: handler(request, state, pattern))

    def with_websocket_route(
        self, pattern: str, handler: Callable[[Upgrade, State], Awaitable[Response | None]]
    ) -> Self:
        """Add a route for requests to open a WebSocket (RFC 6455, section 4.2.1).

        Other requests for the same path need a route of ``with_route``. Without one, the response to a GET or a
        HEAD is a 426, and to any other method a 405.

        Args:
            pattern: the path, such as ``/ws``.
            handler: awaited with ``(upgrade, state)``. ``websocket_handler`` and ``async_websocket_handler``
                make such handlers. It accepts the upgrade and returns None, or returns the ``Response`` that
                refuses it.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_route``.
        """
        self._routes.websocket.add(_checked(pattern, handler), handler)
        return self

    def _with(self, pattern: str, handler: object, call: Callable[[Request, Any], Answer]) -> Self:
        self._routes.http.add(_checked(pattern, handler), HttpRoute(call))
        return self


def routes_of(face: Routes[Any]) -> HostRoutes:
    """Return the routes that were added to an object."""
    return face._routes


class SubApp(Routes[State]):
    """Routes for the hosts that match a pattern. See ``App.with_host``."""


def _checked(pattern: str, handler: object) -> str:
    if not pattern.startswith(("/", "*")):
        raise ValueError(f"no path matches {pattern!r}: a pattern begins with '/' or '*'")
    if not callable(handler):
        raise TypeError(f"the handler of {pattern!r} must be callable, not {type(handler).__name__}")
    return pattern
