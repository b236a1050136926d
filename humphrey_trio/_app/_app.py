"""The HTTP application: hosts, routes, handlers, error handling, and running a server."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, TypeAlias

import trio

from .._http._address import Address
from .._http._drain import Drain
from .._http._limits import Limits, Timeouts
from .._http._request import Request
from .._http._response import Response
from .._http._statistics import HttpStatistics
from .._http._when_left import WhenLeft
from .._server._certificate import Certificate, CertificateFiles, GivenContext
from .._server._clock import SweepClock
from .._server._departures import Departures
from .._server._direct import DirectStream, DirectTransport
from .._server._fairness import Fairness
from .._server._fast_head import parse_fast
from .._server._h11_head import parse_h11
from .._server._http_counters import HttpCounters
from .._server._interface import ServerSettings
from .._server._observers import Observers
from .._server._open_listeners import open_listeners
from .._server._request_reader import HeadParser
from .._server._response_writer import ResponseWriter
from .._server._server import HttpServer, check_shutdown
from .._server._stored_body import StoredBody
from .._server._transport import StreamTransport, Transport
from .._type_variables import State
from ._access import AccessLog
from ._errors import ErrorHandler
from ._monitor import Monitor, MonitorConfig
from ._routes import Routes, SubApp, routes_of
from ._routing import NotServed, Routing
from ._service import AppService

logger = logging.getLogger("humphrey_trio.http")

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

    Raises:
        ValueError: ``max_connections`` is below 1, ``server_name`` is not a valid header value, ``parser`` is
            another one, or ``when_left`` is not a ``WhenLeft``.

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
    ) -> None:
        super().__init__()
        if max_connections is not None and max_connections < 1:
            raise ValueError("max_connections must be at least 1, or None for no bound")
        if parser not in _PARSERS:
            raise ValueError(f"parser must be 'h11' or 'fast', not {parser!r}")
        self._state = state
        self._parser: Parser = parser
        self._when_left = WhenLeft(when_left)
        self._limits = limits
        self._timeouts = timeouts
        self._max_connections = max_connections
        self._writer = ResponseWriter(server_name)
        self._routing = Routing(self._routes)
        self._service = AppService(state, self._routing)
        self._certificate: Certificate | None = None
        self._shutdown: trio.Event | None = None
        self._drain = Drain()
        self._running: list[HttpServer] = []
        self._counters = HttpCounters()
        self._monitor: Monitor | None = None

    @property
    def state(self) -> State:
        """The state that was passed to the constructor."""
        return self._state

    def statistics(self) -> HttpStatistics:
        """Return the current statistics, summed over all running calls of ``run`` and ``run_tls``.

        Connections of ``serve_stream`` are included in ``connections`` and ``lingering`` if the app was running
        when it was called.
        """
        servers = self._running
        return self._counters.statistics(
            connections=sum(server.connections for server in servers),
            lingering=sum(len(server.lingering) for server in servers),
            lingering_cut=sum(server.lingering.cuts for server in servers),
            events_dropped=0 if self._monitor is None else self._monitor.dropped,
        )

    def with_host(self, pattern: str, subapp: SubApp[State]) -> Self:
        """Use the routes of a SubApp for hosts that match a pattern.

        The first registered pattern that matches is used. If no route of the SubApp matches the path and takes the
        method, the routes of the app are used.

        Args:
            pattern: a host name, such as ``*.example.com``. ``*`` matches any number of characters. The comparison
                ignores letter case, and a dot at the end of the name (RFC 1034, section 3.1). It ignores the port
                unless the pattern has one.
            subapp: the routes.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the pattern is ``*``. Use ``with_default_subapp`` instead.
        """
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
        """
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
        """
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
        """
        if not isinstance(cert, ssl.SSLContext):
            self._certificate = CertificateFiles(cert, key, reloads=reload)
            return self
        if cert.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("this SSLContext is for clients: create one with ssl.Purpose.CLIENT_AUTH")
        if reload:
            raise ValueError("only files can be reloaded: pass their paths to with_cert instead of an SSLContext")
        self._certificate = GivenContext(cert)
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
        check_shutdown(event, drain, self._timeouts)
        self._shutdown, self._drain = event, drain
        return self

    def with_monitor(self, config: MonitorConfig) -> Self:
        """Send events of the server, such as closed connections and error responses, into a channel.

        The server never waits for the channel. Events for which it has no room are dropped, and counted. If it is
        closed, a WARNING is logged and no more events are sent. The app does not close it.

        Args:
            config: the channel, and which events are sent. It replaces that of a previous call. Servers that are
                running keep theirs.

        Returns:
            This object, so that calls can be chained.

        Raises:
            ValueError: the config has no subscription. Call its ``with_subscription_to``.
            TypeError: the argument is not a ``MonitorConfig``.
        """
        self._monitor = Monitor(config)
        return self

    async def handle(self, request: Request) -> Response:
        """Call the application without a connection. For tests, and for requests from other sources.

        The limits, the timeouts and the automatic header fields belong to connections, and do not apply.

        Args:
            request: the request. Its Host field selects the SubApp of ``with_host``. The handler gets a copy with
                the ``path_params`` of its route, and its content as a stream if the route has ``stream=True``.

        Returns:
            The response of the handler, or of the error handler: a 404 without a route, a 405 without one for the
            method, a 500 if the handler raised an exception, which is logged. A request to open a WebSocket is
            treated as an ordinary one. ``humphrey_trio.http.read_body`` reads the body of a streamed response.
        """
        service = self._service
        host = request.headers.get("Host", "").lower()
        match = service.find(host, request.method, request.path, wants_websocket=False)
        if isinstance(match, NotServed):
            return await service.reject(request, match)
        request = request.replace(path_params=match.params)
        if match.stream:
            with suppress(RuntimeError):  # it has a stream already
                request = request.replace(content=StoredBody(request.content))
        answer = service.respond(request, match)
        return answer if isinstance(answer, Response) else await service.settle(request, answer)

    async def run(
        self,
        *addresses: str,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on addresses, and serve connections until cancelled or until a ``with_shutdown`` has completed.

        Args:
            addresses: ``127.0.0.1:80``, ``[::1]:80``, ``localhost:80`` or ``unix:/path``. Port 0 selects a free
                port. A host name means all its addresses that belong to this machine. The others are logged at
                level WARNING.
            task_status: for ``nursery.start``, which returns a tuple with the ``Address`` of each listener.

        Raises:
            ValueError: there is no address, or one is malformed.
            OSError: an address cannot be listened on. Then the server does not listen on any of them.
        """
        await self._run(addresses, None, task_status)

    async def run_tls(
        self,
        *addresses: str,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on addresses and serve connections over TLS, with the certificate of ``with_cert``.

        May run at the same time as ``run``, on other addresses.

        Args:
            addresses: as for ``run``.
            task_status: as for ``run``.

        Raises:
            RuntimeError: ``with_cert`` was not called.
            ValueError, OSError: as for ``run``.
        """
        if self._certificate is None:
            raise RuntimeError("run_tls needs a certificate: call with_cert(cert, key) first")
        await self._run(addresses, self._certificate, task_status)

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
        """
        transport: Transport
        if isinstance(stream, DirectStream):
            transport = DirectTransport(stream, peer)
        else:
            transport = StreamTransport(stream, peer)
        if self._running:
            await self._running[0].serve(transport)
            return
        async with trio.open_nursery() as nursery:
            server = self._server()
            try:
                await nursery.start(server.run)
            except BaseException:
                await transport.close()
                raise
            await server.serve(transport)
            nursery.cancel_scope.cancel()

    async def _run(
        self,
        addresses: tuple[str, ...],
        certificate: Certificate | None,
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        listeners = await open_listeners(addresses)
        server = self._server(certificate)
        self._running.append(server)
        try:
            await server.run(listeners, task_status=task_status)
        finally:
            self._running.remove(server)

    def _server(self, certificate: Certificate | None = None) -> HttpServer:
        settings = ServerSettings(
            service=self._service,
            limits=self._limits,
            timeouts=self._timeouts,
            drain=self._drain,
            parse_head=_PARSERS[self._parser],
            writer=self._writer,
            fairness=Fairness(),
            clock=SweepClock(),
            departures=Departures(),
            when_left=self._when_left,
            observers=Observers(self._counters, AccessLog(), self._monitor),
        )
        return HttpServer(
            settings, max_connections=self._max_connections, certificate=certificate, shutdown=self._shutdown
        )
