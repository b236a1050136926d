"""Routes: which handler answers which host and path, and in which order they are tried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeAlias, TypeVar

from ._http._request import Request
from ._http._response import Response
from ._krauss import wildcard_match
from ._state import State
from ._websocket._upgrade import Upgrade, WebsocketRoute

Answer: TypeAlias = Response | Awaitable[Response]
#: What ``with_route`` takes: ``(request, state)``, plain or async.
RequestHandler: TypeAlias = Callable[[Request, State], Answer]
#: What ``with_stateless_route`` takes: ``(request)``, plain or async.
StatelessRequestHandler: TypeAlias = Callable[[Request], Answer]
#: What ``with_path_aware_route`` takes: ``(request, state, pattern)``, plain or async.
PathAwareRequestHandler: TypeAlias = Callable[[Request, State, str], Answer]

_Handler = TypeVar("_Handler")


class RouteTable(Generic[_Handler]):
    """Patterns in the order of registration; the first that matches wins.

    A literal pattern is found without trying the others, only wildcards before it are looked at.
    """

    def __init__(self) -> None:
        self._size = 0
        self._literals: dict[str, tuple[int, _Handler]] = {}
        self._wildcards: list[tuple[int, str, _Handler]] = []

    def add(self, pattern: str, handler: _Handler) -> None:
        """Register a handler behind the others."""
        if "*" in pattern:
            self._wildcards.append((self._size, pattern, handler))
        else:
            self._literals.setdefault(pattern, (self._size, handler))
        self._size += 1

    def find(self, text: str) -> _Handler | None:
        """The first handler whose pattern matches, or None."""
        literal = self._literals.get(text)
        for position, pattern, handler in self._wildcards:
            if literal is not None and literal[0] < position:
                break
            if wildcard_match(pattern, text):
                return handler
        return None if literal is None else literal[1]


class HttpRoute:
    """One registered handler; ``call`` takes the request and the state, whatever the handler itself takes."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[Request, Any], Answer]) -> None:
        self.call = call


class Routes(Generic[State]):
    """The routes of one host, and the ``with_*`` methods that add to them.

    A pattern is matched against the path without its query; ``*`` stands for any run of characters, ``/``
    included. Handlers are plain functions, which must not block, or ``async def``.
    """

    def __init__(self) -> None:
        self._routes: RouteTable[HttpRoute] = RouteTable()
        self._websocket_routes: RouteTable[WebsocketRoute[Any]] = RouteTable()

    def with_route(self, pattern: str, handler: RequestHandler[State]) -> Self:
        """Answer requests with ``handler(request, state)``."""
        return self._with(pattern, handler, handler)

    def with_stateless_route(self, pattern: str, handler: StatelessRequestHandler) -> Self:
        """Answer requests with ``handler(request)``."""
        return self._with(pattern, handler, lambda request, _: handler(request))

    def with_path_aware_route(self, pattern: str, handler: PathAwareRequestHandler[State]) -> Self:
        """Answer requests with ``handler(request, state, pattern)``, the pattern as it stands here."""
        return self._with(pattern, handler, lambda request, state: handler(request, state, pattern))

    def with_websocket_route(
        self, pattern: str, handler: Callable[[Upgrade, State], Awaitable[Response | None]]
    ) -> Self:
        """Answer requests to open a WebSocket with ``await handler(upgrade, state)``.

        ``websocket_handler`` and ``async_websocket_handler`` make such handlers.

        Raises:
            ValueError, TypeError: as for the other routes.
        """
        self._websocket_routes.add(_checked(pattern, handler), handler)
        return self

    def _with(self, pattern: str, handler: object, call: Callable[[Request, Any], Answer]) -> Self:
        self._routes.add(_checked(pattern, handler), HttpRoute(call))
        return self


def http_routes(routes: Routes[Any]) -> RouteTable[HttpRoute]:
    """The routes of one host that answer ordinary requests."""
    return routes._routes


def websocket_routes(routes: Routes[Any]) -> RouteTable[WebsocketRoute[Any]]:
    """The routes of one host that answer requests to open a WebSocket."""
    return routes._websocket_routes


class SubApp(Routes[State]):
    """Routes for one host pattern; see ``App.with_host``."""


def _checked(pattern: str, handler: object) -> str:
    if not pattern.startswith(("/", "*")):
        raise ValueError(f"no path matches {pattern!r}: a pattern begins with '/' or '*'")
    if not callable(handler):
        raise TypeError(f"the handler of {pattern!r} must be callable, not {type(handler).__name__}")
    return pattern
