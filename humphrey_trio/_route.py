"""Routes: map the path of a request to a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeAlias, TypeVar

from ._http._request import Request
from ._http._response import Response
from ._krauss import wildcard_match
from ._state import State
from ._websocket._upgrade import Upgrade, WebsocketRoute

Answer: TypeAlias = Response | Awaitable[Response]
#: A handler for ``with_route``, called with ``(request, state)``; plain or async.
RequestHandler: TypeAlias = Callable[[Request, State], Answer]
#: A handler for ``with_stateless_route``, called with ``(request)``; plain or async.
StatelessRequestHandler: TypeAlias = Callable[[Request], Answer]
#: A handler for ``with_path_aware_route``, called with ``(request, state, pattern)``; plain or async.
PathAwareRequestHandler: TypeAlias = Callable[[Request, State, str], Answer]

_Handler = TypeVar("_Handler")


class RouteTable(Generic[_Handler]):
    """Patterns in the order of registration. The first pattern that matches is used.

    A literal pattern is looked up in a dict. Only the wildcard patterns registered before it are tried.
    """

    def __init__(self) -> None:
        self._size = 0
        self._literals: dict[str, tuple[int, _Handler]] = {}
        self._wildcards: list[tuple[int, str, _Handler]] = []

    def add(self, pattern: str, handler: _Handler) -> None:
        """Add a handler after the others."""
        if "*" in pattern:
            self._wildcards.append((self._size, pattern, handler))
        else:
            self._literals.setdefault(pattern, (self._size, handler))
        self._size += 1

    def find(self, text: str) -> _Handler | None:
        """Return the first handler whose pattern matches, or None."""
        literal = self._literals.get(text)
        for position, pattern, handler in self._wildcards:
            if literal is not None and literal[0] < position:
                break
            if wildcard_match(pattern, text):
                return handler
        return None if literal is None else literal[1]


class HttpRoute:
    """A registered handler.

    Args:
        call: calls the handler with the arguments that it takes, given the request and the state.
    """

    __slots__ = ("call",)

    def __init__(self, call: Callable[[Request, Any], Answer]) -> None:
        self.call = call


class Routes(Generic[State]):
    """The routes of one host.

    A pattern is compared with the path of a request, without the query. ``*`` matches any number of characters,
    including ``/``. The first registered route that matches is used. A route matches every method: see
    ``request.method``.

    Handlers are async functions, or plain functions that do not block. They return a ``Response``.
    """

    def __init__(self) -> None:
        self._routes: RouteTable[HttpRoute] = RouteTable()
        self._websocket_routes: RouteTable[WebsocketRoute[Any]] = RouteTable()

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
        self._websocket_routes.add(_checked(pattern, handler), handler)
        return self

    def _with(self, pattern: str, handler: object, call: Callable[[Request, Any], Answer]) -> Self:
        self._routes.add(_checked(pattern, handler), HttpRoute(call))
        return self


def http_routes(routes: Routes[Any]) -> RouteTable[HttpRoute]:
    """Return the routes of a host for ordinary requests."""
    return routes._routes


def websocket_routes(routes: Routes[Any]) -> RouteTable[WebsocketRoute[Any]]:
    """Return the routes of a host for requests to open a WebSocket."""
    return routes._websocket_routes


class SubApp(Routes[State]):
    """Routes for the hosts that match a pattern. See ``App.with_host``."""


def _checked(pattern: str, handler: object) -> str:
    if not pattern.startswith(("/", "*")):
        raise ValueError(f"no path matches {pattern!r}: a pattern begins with '/' or '*'")
    if not callable(handler):
        raise TypeError(f"the handler of {pattern!r} must be callable, not {type(handler).__name__}")
    return pattern
