"""The HTTP application: hosts, routes, handlers, error handling, and running a server."""

from __future__ import annotations

import inspect
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import trio

from .._asgi._mount import HttpMount, MountPoint, WebsocketMount
from .._http._address import Address, refuse_address
from .._http._drain import Drain
from .._http._limits import Limits, Timeouts
from .._http._proxies import TrustedProxies
from .._http._request import Request
from .._http._response import Response
from .._http._statistics import HttpStatistics
from .._http._when_left import WhenLeft
from .._server._certificate import CertificateFiles, GivenContext
from .._server._direct import DirectStream, DirectTransport
from .._server._fast_head import parse_fast
from .._server._h11_head import parse_h11
from .._server._http_counters import HttpCounters
from .._server._observers import Observers
from .._server._request_reader import HeadParser
from .._server._response_writer import ResponseWriter
from .._server._server import check_shutdown
from .._server._stored_body import StoredBody
from .._server._transport import StreamTransport, Transport
from .._settings import check_argument, check_names, check_type, check_whole
from .._signatures import check_parameters
from .._type_variables import State
from .._websocket._stream._hook_route import HookRouteOptions, async_websocket_handler
from ._access import AccessLog
from ._errors import ErrorHandler
from ._handler_checks import check_asgi_app
from ._hosting import AdoptableApp
from ._monitor import Monitor, MonitorConfig
from ._options import route_options
from ._patterns import parse_pattern
from ._routes import Routes, SubApp, routes_of
from ._routing import NotServed, Routing
from ._servers import Servers
from ._service import AppService

if TYPE_CHECKING:
    from typing import Unpack

    from .._asgi._call import AsgiApp
    from .._server._certificate import Certificate
    from .._server._given_listener import ListenTarget

#: A connection condition, for ``with_connection_condition``: called with ``(address, state)``.
ConnectionCondition: TypeAlias = Callable[[Address, State], bool]

#: The parsers of request heads.
Parser: TypeAlias = Literal["h11", "fast"]

_PARSERS: dict[Parser, HeadParser] = {"h11": parse_h11, "fast": parse_fast}

# The default peer of ``serve_stream``.
_MEMORY = Address("memory")


class App(Routes[State]):
    """An HTTP application.

    Args:
        state: the state of the application, the second argument of every handler. Not copied.
        limits: the maximum sizes of a request.
        timeouts: the timeouts of connections.
        max_connections: the maximum number of open connections, including WebSockets and lingering connections;
            None for no limit. At the limit, the oldest lingering connection is closed for each new one. If none
            lingers, new connections wait in the backlog of the kernel. At most half as many connections linger;
            1,000 without a limit.
        server_name: the value of the Server header field; empty for no such field.
        parser: what parses the heads of requests. ``"h11"`` is the library h11. ``"fast"`` is a regular expression
            for the heads that most clients send, and h11 for all others. Both accept and reject the same heads,
            with the same results.
        when_left: what happens to an async handler, and to the producer of a streamed response, if the client
            leaves while it runs. A route may replace it.
        proxies: the proxies in front of the server whose forwarding fields are believed. They tell ``client``,
            ``scheme`` and ``host`` of requests. None, the default, ignores the fields.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: ``max_connections`` is below 1, ``server_name`` is not a valid header value, ``parser`` is
            another one, ``when_left`` is not a ``WhenLeft``, or ``state`` is an address.

    Example:
        >>> app = App().with_stateless_route("/", lambda _: Response(200, "Hello world!"))
        >>> trio.run(app.run, "127.0.0.1:8080")  # doctest: +SKIP
    """

    def __init__(
        self,
        state: State = None,  # type: ignore[assignment]  # the default of State itself
        *,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        max_connections: int | None = None,
        server_name: str = "humphrey_trio",
        parser: Parser = "h11",
        when_left: WhenLeft = WhenLeft.CANCEL,
        proxies: TrustedProxies | None = None,
    ) -> None:
        super().__init__()
        refuse_address(state, "pass it to run", "App")
        if max_connections is not None:
            check_whole("max_connections", max_connections, hint=", or None for no limit")
        check_type("limits", limits, Limits)
        check_type("timeouts", timeouts, Timeouts)
        if parser not in _PARSERS:
            raise ValueError(f"parser must be 'h11' or 'fast', not {parser!r}")
        check_type("proxies", proxies, TrustedProxies, example="'10.0.0.0/8'", optional=True)
        self._state = state
        self._routing = Routing(self._routes)
        self._observers = Observers(HttpCounters(), AccessLog())
        self._service = AppService(state, self._routing, self._observers)
        self._servers = Servers(
            self._service,
            limits=limits,
            timeouts=timeouts,
            max_connections=max_connections,
            parse_head=_PARSERS[parser],
            writer=ResponseWriter(server_name),
            when_left=WhenLeft(when_left),
            observers=self._observers,
            proxies=proxies,
        )

    @property
    def state(self) -> State:
        """The state that was passed to the constructor."""
        return self._state

    def statistics(self) -> HttpStatistics:
        """Return the current statistics, summed over all running calls of ``run`` and ``run_tls``.

        Connections of ``serve_stream`` are included in ``connections`` and ``lingering`` if the app was running
        when it was called.
        """
        return self._servers.statistics()

    def with_host(self, pattern: str, subapp: SubApp[State]) -> Self:
        """Use the routes of a SubApp for hosts that match a pattern.

        The first registered pattern that matches the ``host`` of the request is used; with trusted proxies, it is
        the host that they tell. If no route of the SubApp matches the path and takes the
        method, the routes of the app are used.

        Args:
            pattern: a host name, such as ``*.example.com``. ``*`` matches any number of characters. The comparison
                ignores letter case, and a dot at the end of the name (RFC 1034, section 3.1). It ignores the port
                unless the pattern has one.
            subapp: the routes.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the pattern is ``*``. Use ``with_default_subapp`` instead. Or it is a URL or a path.
            TypeError: the pattern is not a str, or ``subapp`` is not a ``SubApp``.
        """
        check_argument("with_host", subapp, SubApp, "")
        self._routing.add_host(pattern, routes_of(subapp))
        return self

    def with_default_subapp(self, subapp: SubApp[State]) -> Self:
        """Replace the routes of the app by those of a SubApp.

        Routes that were added to the app before are discarded. Routes that are added to either of them later are
        added to both.

        Args:
            subapp: the routes.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: ``subapp`` is not a ``SubApp``.
        """
        check_argument("with_default_subapp", subapp, SubApp, "")
        self._routes = routes_of(subapp)
        self._routing.replace_own(self._routes)
        return self

    def with_error_handler(self, handler: ErrorHandler) -> Self:
        """Set the handler that creates error responses. The default is ``default_error_handler``.

        It is called if no route takes a request (404, 405, 426 or 501), if a request is invalid or exceeds a limit
        (400 and others), if an upgrade is refused without a response (403, 503 and others), if a handler raises an
        ``HttpError``, and if a handler fails (500).
        Header fields that belong to the error, such as Allow or Retry-After, are added to its response.

        If it raises an exception, or does not return a ``Response``, the exception is logged and
        ``default_error_handler`` is used.

        Args:
            handler: a plain or an async function, called with ``(status, request, exception)``. ``status`` is the
                status code. ``request`` is None if the request could not be read. ``exception`` is the reason: an
                exception of a handler, or a description of what is wrong with the request, such as an
                ``HttpError`` or a ``HandshakeError``. It is None for a path without a route.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: the handler is not callable, or has other parameters.
        """
        check_parameters(handler, "status, request, exception", "the error handler")
        self._service.use_error_handler(handler)
        return self

    def with_cert(
        self, cert: ssl.SSLContext | str | Path, key: str | Path | None = None, *, reload: bool = False
    ) -> Self:
        """Set the certificate for ``run_tls``.

        Args:
            cert: a PEM file with the certificate and its chain, or an ``ssl.SSLContext`` for servers. With a file,
                the server uses TLS 1.2 and 1.3 and ALPN ``http/1.1``. A context is used as it is.
            key: a PEM file with the private key; None if ``cert`` contains it. Ignored if ``cert`` is a context.
            reload: whether to check the files once a second while the server runs. New connections use a changed
                certificate. One that cannot be loaded is logged at level ERROR, and the old one is kept.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: a file is missing, unreadable or not PEM, or the key does not belong to the certificate.
                Or the context is for clients, or ``reload`` is True for a context.
            TypeError: ``cert`` is neither a path nor a context.
        """
        if not isinstance(cert, (ssl.SSLContext, str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"with_cert takes the path of a PEM file, or an ssl.SSLContext, not {cert!r}")
        if not isinstance(cert, ssl.SSLContext):
            self._servers.use_certificate(CertificateFiles(cert, key, reloads=reload))
            return self
        if cert.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "this SSLContext is for clients: use ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
            )
        if reload:
            raise ValueError("only files can be reloaded: pass their paths to with_cert instead of an SSLContext")
        self._servers.use_certificate(GivenContext(cert))
        return self

    def with_shutdown(self, event: trio.Event, drain: Drain = Drain()) -> Self:  # noqa: B008  (frozen)
        """Shut down gracefully when an event is set. Then ``run`` returns.

        The server stops accepting connections. Requests that have begun are answered, idle connections and
        WebSockets are closed, and upgrades get a 503 with Retry-After. Connections that are left after
        ``Timeouts.drain`` seconds are cancelled.

        Pass the same event to ``with_shutdown`` of linked ``AsyncWebsocketApp``s. They close their own streams.
        Streams of an app without it are closed by this app.

        Args:
            event: set it to begin the shutdown.
            drain: how WebSockets are closed.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the spread of the drain is too long for ``Timeouts.drain``.
            TypeError: the event is not a ``trio.Event``, or the drain is not a ``Drain``.
        """
        check_shutdown(event, drain, self._servers.timeouts)
        self._servers.use_shutdown(event, drain)
        return self

    def with_monitor(self, config: MonitorConfig) -> Self:
        """Send events of the server, such as closed connections and error responses, into a channel.

        The server never waits for the channel. Events for which it has no room are dropped, and counted. If it is
        closed, a WARNING is logged and no more events are sent. The app does not close it.

        Args:
            config: the channel, and which events are sent. It replaces that of a previous call. Connections that
                are open report their responses as before.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the config has no subscription. Call its ``with_subscription_to``.
            TypeError: the argument is not a ``MonitorConfig``.
        """
        self._observers.use_monitor(Monitor(config))
        return self

    def with_connection_condition(self, condition: ConnectionCondition[State]) -> Self:
        """Set a function that decides which clients may connect.

        It is called for each new connection, before TLS and before anything is received. A connection that it
        refuses is closed at once, without a response, and counted as ``denied`` in the statistics.

        The function delays all connections that are waiting to be accepted. It must not block, and should take
        less than about 10 microseconds, as a lookup in a set does.

        Args:
            condition: a plain function, called with ``(address, state)``. ``address`` is that of the peer, which
                may be a proxy; for a Unix socket its host is ``unix:``. True accepts the connection. If it returns
                False, or fails, the connection is closed. A failure is logged. Servers that are running keep
                theirs.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: the condition is not callable, has other parameters, or is an async function.
        """
        if inspect.iscoroutinefunction(condition):
            raise TypeError(f"a connection condition is a plain function (address, state), not {condition!r}")
        check_parameters(condition, "address, state", "the connection condition")
        state = self._state

        @wraps(condition)  # so that log lines name it
        def admits(address: Address) -> bool:
            return condition(address, state)

        self._servers.use_condition(admits)
        return self

    def with_websocket_app(
        self, pattern: str, websocket_app: AdoptableApp, **options: Unpack[HookRouteOptions]
    ) -> Self:
        """Run an ``AsyncWebsocketApp`` in this app, and add a websocket route to it.

        ``run``, ``run_tls`` and ``serve_stream`` of this app also run the WebSocket app, which must not be run by
        itself. It has the timeouts of this app, and the event and the drain of ``with_shutdown``. If it fails,
        ``run`` of this app ends with the failure. If ``run`` and ``run_tls`` are called, they serve the clients of
        one WebSocket app. Each client is closed when the run ends to which it has connected.

        Its ``connect_hook`` may be used for further routes, such as those of a ``SubApp``.

        Args:
            pattern: the path, such as ``/ws``, as for ``with_websocket_route``.
            websocket_app: the result of ``AsyncWebsocketApp.new_unlinked``. It may be added again for
                another path.
            **options: the keyword arguments of ``async_websocket_handler``, such as ``origins`` and ``accept``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            LinkError: the WebSocket app is linked internally, has run, or is run by another ``App``; or it has
                timeouts or a shutdown event of its own.
            ValueError, TypeError: as for ``with_websocket_route`` and ``async_websocket_handler``.
        """
        if not isinstance(websocket_app, AdoptableApp):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"with_websocket_app takes an AsyncWebsocketApp, not {type(websocket_app).__name__}:"
                " for a hook or a coroutine, use with_websocket_route"
            )
        check_names(options, HookRouteOptions.__annotations__, "with_websocket_app")
        route = async_websocket_handler(websocket_app.connect_hook(), **options)
        parse_pattern(pattern)  # before the app is adopted, which cannot be undone
        self._servers.hosting.adopt(websocket_app, self._servers.timeouts)
        return self.with_websocket_route(pattern, route)

    def with_asgi(self, path: str, asgi_app: AsgiApp, *, max_body: int | None = None) -> Self:
        """Run an ASGI app in this app, below a path: ``with_asgi("/api", FastAPI())``.

        The app gets the requests and the WebSockets for the path and for the paths below it. Their ``root_path``
        is the path. Its lifespan runs while ``run``, ``run_tls`` or ``serve_stream`` of this app runs.

        The app runs on trio. It is not cancelled when a client leaves, and may continue after a response until
        the end of ``with_shutdown``.

        Args:
            path: a path such as ``/api``, or ``*`` for every path. Routes that were added before take precedence.
            asgi_app: an ASGI 3 app, ``async (scope, receive, send)``. It may be added again for another path.
                It has one lifespan then.
            max_body: bytes of the body of a request. Beyond it: 413. None for ``Limits.body``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the path begins with neither ``/`` nor ``*``, or has wildcards or parameters; or
                ``max_body`` is negative.
            TypeError: the ASGI app cannot be called with ``(scope, receive, send)``, or is a plain ``def``.
        """
        check_asgi_app(asgi_app)
        point = MountPoint(path)
        options = route_options(max_body=max_body, stream=True, when_left=WhenLeft.CANCEL)
        host = self._servers.hosting.host(asgi_app)
        http, websocket = HttpMount(host, point.root_path), WebsocketMount(host, point.root_path)
        for pattern in point.patterns:
            self._mount(pattern, http, websocket, options)
        return self

    async def handle(self, request: Request) -> Response:
        """Call the application without a connection. For tests, and for requests from other sources.

        The limits, the timeouts and the automatic header fields belong to connections, and do not apply.

        Args:
            request: the request. Its ``host`` selects the SubApp of ``with_host``. The handler gets a copy with
                the ``path_params`` of its route, and its content as a stream if the route has ``stream=True``.

        Returns:
            The response of the handler, or of the error handler: a 404 without a route, a 405 without one for the
            method, a 500 if the handler raised an exception, which is logged. A request to open a WebSocket is
            treated as an ordinary one. ``humphrey_trio.http.read_body`` reads the body of a streamed response.

        Raises:
            TypeError: ``request`` is not a ``Request``.
        """
        check_argument("handle", request, Request, "path='/'")
        service = self._service
        match = service.find(request.host, request.method, request.path, wants_websocket=False)
        if isinstance(match, NotServed):
            return await service.reject(request, match)
        request = request.replace(path_params=match.params)
        if match.stream:
            with suppress(RuntimeError):  # it has a stream already
                request = request.replace(content=StoredBody(request.content))
        answer = service.respond(request, match)
        return answer if isinstance(answer, Response) else await service.settle(request, match, answer)

    async def run(
        self,
        *addresses: ListenTarget,
        unix_mode: int | None = None,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on addresses, and serve connections until cancelled or until a ``with_shutdown`` has completed.

        Args:
            addresses: ``127.0.0.1:80``, ``[::1]:80``, ``localhost:80`` or ``unix:/path``. Port 0 selects a free
                port. A host name means all its addresses that belong to this machine. The others are logged at
                level WARNING. Sockets that listen already are accepted as well: a ``socket.socket`` or a
                ``trio.SocketListener``. They are closed when the server stops accepting, and also if ``run``
                fails. To keep one open, pass ``sock.dup()``.
            unix_mode: the mode of the files of Unix sockets, such as ``0o660``, set before a client can connect.
                None for the mode of the umask.
            task_status: for ``nursery.start``, which returns a tuple with the ``Address`` of each listener.

        Raises:
            ValueError: there is no address, or one is malformed; a socket does not listen, or is not a stream
                socket; or ``unix_mode`` is not a mode, or there is no Unix socket.
            TypeError: an address is neither a str nor a socket.
            OSError: an address cannot be listened on. Then the server does not listen on any of them.
            RuntimeError: the call is not in a run of trio.
            LifespanError: the lifespan of an ASGI app has failed.
        """
        await self._run(addresses, unix_mode, None, task_status)

    async def run_tls(
        self,
        *addresses: ListenTarget,
        unix_mode: int | None = None,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on addresses and serve connections over TLS, with the certificate of ``with_cert``.

        May run at the same time as ``run``, on other addresses.

        Args:
            addresses, unix_mode, task_status: as for ``run``.

        Raises:
            RuntimeError: ``with_cert`` was not called, or the call is not in a run of trio.
            ValueError, TypeError, OSError, LifespanError: as for ``run``.
        """
        certificate = self._servers.certificate
        if certificate is None:
            raise RuntimeError("run_tls needs a certificate: call with_cert(cert, key) first")
        await self._run(addresses, unix_mode, certificate, task_status)

    async def serve_stream(self, stream: trio.abc.Stream, *, peer: Address = _MEMORY) -> None:
        """Serve one connection over a stream, and close the stream.

        If the app is running, the connection belongs to that ``run``: it counts for ``max_connections``, takes
        part in a graceful shutdown, and is cancelled when ``run`` returns. Otherwise the connection has a server
        of its own, with the same limits and timeouts.

        Args:
            stream: any trio stream, such as one end of ``trio.testing.memory_stream_pair()``. Over a
                ``humphrey_trio.testing.DirectStream``, WebSocket frames take the same direct path as over a
                socket. A stream that is not a ``trio.abc.HalfCloseableStream``, such as ``trio.SSLStream``,
                lingers for a second at most.
            peer: the value of ``request.address``.

        Raises:
            TypeError: ``stream`` is not a trio stream.
            RuntimeError: the call is not in a run of trio.
            LifespanError: this app was not running, and the lifespan of an ASGI app has failed.
        """
        if not isinstance(stream, trio.abc.Stream):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"serve_stream takes a trio stream, not {type(stream).__name__}")
        transport: Transport
        if isinstance(stream, DirectStream):
            transport = DirectTransport(stream, peer)
        else:
            transport = StreamTransport(stream, peer)
        await self._servers.serve(transport)

    async def _run(
        self,
        targets: tuple[ListenTarget, ...],
        unix_mode: int | None,
        certificate: Certificate | None,
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        self._routing.log_hidden()
        await self._servers.run(targets, unix_mode, certificate, task_status)
        for route in self._routing.hook_routes():
            route.note_server_end()  # only a graceful shutdown leads here


def servers_of(app: App[Any]) -> Servers:
    """Return the servers of an app, for a WebSocket app that runs one itself, and for the command line."""
    return app._servers


def routing_of(app: App[Any]) -> Routing:
    """Return the routing of an app, for the report of the command line."""
    return app._routing
