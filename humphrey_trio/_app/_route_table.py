"""The routes and the layers of one host, and the search for routes that match a path. It knows no hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from .._http._path_params import NO_PARAMS
from .._http._request import Request
from .._http._response import Response
from .._http._when_left import WhenLeft
from .._websocket._stream._upgrade import WebsocketRoute
from ._layers import LayerEntry
from ._options import RouteOptions
from ._patterns import LiteralPattern, Pattern, WildcardPattern, parse_pattern

Answer: TypeAlias = Response | Awaitable[Response]
#: Calls a handler with the arguments that it takes, given the request and the state.
HttpCall: TypeAlias = Callable[[Request, Any], Answer]

_Handler = TypeVar("_Handler")


class Route(Generic[_Handler]):
    """A registered handler.

    Args:
        text: the pattern of the paths for which it is called.
        handler: what is called.
        source: the function of the application that ``handler`` calls, to name it in log lines.
        options: which requests it takes, and how their bodies are read.
        upgrades: whether the handler gets requests to open a WebSocket.

    Raises:
        ValueError: the pattern is malformed.

    Attributes:
        pattern: the parsed pattern.
        methods: the methods that it takes; None for every method.
        stream: whether the handler reads the bodies itself.
        found: the result of a search that has found it, if the pattern has no parameters.
    """

    __slots__ = ("found", "handler", "methods", "options", "pattern", "source", "stream", "text", "upgrades")

    def __init__(
        self, text: str, handler: _Handler, source: object, options: RouteOptions, *, upgrades: bool
    ) -> None:
        self.text = text
        self.pattern = parse_pattern(text)
        self.handler = handler
        self.source = source
        self.options = options
        self.methods = options.methods
        self.stream = options.stream
        self.upgrades = upgrades
        self.found = Found(self, NO_PARAMS)

    def match(self, path: str) -> Found[_Handler] | None:
        """Compare the pattern with a path."""
        params = self.pattern.match(path)
        if params is None:
            return None
        return Found(self, params) if params else self.found


class Found(Generic[_Handler]):
    """A route that matches the path of a request. A ``Match`` of a connection.

    Args:
        route: the route.
        params: the values of its parameters.
    """

    __slots__ = ("params", "route", "stream")

    served = True

    def __init__(self, route: Route[_Handler], params: Mapping[str, str]) -> None:
        self.route = route
        self.params = params
        self.stream = route.stream

    @property
    def pattern(self) -> str:
        return self.route.text

    @property
    def handler(self) -> _Handler:
        return self.route.handler

    @property
    def upgrades(self) -> bool:
        return self.route.upgrades

    @property
    def max_body(self) -> int | None:
        return self.route.options.max_body

    @property
    def when_left(self) -> WhenLeft | None:
        return self.route.options.when_left


class RouteTable(Generic[_Handler]):
    """Routes in the order of registration.

    For each literal pattern, the routes that match it are collected when routes are added. So a path that some
    route names literally is looked up in a dict. Any other path is compared with the other patterns, one by one.

    Attributes:
        methods: the methods that any route names.
        has_any_method: whether a route takes every method.
        hidden: pairs of a route that can never be used, and of the route that is the reason. Routes with
            parameters are not compared.
    """

    def __init__(self) -> None:
        self.methods: set[str] = set()
        self.has_any_method = False
        self.hidden: list[tuple[Route[_Handler], Route[_Handler]]] = []
        self._literals: dict[str, list[Found[_Handler]]] = {}
        self._others: list[Route[_Handler]] = []

    def add(self, route: Route[_Handler], *, may_be_hidden: bool = False) -> None:
        """Add a route after the others.

        Args:
            route: the route.
            may_be_hidden: whether it may be one that can never be used, because others take its requests.

        Raises:
            ValueError: it can never be used, because of routes with the same pattern.
        """
        if not may_be_hidden:
            self._check_hidden(route)
        self.methods |= route.methods or set()
        self.has_any_method |= route.methods is None
        if isinstance(route.pattern, LiteralPattern):
            path = route.pattern.path
            self._literals.setdefault(path, self._search(path)).append(route.found)
            return
        self._others.append(route)
        for path, matches in self._literals.items():
            if (found := route.match(path)) is not None:
                matches.append(found)

    def find(self, method: str, path: str) -> Found[_Handler] | None:
        """Return the first route that matches a path and takes a method."""
        matches = self._literals.get(path)
        if matches is not None:
            for found in matches:
                methods = found.route.methods
                if methods is None or method in methods:
                    return found
            return None
        for route in self._others:
            methods = route.methods
            if (methods is None or method in methods) and (match := route.match(path)) is not None:
                return match
        return None

    def matches(self, path: str) -> list[Found[_Handler]]:
        """Return all routes that match a path, in order."""
        return self._literals.get(path) or self._search(path)

    def methods_of(self, path: str) -> set[str]:
        """Return the methods that the routes of a path name."""
        if not self.methods:
            return set()
        return {name for found in self.matches(path) for name in found.route.methods or ()}

    def routes(self) -> list[Route[_Handler]]:
        """Return all routes: those with a literal pattern, and then the others."""
        literals = [found.route for matches in self._literals.values() for found in matches]
        return list(dict.fromkeys([*literals, *self._others]))

    def _check_hidden(self, route: Route[_Handler]) -> None:
        """Refuse a second route for the same requests, and note another one that can never be used."""
        pattern, before = route.pattern, self._others
        if isinstance(pattern, LiteralPattern):
            before = [found.route for found in self.matches(pattern.path)]
        same = [other for other in before if _have_same_form(other.pattern, pattern)]
        if (first := _hides(same, route)) is not None:
            raise ValueError(
                f"{route.text!r} can never be used: the route {first.text!r}, which was added before, takes the"
                " same paths and methods. Remove one of them, or give them different methods"
            )
        if isinstance(pattern, WildcardPattern):
            before = [other for other in before if _covers(other.pattern, pattern)]
        elif not isinstance(pattern, LiteralPattern):
            return
        if (first := _hides(before, route)) is not None:
            self.hidden.append((route, first))

    def _search(self, path: str) -> list[Found[_Handler]]:
        return [found for route in self._others if (found := route.match(path)) is not None]


def _have_same_form(one: Pattern, other: Pattern) -> bool:
    return type(one) is type(other) and one.form == other.form


def _covers(one: Pattern, other: WildcardPattern) -> bool:
    """Whether a pattern with wildcards matches every path that another one matches.

    It does if it matches the text of the other one: its literals contain no ``*``, so one of its wildcards takes
    each wildcard of the other, and takes what that stands for as well.
    """
    return isinstance(one, WildcardPattern) and one.match(other.form) is not None


def _hides(routes: list[Route[_Handler]], route: Route[_Handler]) -> Route[_Handler] | None:
    """Return the route with which, and those before it, no method is left for another one; None if one is."""
    taken = set[str]()
    for other in routes:
        if other.methods is None:
            return other
        taken |= other.methods
        if route.methods is not None and route.methods <= taken:
            return other
    return None


class HostRoutes:
    """The routes and layers of one host.

    Attributes:
        http: for ordinary requests.
        websocket: for requests to open a WebSocket.
        layers: the layers around the answers, the outermost first.
    """

    __slots__ = ("http", "layers", "websocket")

    def __init__(self) -> None:
        self.http: RouteTable[HttpCall] = RouteTable()
        self.websocket: RouteTable[WebsocketRoute[Any]] = RouteTable()
        self.layers: list[LayerEntry[Any]] = []
