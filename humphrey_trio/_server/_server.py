"""The server: an accept loop for each listener, a task for each connection, and a sweep of all deadlines.

It accepts connections, limits their number, and closes them. The protocols are in other modules. Its tasks are
protected from KeyboardInterrupt, which is only raised in handlers or in the main task. Otherwise it could leave
the state of the server inconsistent.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._http._address import UNIX_PREFIX, Address
from .._http._drain import CLEANUP_SECONDS, Drain, check_drain, hard_stop_after
from .._http._events import EventType
from ._condition import Condition
from ._control import ConnectionControl
from ._http_connection import HttpConnection
from ._interface import ServerSettings
from ._lingering import Lingering
from ._listening import log_listening
from ._open_listeners import BACKLOG
from ._overload import Overload
from ._recording import new_recording
from ._server_tls import ServerTls
from ._socket import SocketTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from .._http._limits import Timeouts
    from ._certificate import Certificate
    from ._open_listeners import Listener
    from ._transport import Transport

logger = logging.getLogger("humphrey_trio.http")

# The maximum number of connections that are accepted in one scheduler pass. One per pass would be too slow while
# other connections are busy.
_ACCEPT_BURST = 64
# Bursts at the begin of a graceful shutdown: enough for a full backlog, and no more, so that a flood of new
# connections does not delay the shutdown.
_FINAL_BURSTS = BACKLOG // _ACCEPT_BURST
# Temporary errors of accept: the process or the system has no resources for another connection.
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_PAUSE = 0.1

# Errors of accept that concern the new connection and not the listener (accept(2)).
_CONNECTION_ERRORS = {
    errno.EPERM,
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ETIMEDOUT,
}


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
    ) -> None:
        self.settings = settings
        self._max_connections = max_connections
        self._tls = None if certificate is None else ServerTls(certificate, settings)
        self._shutdown = shutdown
        self._condition = Condition(condition, settings.observers)
        self._draining = False
        self._controls: set[ConnectionControl] = set()  # one for each connection that uses a slot
        self._external_scopes: set[trio.CancelScope] = set()  # of connections whose tasks are in other nurseries
        self._slot_freed = trio.Event()
        self._emptied = trio.Event()
        self._overload = Overload(settings.observers)
        self._lingering = Lingering(settings.timeouts, settings.clock, max_connections, self._wake_accept_loops)

    @property
    def connections(self) -> int:
        """The number of open connections, as in ``HttpStatistics``."""
        return len(self._controls)

    @property
    def lingering(self) -> Lingering:
        """The lingering connections."""
        return self._lingering

    async def run(
        self,
        listeners: Sequence[Listener] = (),
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve connections until cancelled, or until a graceful shutdown has ended.

        Args:
            listeners: are closed at the end. Without any, the server has only the connections of ``serve``.
            task_status: for ``nursery.start``, which returns the addresses of the listeners.
        """
        try:
            async with trio.open_nursery() as connections:
                connections.start_soon(self._sweep)
                if self._tls is not None and self._tls.reloads:
                    connections.start_soon(self._tls.reload)
                if self._shutdown is not None:
                    connections.start_soon(self._end_gracefully, self._shutdown, listeners, connections)
                for listener in listeners:
                    connections.start_soon(self._accept, listener, connections)
                addresses = tuple(listener.address for listener in listeners)
                log_listening(addresses, tls=self._tls is not None)
                task_status.started(addresses)
        finally:
            # Their tasks belong to other nurseries, which do not end with this one.
            for scope in tuple(self._external_scopes):
                scope.cancel()
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
            await self._wait_for_slot()
            admitted = self._condition.admits(transport.peer)
        finally:
            if not admitted:
                await transport.close()
        if not admitted:
            return
        self._make_room()
        await self._serve(transport, self._new_control(transport.peer))

    def _make_room(self) -> None:
        """If no slot is free, close the oldest lingering connection."""
        if self._is_full():
            self._cut_lingering()

    def _cut_lingering(self) -> bool:
        """Close the oldest lingering connection. Returns whether there was one."""
        cut = self._lingering.cut_oldest()
        if cut is not None:
            self._free_slot(cut)
        return cut is not None

    def _new_control(self, peer: Address) -> ConnectionControl:
        """Count a new connection, which uses a slot from now on."""
        control = ConnectionControl(self._draining)
        self._controls.add(control)
        observers = self.settings.observers
        observers.counters.count_accepted()
        observers.report(EventType.CONNECTION_SUCCESS, peer)
        return control

    async def _serve(self, transport: Transport, control: ConnectionControl) -> None:
        settings = self.settings
        recording = new_recording(settings.observers, transport)
        try:
            connection = HttpConnection(transport, settings, control, self._lingering, recording)
            handover = await connection.serve()
            while handover is not None:
                del connection  # free its memory: there may be many WebSockets, most of them idle
                try:
                    refusal = await settings.service.upgrade(handover)
                finally:
                    handover.end_request()
                if refusal is None:
                    return  # the upgrade was accepted, and the WebSocket is closed
                connection = HttpConnection(transport, settings, control, self._lingering, recording)
                handover = await connection.resume(handover, refusal)
            await self._lingering.linger(transport, control, idle=connection.idle)
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

    def _free_slot(self, control: ConnectionControl) -> None:
        """Free the slot of a connection. Does nothing if it is free already."""
        self._controls.discard(control)
        self._wake_accept_loops()
        if not self._controls:
            self._emptied.set()

    def _wake_accept_loops(self) -> None:
        self._slot_freed.set()

    # Ending...

    @trio.lowlevel.enable_ki_protection
    async def _end_gracefully(
        self, shutdown: trio.Event, listeners: Sequence[Listener], connections: trio.Nursery
    ) -> None:
        """Wait for the event, stop accepting, and end with the last connection or after ``Timeouts.drain``."""
        await shutdown.wait()
        now = trio.current_time()
        connections.cancel_scope.deadline = now + hard_stop_after(self.settings.timeouts, CLEANUP_SECONDS)
        self._draining = True
        # For the clients in the backlog the connection is open already, and they may have sent a request. To close
        # the listener now would reset them.
        for listener in listeners:
            with suppress(OSError):  # the backlog is empty, or accept fails
                for _ in range(_FINAL_BURSTS):
                    self._accept_burst(listener, connections)
            listener.close()
        for control in tuple(self._controls):
            control.begin_drain()
        while self._controls:
            self._emptied = trio.Event()
            await self._emptied.wait()
        connections.cancel_scope.cancel()

    # Accepting...

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        while True:
            await self._wait_for_slot()
            if self._tls is not None:
                await self._tls.wait_for_turn()
            if self._draining:
                return
            try:
                await trio.lowlevel.wait_readable(listener.socket)
                # The shutdown may have begun since the listener became readable, and closed it.
                if not self._draining:
                    self._accept_burst(listener, connections)
            except BlockingIOError:
                pass
            except trio.ClosedResourceError:
                if not self._draining:
                    raise
            except OSError as exc:
                await self._recover(exc)

    async def _recover(self, exc: OSError) -> None:
        """Continue after an error of accept that leaves the listener usable. Raises any other error."""
        if exc.errno in _OUT_OF_RESOURCES:
            self._overload.note_shortage(exc)
            # A connection that lingers holds a file descriptor, which can be reused at once.
            if not self._cut_lingering():
                await trio.sleep(_ACCEPT_PAUSE)
        elif exc.errno in _CONNECTION_ERRORS:
            self.settings.observers.report(EventType.CONNECTION_ERROR, None, str(exc.strerror))
        else:
            raise exc

    def _accept_burst(self, listener: Listener, connections: trio.Nursery) -> None:
        for _ in range(_ACCEPT_BURST):
            if self._is_full() and not self._lingering:
                return
            sock, name = listener.socket.accept()
            peer = Address(name[0], name[1]) if isinstance(name, tuple) else Address(UNIX_PREFIX)
            if self._admits(sock, peer):
                self._make_room()
                connections.start_soon(self._serve_socket, sock, peer, self._new_control(peer))

    def _admits(self, sock: socket.socket, peer: Address) -> bool:
        """Return whether a peer may connect. Closes the socket if it may not."""
        admitted = False
        try:
            admitted = self._condition.admits(peer)
        finally:
            if not admitted:
                sock.close()
        return admitted

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
            await self._lingering.linger(transport, control, idle=True)
        finally:
            await self._close(transport, control)

    async def _close(self, transport: Transport, control: ConnectionControl) -> None:
        """Free the slot of a connection, and close it."""
        # The slot first: over a trio stream the close may take half a second.
        control.detach()
        self._free_slot(control)
        self.settings.observers.report(EventType.CONNECTION_CLOSED, transport.peer)
        await transport.close()

    # Slots and deadlines...

    def _is_full(self) -> bool:
        return self._max_connections is not None and len(self._controls) >= self._max_connections

    async def _wait_for_slot(self) -> None:
        while self._is_full() and not self._lingering:
            self._overload.note_full(len(self._controls))
            # All accept loops wait for the same event. A new one for each would wake only the last of them.
            if self._slot_freed.is_set():
                self._slot_freed = trio.Event()
            await self._slot_freed.wait()

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        while True:
            now = await self.settings.clock.wait_for_sweep()
            # Before the deadlines, so that a handler is watched for at least one interval before it is cancelled.
            self.settings.departures.check()
            for control in tuple(self._controls):  # a copy, because ``expire`` may free slots
                if control.at <= now:
                    control.expire()
