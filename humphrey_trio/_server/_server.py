"""The server: an accept loop for each listener, a task for each connection, and a sweep of all deadlines.

It serves connections and closes them. Accepting, the slots and the protocols are in other modules. Its tasks are
protected from KeyboardInterrupt, which is only raised in handlers or in the main task. Otherwise it could leave
the state of the server inconsistent.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._http._drain import CLEANUP_SECONDS, Drain, check_drain, hard_stop_after
from .._http._events import EventType
from ._accept import Acceptor
from ._connection_condition import Condition
from ._http_connection import HttpConnection
from ._interface import ServerSettings
from ._listening import log_listening, of_addresses
from ._recording import new_recording
from ._server_tls import ServerTls
from ._slots import Slots
from ._socket import SocketTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from .._http._address import Address
    from .._http._limits import Timeouts
    from ._certificate import Certificate
    from ._control import ConnectionControl
    from ._lingering import Lingering
    from ._listener import Listener
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

# Otherwise trio would format the name of the function for each task, which takes time and 100 bytes.
_TASK_NAME = "humphrey_trio: connection"


def check_shutdown(event: trio.Event, drain: Drain, timeouts: Timeouts) -> None:
    """Check the arguments of ``with_shutdown``.

    Raises:
        TypeError: the event is not a ``trio.Event``, or the drain is not a ``Drain``.
        ValueError: the spread of the drain is too long for ``Timeouts.drain``.
    """
    if not isinstance(event, trio.Event):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"with_shutdown takes a trio.Event, not {type(event).__name__}")
    if not isinstance(drain, Drain):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"with_shutdown takes a Drain, not {type(drain).__name__}")
    check_drain(drain, timeouts)


class HttpServer:
    """The connections of one server, from its listeners and from ``serve``.

    Args:
        settings: the objects that the connections share.
        max_connections: the maximum number of open connections, including WebSockets and lingering connections;
            None for no limit. At the limit, the oldest lingering connection is closed for each new one. If none
            lingers, the server does not accept, and new connections wait in the backlog of the kernel.
        certificate: the certificate for TLS on connections from listeners; None for no TLS.
        shutdown: begins a graceful shutdown when it is set; None for never.
        condition: returns whether a peer may connect; None if every peer may.
        reminder: an async function that runs beside the accept loops; None for none.

    Attributes:
        settings: as the argument.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        max_connections: int | None = None,
        certificate: Certificate | None = None,
        shutdown: trio.Event | None = None,
        condition: Callable[[Address], bool] | None = None,
        reminder: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self._tls = None if certificate is None else ServerTls(certificate, settings)
        self._shutdown = shutdown
        self._reminder = reminder
        self._condition = Condition(condition, settings.observers)
        self._slots = Slots(settings, max_connections)
        self._external_scopes: set[trio.CancelScope] = set()  # of connections whose tasks are in other nurseries

    @property
    def connections(self) -> int:
        """The number of open connections, as in ``HttpStatistics``."""
        return len(self._slots)

    @property
    def lingering(self) -> Lingering:
        """The lingering connections."""
        return self._slots.lingering

    async def run(
        self,
        listeners: Sequence[Listener] = (),
        *,
        scheme: str = "http",
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve connections until cancelled, or until a graceful shutdown has ended.

        Args:
            listeners: are closed at the end. Without any, the server has only the connections of ``serve``.
            scheme: of the URLs in the log, without TLS: ``ws`` if the server has only WebSockets.
            task_status: for ``nursery.start``, which returns the addresses of the listeners.
        """
        addresses, tls = tuple(listener.address for listener in listeners), self._tls is not None
        named = of_addresses(addresses, tls=tls, scheme=scheme)
        try:
            async with trio.open_nursery() as connections:

                def start(sock: socket.socket, peer: Address, control: ConnectionControl) -> None:
                    connections.start_soon(self._serve_socket, sock, peer, control, name=_TASK_NAME)

                acceptor = Acceptor(self._slots, self._tls, self._condition, self.settings.observers, start)
                connections.start_soon(self._sweep)
                if self._tls is not None and self._tls.reloads:
                    connections.start_soon(self._tls.reload)
                if self._shutdown is not None:
                    connections.start_soon(
                        self._end_gracefully, self._shutdown, listeners, named, acceptor, connections
                    )
                if self._reminder is not None:
                    connections.start_soon(self._reminder)
                for listener in listeners:
                    connections.start_soon(acceptor.run, listener)
                log_listening(addresses, tls=tls, scheme=scheme)
                task_status.started(addresses)
        finally:
            self._cancel_external()
            for listener in listeners:
                listener.close()

    @trio.lowlevel.enable_ki_protection
    async def serve(self, transport: Transport) -> None:
        """Serve a connection in the calling task. The transport is closed in any case.

        ``run`` must be running. The connection uses a slot, takes part in a graceful shutdown, and is cancelled
        when ``run`` ends.
        """
        with trio.CancelScope() as scope:
            self._external_scopes.add(scope)
            try:
                await self._serve_external(transport)
            finally:
                self._external_scopes.discard(scope)

    async def _serve_external(self, transport: Transport) -> None:
        admitted = False
        try:
            await self._slots.wait_for_room()
            # The slot may have been freed by the last connection of a graceful shutdown.
            await trio.lowlevel.checkpoint_if_cancelled()
            admitted = self._condition.admits(transport.peer)
        finally:
            if not admitted:
                await transport.close()
        if not admitted:
            return
        await self._serve(transport, self._slots.take(transport.peer))

    async def _serve(self, transport: Transport, control: ConnectionControl) -> None:
        settings = self.settings
        recording = new_recording(settings.observers, transport)
        try:
            connection = HttpConnection(transport, settings, control, self._slots.lingering, recording)
            handover = await connection.serve()
            while handover is not None:
                del connection  # free its memory: there may be many WebSockets, most of them idle
                try:
                    refusal = await settings.service.upgrade(handover)
                finally:
                    handover.end_request()
                if refusal is None:
                    return  # the upgrade was accepted, and the WebSocket is closed
                connection = HttpConnection(transport, settings, control, self._slots.lingering, recording)
                handover = await connection.resume(handover, refusal)
            await self._slots.lingering.linger(transport, control, idle=connection.idle)
        except trio.Cancelled:
            # Cannot linger. Discard the input that has arrived, or the close would reset the connection.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await transport.send_last(b"")
            raise
        except Exception:
            # A bug in this library. It must not end the other connections.
            logger.exception("connection from %s failed", transport.peer)
        finally:
            await self._close(transport, control)

    # Ending...

    @trio.lowlevel.enable_ki_protection
    async def _end_gracefully(
        self,
        shutdown: trio.Event,
        listeners: Sequence[Listener],
        named: str,
        acceptor: Acceptor,
        connections: trio.Nursery,
    ) -> None:
        """Wait for the event, stop accepting, and end with the last connection or after ``Timeouts.drain``.

        ``named`` is in the log lines, as of ``of_addresses``: a program may have several servers.
        """
        await shutdown.wait()
        begun = trio.current_time()
        with trio.move_on_at(begun + hard_stop_after(self.settings.timeouts, CLEANUP_SECONDS)):
            self._slots.begin_drain()
            for listener in listeners:
                acceptor.accept_backlog(listener)
                listener.close()
            logger.info("a graceful shutdown%s begins: open connections: %d", named, self.connections)
            self._slots.drain_all()
            await self._slots.wait_until_empty()
        seconds, left = trio.current_time() - begun, self.connections
        if left:
            logger.warning(
                "connections%s that are cancelled %.1f s after the shutdown began: %d", named, seconds, left
            )
        else:
            logger.info("the graceful shutdown%s has ended after %.1f s", named, seconds)
        self._cancel_external()
        connections.cancel_scope.cancel()

    def _cancel_external(self) -> None:
        """Cancel the connections whose tasks belong to other nurseries, which do not end with ``run``."""
        for scope in tuple(self._external_scopes):
            scope.cancel()

    # Connections of listeners...

    @trio.lowlevel.enable_ki_protection
    async def _serve_socket(self, sock: socket.socket, peer: Address, control: ConnectionControl) -> None:
        if self._tls is None:
            await self._serve(SocketTransport(sock, peer), control)
            return
        transport = self._tls.new_transport(sock, peer)
        try:
            refused = await self._tls.handshake(transport, control)
        except BaseException:
            await self._close(transport, control)
            raise
        if refused is None:
            await self._serve(transport, control)
        else:
            await self._end(refused, control)

    async def _end(self, transport: Transport, control: ConnectionControl) -> None:
        """Linger and close a connection without TLS, so that the peer receives the alert or the response."""
        try:
            await self._slots.lingering.linger(transport, control, idle=True)
        finally:
            await self._close(transport, control)

    async def _close(self, transport: Transport, control: ConnectionControl) -> None:
        """Free the slot of a connection, and close it."""
        # The slot first: over a trio stream the close may take half a second.
        control.detach()
        self._slots.free(control)
        self.settings.observers.report(EventType.CONNECTION_CLOSED, transport.peer)
        await transport.close()

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        while True:
            now = await self.settings.clock.wait_for_sweep()
            # Before the deadlines, so that a handler is watched for at least one interval before it is cancelled.
            self.settings.departures.check()
            self._slots.expire(now)
