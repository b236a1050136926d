"""Routing: which route answers a host and a path. It knows no handlers' arguments, and runs no handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar

from .._http._address import split_port
from .._http._request import Request
from .._http._response import Response
from .._krauss import wildcard_match
from .._websocket._stream._upgrade import WebsocketRoute

Answer: TypeAlias = Response | Awaitable[Response]

_Route = TypeVar("_Route")


class HttpRoute:
    """A registered handler.

    Args:
        call: calls the handler with the arguments that it takes, given the request and the state.
    """

    __slots__ = ("call",)

    def __init__(self, call: Callable[[Request, Any], Answer]) -> None:
        self.call = call


class RouteTable(Generic[_Route]):
    """Patterns in the order of registration. The first pattern that matches is used.

    A literal pattern is looked up in a dict. Only the wildcard patterns registered before it are tried.
    """

    def __init__(self) -> None:
        self._size = 0
        self._literals: dict[str, tuple[int, _Route]] = {}
        self._wildcards: list[tuple[int, str, _Route]] = []

    def add(self, pattern: str, route: _Route) -> None:
        """Add a route after the others."""
        if "*" in pattern:
            self._wildcards.append((self._size, pattern, route))
        else:
            self._literals.setdefault(pattern, (self._size, route))
        self._size += 1

    def find(self, path: str) -> _Route | None:
        """Return the first route whose pattern matches, or None."""
        literal = self._literals.get(path)
        for position, pattern, route in self._wildcards:
            if literal is not None and literal[0] < position:
                break
            if wildcard_match(pattern, path):
                return route
        return None if literal is None else literal[1]


class HostRoutes:
    """The routes of one host.

    Attributes:
        http: for ordinary requests.
        websocket: for requests to open a WebSocket.
    """

    __slots__ = ("http", "websocket")

    def __init__(self) -> None:
        self.http: RouteTable[HttpRoute] = RouteTable()
        self.websocket: RouteTable[WebsocketRoute[Any]] = RouteTable()


class Routing:
    """The routes of an app: those of its hosts, and its own for every host.

    Args:
        own: the routes that are used where the host has none.
    """

    def __init__(self, own: HostRoutes) -> None:
        self._own = own
        self._hosts: list[tuple[str, HostRoutes]] = []

    def replace_own(self, own: HostRoutes) -> None:
        """Use other routes where the host has none."""
        self._own = own

    def add_host(self, pattern: str, routes: HostRoutes) -> None:
        """Use routes for the hosts that match a pattern, if no pattern before it matches.

        Raises:
            ValueError: the pattern is ``*``.
        """
        pattern = _without_root(pattern.lower())
        if pattern == "*":
            raise ValueError("'*' matches every host: use with_default_subapp, or routes of the app itself")
        self._hosts.append((pattern, routes))

    def find(self, host: str, path: str) -> HttpRoute | None:
        """Return the route of an ordinary request, or None."""
        return self._find(host, path, _http_of)

    def find_websocket(self, host: str, path: str) -> WebsocketRoute[Any] | None:
        """Return the route of a request to open a WebSocket, or None."""
        return self._find(host, path, _websocket_of)

    def _find(self, host: str, path: str, table_of: Callable[[HostRoutes], RouteTable[_Route]]) -> _Route | None:
        """Look in the routes of the host, and then in the app's own."""
        routes = self._routes_of(host) if self._hosts else None
        route = None if routes is None else table_of(routes).find(path)
        return table_of(self._own).find(path) if route is None else route

    def _routes_of(self, host: str) -> HostRoutes | None:
        host = _without_root(host)
        name = split_port(host)[0]
        for pattern, routes in self._hosts:
            # A pattern with a port is compared with the host and port, another one with the host only.
            if wildcard_match(pattern, host if split_port(pattern)[0] != pattern else name):
                return routes
        return None


def _http_of(routes: HostRoutes) -> RouteTable[HttpRoute]:
    return routes.http


def _websocket_of(routes: HostRoutes) -> RouteTable[WebsocketRoute[Any]]:
    return routes.websocket


def _without_root(host: str) -> str:
    """Remove a dot at the end of a host name, which denotes the root of DNS (RFC 1034, section 3.1)."""
    name = split_port(host)[0]
    return name.removesuffix(".") + host[len(name) :]
