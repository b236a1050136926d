"""The servers of an HTTP app: what they are made of, those that run, and the apps that run beside them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from .._http._address import Address
from .._http._drain import Drain
from .._server._clock import SweepClock
from .._server._departures import Departures
from .._server._fairness import Fairness
from .._server._interface import ServerSettings
from .._server._open_listeners import open_listeners
from .._server._server import HttpServer
from .._trio_runs import check_trio
from ._hosting import Hosting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._http._limits import Limits, Timeouts
    from .._http._proxies import TrustedProxies
    from .._http._statistics import HttpStatistics
    from .._http._when_left import WhenLeft
    from .._server._certificate import Certificate
    from .._server._given_listener import ListenTarget
    from .._server._interface import Service
    from .._server._listener import Listener
    from .._server._observers import Observers
    from .._server._request_reader import HeadParser
    from .._server._response_writer import ResponseWriter
    from .._server._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

# Seconds from the call of run after which run_tls is not called any more. Both may be started in any order.
_TLS_EXPECTED_AFTER = 1.0


class Servers:
    """The servers of one HTTP app.

    Args:
        service: answers the requests.
        limits: the maximum sizes of a request.
        timeouts: the timeouts of connections.
        max_connections: the maximum number of open connections; None for no limit.
        parse_head: parses the heads of requests.
        writer: encodes responses.
        when_left: what happens to the handler of a client that has left.
        observers: what the connections report to.
        proxies: the proxies whose forwarding fields are believed, or None.

    Attributes:
        limits, timeouts, max_connections, proxies: as the arguments.
        shutdown: begins a graceful shutdown when it is set; None if there is none.
        hosting: the ASGI apps and the WebSocket apps that run beside each server.
        certificate: the certificate of servers with TLS; None if there is none.
        scheme: of the URLs in the log, without TLS: ``ws`` if the app has only WebSockets.

    The methods ``use_...`` apply to servers that are created afterwards.
    """

    __slots__ = (
        "_condition",
        "_drain",
        "_new_settings",
        "_observers",
        "_ran_tls",
        "_running",
        "certificate",
        "hosting",
        "limits",
        "max_connections",
        "proxies",
        "scheme",
        "shutdown",
        "timeouts",
    )

    def __init__(
        self,
        service: Service,
        *,
        limits: Limits,
        timeouts: Timeouts,
        max_connections: int | None,
        parse_head: HeadParser,
        writer: ResponseWriter,
        when_left: WhenLeft,
        observers: Observers,
        proxies: TrustedProxies | None,
    ) -> None:
        self._new_settings = partial(  # the settings that all servers share
            ServerSettings,
            service=service,
            limits=limits,
            timeouts=timeouts,
            parse_head=parse_head,
            writer=writer,
            when_left=when_left,
            observers=observers,
            proxies=proxies,
        )
        self.limits = limits
        self.max_connections = max_connections
        self._running: list[HttpServer] = []
        self._observers = observers
        self.proxies = proxies
        self.timeouts = timeouts
        self.hosting = Hosting()
        self.certificate: Certificate | None = None
        self.scheme = "http"
        self.shutdown: trio.Event | None = None
        self._drain = Drain()
        self._condition: Callable[[Address], bool] | None = None
        self._ran_tls = False  # whether a server with TLS was run

    def use_certificate(self, certificate: Certificate) -> None:
        """Set the certificate of servers with TLS."""
        self.certificate = certificate

    def use_shutdown(self, event: trio.Event, drain: Drain) -> None:
        """Set the event that begins a graceful shutdown, and how WebSockets are closed then."""
        self.shutdown, self._drain = event, drain

    def use_scheme(self, scheme: str) -> None:
        """Set the scheme of the URLs in the log, without TLS."""
        self.scheme = scheme

    def use_condition(self, condition: Callable[[Address], bool]) -> None:
        """Set the function that returns whether a peer may connect."""
        self._condition = condition

    def statistics(self) -> HttpStatistics:
        """Return the statistics, summed over all servers that run."""
        servers, monitor = self._running, self._observers.monitor
        return self._observers.counters.statistics(
            connections=sum(server.connections for server in servers),
            lingering=sum(len(server.lingering) for server in servers),
            lingering_cut=sum(server.lingering.cuts for server in servers),
            events_dropped=0 if monitor is None else monitor.dropped,
        )

    def new_server(
        self, certificate: Certificate | None = None, reminder: Callable[[], Awaitable[None]] | None = None
    ) -> HttpServer:
        """Create a server, with TLS if there is a certificate. ``reminder`` runs beside its accept loops."""
        settings = self._new_settings(
            drain=self._drain,
            fairness=Fairness(),
            clock=SweepClock(),
            departures=Departures(),
        )
        return HttpServer(
            settings,
            max_connections=self.max_connections,
            certificate=certificate,
            shutdown=self.shutdown,
            condition=self._condition,
            reminder=reminder,
        )

    async def run(
        self,
        targets: Sequence[ListenTarget],
        unix_mode: int | None,
        certificate: Certificate | None,
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        """Run a server on addresses and sockets until cancelled, or until a graceful shutdown has ended."""
        check_trio("trio.run(app.run, '127.0.0.1:8080')")
        self._ran_tls |= certificate is not None
        listeners = await open_listeners(targets, unix_mode)
        try:
            forgotten = certificate is None and self.certificate is not None
            server = self.new_server(certificate, self._check_tls if forgotten else None)
            shutdown = self.shutdown
            serve = partial(self._run, server, listeners, task_status)
            await self.hosting.run_beside(server.settings, shutdown, serve)
        finally:
            for listener in listeners:
                listener.close()

    async def _check_tls(self) -> None:
        """Log a WARNING if ``run_tls`` was not called within a second, although there is a certificate."""
        await trio.sleep(_TLS_EXPECTED_AFTER)
        if not self._ran_tls:
            logger.warning("with_cert was called, but run listens without TLS: call run_tls for HTTPS")

    async def _run(
        self, server: HttpServer, listeners: Sequence[Listener], task_status: trio.TaskStatus[tuple[Address, ...]]
    ) -> None:
        self._running.append(server)
        try:
            await server.run(listeners, scheme=self.scheme, task_status=task_status)
        finally:
            self._running.remove(server)

    async def serve(self, transport: Transport) -> None:
        """Serve one connection, on a server that runs or else on one of its own. The transport is closed."""
        check_trio("trio.run(app.serve_stream, stream)")
        if self._running:
            await self._running[0].serve(transport)
            return
        try:
            server, shutdown = self.new_server(), self.shutdown
            serve = partial(_serve_alone, server, transport)
            await self.hosting.run_beside(server.settings, shutdown, serve)
        finally:
            await transport.close()


async def _serve_alone(server: HttpServer, transport: Transport) -> None:
    """Serve one connection on a server that has no other."""
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await server.serve(transport)
        nursery.cancel_scope.cancel()
