"""The routes and layers of an app or of a host, as methods of ``App`` and ``SubApp``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, Self, TypeAlias

from .._http._request import Request
from .._http._response import Response
from .._http._when_left import WhenLeft
from .._layers._cors import Cors, cors
from .._layers._layer import Layer
from .._settings import check_argument
from .._type_variables import State
from .._websocket._stream._hook_route import HookRoute
from .._websocket._stream._upgrade import Upgrade
from ._handler_checks import check_handler, checked_route
from ._layers import LayerEntry
from ._options import RouteOptions, route_options
from ._route_table import Answer, HostRoutes, HttpCall, Route

#: A handler for ``with_route``, called with ``(request, state)``; plain or async.
RequestHandler: TypeAlias = Callable[[Request, State], Answer]
#: A handler for ``with_stateless_route``, called with ``(request)``; plain or async.
StatelessRequestHandler: TypeAlias = Callable[[Request], Answer]
#: A handler for ``with_path_aware_route``, called with ``(request, state, pattern)``; plain or async.
PathAwareRequestHandler: TypeAlias = Callable[[Request, State, str], Answer]


class Routes(Generic[State]):
    """The routes of one host.

    A pattern is compared with the path of a request as it was sent, without the query. In a pattern, ``*`` matches
    any number of characters, including ``/``. Instead of ``*``, it may have parameters: ``{name}`` is one segment
    of the path, and ``{name*}`` at the end is the rest of it. ``request.path_params`` has their values. Characters
    that cannot stand in a path are percent-encoded: ``/a b`` matches ``/a%20b``.

    The first registered route that matches the path and takes the method is used.

    Handlers are async functions, or plain functions that do not block. They return a ``Response``.
    """

    def __init__(self) -> None:
        self._routes = HostRoutes()

    def with_route(
        self,
        pattern: str,
        handler: RequestHandler[State],
        *,
        methods: Collection[str] | None = None,
        max_body: int | None = None,
        stream: bool = False,
        when_left: WhenLeft | None = None,
    ) -> Self:
        """Add a route whose handler gets the request and the state of the app.

        Args:
            pattern: the path, such as ``/users/*`` or ``/users/{id}``.
            handler: called with ``(request, state)``.
            methods: the methods that the route takes, such as ``("GET", "POST")``; None for every method. GET
                includes HEAD. If a path has only routes that do not take the method, the response is a 405.
            max_body: bytes of the body of a request. Beyond it: 413. None for ``Limits.body``.
            stream: whether the handler reads the body itself, with ``request.body``. Otherwise it is called when
                the whole body has been received.
            when_left: what happens to the handler, if it is async, and to the producer of a streamed response when
                the client leaves. None for ``App(when_left=...)``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the pattern could never match a path, or its parameters are malformed; a route that was
                added before has the same pattern and takes the same methods; a method is not a token, or a
                standard method is not in upper case; ``max_body`` is negative; ``when_left`` is not a
                ``WhenLeft``.
            TypeError: the handler is not callable or has other parameters, or another argument has the wrong type.
        """
        return self._with(
            pattern,
            handler,
            "request, state",
            handler,
            route_options(methods, max_body, stream=stream, when_left=when_left),
        )

    def with_stateless_route(
        self,
        pattern: str,
        handler: StatelessRequestHandler,
        *,
        methods: Collection[str] | None = None,
        max_body: int | None = None,
        stream: bool = False,
        when_left: WhenLeft | None = None,
    ) -> Self:
        """Add a route whose handler gets only the request.

        Args:
            pattern: the path, such as ``/users/*`` or ``/users/{id}``.
            handler: called with ``(request)``.
            methods: as for ``with_route``.
            max_body: as for ``with_route``.
            stream: as for ``with_route``.
            when_left: as for ``with_route``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_route``.
        """
        return self._with(
            pattern,
            handler,
            "request",
            lambda request, _: handler(request),
            route_options(methods, max_body, stream=stream, when_left=when_left),
        )

    def with_path_aware_route(
        self,
        pattern: str,
        handler: PathAwareRequestHandler[State],
        *,
        methods: Collection[str] | None = None,
        max_body: int | None = None,
        stream: bool = False,
        when_left: WhenLeft | None = None,
    ) -> Self:
        """Add a route whose handler also gets the pattern, so that one handler can serve several routes.

        Args:
            pattern: the path, such as ``/users/*`` or ``/users/{id}``.
            handler: called with ``(request, state, pattern)``, where ``pattern`` is the argument above.
            methods: as for ``with_route``.
            max_body: as for ``with_route``.
            stream: as for ``with_route``.
            when_left: as for ``with_route``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_route``.
        """
        return self._with(
            pattern,
            handler,
            "request, state, pattern",
            lambda request, state: handler(request, state, pattern),
            route_options(methods, max_body, stream=stream, when_left=when_left),
        )

    def with_websocket_route(
        self, pattern: str, handler: Callable[[Upgrade, State], Awaitable[Response | None]]
    ) -> Self:
        """Add a route for requests to open a WebSocket (RFC 6455, section 4.2.1).

        Other requests for the same path need a route of ``with_route``. Without one, the response to a GET or a
        HEAD is a 426, and to any other method a 405.

        Args:
            pattern: the path, such as ``/ws`` or ``/rooms/{name}``.
            handler: awaited with ``(upgrade, state)``. ``websocket_handler`` and ``async_websocket_handler``
                make such handlers. It accepts the upgrade and returns None, or returns the ``Response`` that
                refuses it.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_route``.
        """
        route = Route(pattern, checked_route(handler, pattern), handler, route_options(), upgrades=True)
        if isinstance(handler, HookRoute):
            handler.note_pattern(pattern)
        self._routes.websocket.add(route)
        return self

    def with_layer(self, layer: Layer[State], *, path: str = "*") -> Self:
        """Add a layer around the answers to requests.

        A layer gets the request before the handler, and returns the response. It also gets requests that no
        handler gets: their response is that of the error handler. The first layer that was added is the outermost.
        The layers of a ``SubApp`` are inside those of the app.

        Args:
            layer: ``async def layer(request, state, call_next)``. ``await call_next(request)`` returns the
                response of the next layer or of the handler.
            path: the paths for which the layer is called, such as ``/api/*``: a pattern as for ``with_route``. It
                is compared with the path as it was sent, and also with the percent-decoded path, and with that
                without empty and dot segments. If one of them matches, the layer is called.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: the layer cannot be called, or the path is not a str.
            ValueError: the path could never match, or its parameters are malformed.
        """
        self._routes.layers.append(LayerEntry(path, layer))
        return self

    def with_cors(self, settings: Cors) -> Self:
        """Let pages of other origins call all paths from a browser. The same as ``with_layer(cors(settings))``.

        Args:
            settings: what is allowed.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: ``settings`` is not a ``Cors``.
        """
        check_argument("with_cors", settings, Cors, "origins=...")
        return self.with_layer(cors(settings))

    def with_cors_config(self, pattern: str, settings: Cors) -> Self:
        """Let pages of other origins call some paths from a browser.

        If several match, the one that was added first decides.

        Args:
            pattern: the paths, as for ``with_layer``.
            settings: what is allowed.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError, TypeError: as for ``with_layer``.
        """
        check_argument("with_cors_config", settings, Cors, "origins=...")
        return self.with_layer(cors(settings), path=pattern)

    def _mount(self, pattern: str, http: RequestHandler[State], websocket: Any, options: RouteOptions) -> None:
        """Add a route of either kind.

        Of a literal pattern, other routes may already take the requests, and so they may take all WebSockets.
        """
        is_literal = "*" not in pattern
        route = Route(pattern, http, http, options, upgrades=False)
        self._routes.http.add(route, may_be_hidden=is_literal)
        upgrade = Route(pattern, websocket, websocket, route_options(), upgrades=True)
        self._routes.websocket.add(upgrade, may_be_hidden=True)

    def _with(self, pattern: str, handler: object, parameters: str, call: HttpCall, options: RouteOptions) -> Self:
        route = Route(pattern, call, handler, options, upgrades=False)
        check_handler(handler, parameters, pattern)
        self._routes.http.add(route)
        return self


def routes_of(face: Routes[Any]) -> HostRoutes:
    """Return the routes that were added to an object."""
    return face._routes


class SubApp(Routes[State]):
    """Routes and layers for the hosts that match a pattern. See ``App.with_host``."""
