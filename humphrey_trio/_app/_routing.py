"""Routing: what answers a request. It runs no handler, and creates no response.

``Routing.find`` is the only lookup. Its outcome is the route with the values of its parameters, or the reason why
no route takes the request.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from .._http._address import split_port
from .._http._method import REGISTERED_METHODS, Method
from .._http._path_params import NO_PARAMS
from .._http._request import Request
from .._websocket._stream._hook_route import HookRoute
from .._websocket._stream._upgrade import WebsocketRoute
from .._wildcards import Wildcard
from ._layers import LayerEntry
from ._patterns import decode_values
from ._route_table import Found, HostRoutes, Route

logger = logging.getLogger("humphrey_trio.http")

_Handler = TypeVar("_Handler")

# What ``OPTIONS *`` names for a route that takes every method. It takes TRACE as well, but does not advertise it.
_EVERY_METHOD = frozenset(Method) - {Method.CONNECT, Method.TRACE}


class Reason(enum.Enum):
    """Why no handler gets a request."""

    NOT_FOUND = enum.auto()
    MALFORMED_VALUE = enum.auto()
    METHOD_NOT_ALLOWED = enum.auto()
    METHOD_NOT_IMPLEMENTED = enum.auto()
    OPTIONS = enum.auto()
    WEBSOCKETS_ONLY = enum.auto()


@dataclass(frozen=True, slots=True)
class NotServed:
    """No handler gets the request. A ``Match`` of a connection.

    Attributes:
        reason: why not.
        allow: the methods of the path, in alphabetical order, if the response names them.
    """

    reason: Reason
    allow: tuple[str, ...] = ()

    served = False
    upgrades = False
    handler = None
    pattern = None
    params = NO_PARAMS
    max_body = None
    stream = False
    when_left = None


Outcome: TypeAlias = Found[Any] | NotServed


class Routing:
    """The routes of an app: those of its hosts, and its own for every host.

    Args:
        own: the routes that are used where the host has none.
    """

    def __init__(self, own: HostRoutes) -> None:
        self._own = (own,)
        self._hosts: list[tuple[_HostPattern, HostRoutes]] = []

    def replace_own(self, own: HostRoutes) -> None:
        """Use other routes where the host has none."""
        self._own = (own,)

    def add_host(self, pattern: str, routes: HostRoutes) -> None:
        """Use routes for the hosts that match a pattern, if no pattern before it matches.

        Raises:
            ValueError: the pattern is ``*``, a URL or a path.
            TypeError: the pattern is not a str.
        """
        self._hosts.append((_HostPattern(pattern), routes))

    def find(self, host: str, method: str, path: str, wants_websocket: bool) -> Outcome:
        """Look in the routes of the host, and then in the app's own.

        Args:
            host: the host of the request in lower case, as ``Request.host``.
            method: the method of the request.
            path: the path of the request.
            wants_websocket: whether it is a request to open a WebSocket. If no websocket route matches, it is an
                ordinary request.

        Returns:
            The first route that matches the path and takes the method, or the reason why there is none.
        """
        tables = self._tables_of(host) if self._hosts else self._own
        if wants_websocket:
            for routes in tables:
                if (upgrade := routes.websocket.find(method, path)) is not None:
                    return _decoded(upgrade)
        for routes in tables:
            if (found := routes.http.find(method, path)) is not None:
                return _decoded(found) if found.params else found
        return self._not_served(tables, method, path)

    def hook_routes(self) -> list[HookRoute]:
        """Return the routes of all hosts that send streams to hooks."""
        handlers = [route.handler for _, route in self.websocket_routes()]
        return [handler for handler in handlers if isinstance(handler, HookRoute)]

    def websocket_routes(self) -> list[tuple[str, Route[WebsocketRoute[Any]]]]:
        """Return the websocket routes, each with the pattern of its host; ``*`` for every host."""
        (own,) = self._own
        hosts = [*((pattern.text, routes) for pattern, routes in self._hosts), ("*", own)]
        return [(host, route) for host, routes in hosts for route in routes.websocket.routes()]

    def log_hidden(self) -> None:
        """Log a WARNING about each route that can never be used. Once for each route."""
        for table in (table for routes in self._all() for table in (routes.http, routes.websocket)):
            for route, first in table.hidden:
                logger.warning(
                    "the route %r can never be used, because %r takes its requests: add it before that one",
                    route.text,
                    first.text,
                )
            table.hidden.clear()

    def layers_for(self, request: Request) -> Sequence[LayerEntry[Any]]:
        """Return the layers around the answer to a request: those of the app, and then those of its host."""
        (own,) = self._own
        if not self._hosts:
            return own.layers
        tables = self._tables_of(request.host)
        return own.layers if tables is self._own else (*own.layers, *tables[0].layers)

    def _not_served(self, tables: tuple[HostRoutes, ...], method: str, path: str) -> NotServed:
        """Return why no route takes a request."""
        if path == "*" and method == "OPTIONS":
            return NotServed(Reason.OPTIONS, _allow(_methods_of(tables)))
        named = {name for routes in tables for name in routes.http.methods_of(path)}
        websocket = any(routes.websocket.matches(path) for routes in tables)
        if websocket and (not named or method in ("GET", "HEAD")):
            return NotServed(Reason.WEBSOCKETS_ONLY)
        if not self._knows(method):
            return NotServed(Reason.METHOD_NOT_IMPLEMENTED)
        if not named:
            return NotServed(Reason.NOT_FOUND)
        reason = Reason.OPTIONS if method == "OPTIONS" else Reason.METHOD_NOT_ALLOWED
        return NotServed(reason, _allow({*named, "GET"} if websocket else named))

    def _knows(self, method: str) -> bool:
        """Return whether a method is registered, or a route of any host takes it (RFC 9110, section 15.6.2)."""
        if method in REGISTERED_METHODS:
            return True
        tables = [routes.http for routes in self._all()]
        return any(table.has_any_method or method in table.methods for table in tables)

    def _all(self) -> list[HostRoutes]:
        """Return the routes of the app and of its hosts."""
        return [*self._own, *(routes for _, routes in self._hosts)]

    def _tables_of(self, host: str) -> tuple[HostRoutes, ...]:
        host = _without_root(host)
        name = split_port(host)[0]
        for pattern, routes in self._hosts:
            if pattern.matches(host, name):
                return (routes, *self._own)
        return self._own


class _HostPattern:
    """A pattern of host names, with or without a port.

    Attributes:
        text: the pattern in lower case.
    """

    __slots__ = ("_has_port", "_wildcard", "text")

    def __init__(self, pattern: str) -> None:
        if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the pattern of hosts is a str such as '*.example.com', not {pattern!r}")
        if "/" in pattern:
            raise ValueError(f"no host matches {pattern!r}: write a host name without scheme and path")
        pattern = _without_root(pattern.lower())
        if pattern == "*":
            raise ValueError("'*' matches every host: use with_default_subapp, or routes of the app itself")
        self.text = pattern
        self._has_port = split_port(pattern)[0] != pattern
        self._wildcard = Wildcard(pattern)

    def matches(self, host: str, name: str) -> bool:
        """Compare with the host and port, or with the name of the host if the pattern has no port."""
        return self._wildcard.matches(host if self._has_port else name)


def _decoded(found: Found[_Handler]) -> Found[_Handler] | NotServed:
    """Return a route with the decoded values of its parameters."""
    if not found.params:
        return found
    try:
        return Found(found.route, decode_values(found.params))
    except ValueError:
        return NotServed(Reason.MALFORMED_VALUE)


def _methods_of(tables: Iterable[HostRoutes]) -> set[str]:
    """Return all methods that routes take, and that may be advertised."""
    methods: set[str] = set()
    for routes in tables:
        methods |= routes.http.methods
        if routes.http.has_any_method:
            methods |= _EVERY_METHOD
    return methods


def _allow(methods: set[str]) -> tuple[str, ...]:
    return tuple(sorted({*methods, "OPTIONS"}))


def _without_root(host: str) -> str:
    """Remove a dot at the end of a host name, which denotes the root of DNS (RFC 1034, section 3.1)."""
    name = split_port(host)[0]
    return name.removesuffix(".") + host[len(name) :]
