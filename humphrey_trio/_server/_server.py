"""A server: its accept loops, a task for each connection, and one sweep of their deadlines.

It accepts and closes connections, and speaks no protocol itself. Its tasks are protected from
KeyboardInterrupt: Ctrl-C is raised in handlers, or in the main task, and never tears what is half done here.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._http._address import UNIX_PREFIX, Address
from .._http._drain import FAREWELL_SECONDS, Drain, check_drain, hard_stop_after
from .._quoting import printable
from ._connection import LATE_SECONDS, HttpConnection, ServerSettings
from ._listen import BACKLOG
from ._pacing import SWEEP_INTERVAL, Leash
from ._transport import SocketTransport, StreamTransport, Transport

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Sequence

    from .._http._limits import Timeouts
    from ._listen import Listener

logger = logging.getLogger("humphrey_trio.http")

# Newcomers that are taken at once: one per scheduler pass would let them starve beside busy connections.
_ACCEPT_BURST = 64
# With as many at the end everybody in the backlog is taken, and a flood of newcomers does not put it off.
_LAST_BURSTS = BACKLOG // _ACCEPT_BURST
# What accept says when the process or the system has no room for one more connection; it goes by.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE = 0.1
# accept(2): these are about the connection that would have come, not about the listener.
_NEWCOMER_FAILED = {
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
    """Refuse what no graceful end can be made of.

    Raises:
        TypeError: the event is none of trio's, or the drain is none.
        ValueError: the drain takes too long.
    """
    if not isinstance(event, trio.Event):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"with_shutdown waits for a trio.Event, not for {type(event).__name__}")
    if not isinstance(drain, Drain):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"with_shutdown takes a Drain, not {type(drain).__name__}")
    check_drain(drain, timeouts)


class HttpServer:
    """The connections of one server, whatever they come from.

    Args:
        settings: what the connections share.
        max_connections: how many may be open at once, upgraded ones included; None for no bound. While there
            are as many, nobody is accepted and the kernel's backlog waits.
        tls: the context for connections that come from listeners; None for plain ones.
        shutdown: set, it ends the server gracefully; None for never.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        max_connections: int | None = None,
        tls: ssl.SSLContext | None = None,
        shutdown: trio.Event | None = None,
    ) -> None:
        self._settings = settings
        self._max_connections = max_connections
        self._tls = tls
        self._shutdown = shutdown
        self._draining = False
        self._leashes: set[Leash] = set()
        self._handshakes: set[trio.CancelScope] = set()  # of TLS, that are under way
        self._open = 0
        self._slot_freed = trio.Event()
        self._emptied = trio.Event()

    async def run(
        self,
        listeners: Sequence[Listener] = (),
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled, or until a graceful end; the listeners are closed at the end.

        Without listeners it only sweeps, for connections that come by ``serve``.
        """
        try:
            async with trio.open_nursery() as connections:
                connections.start_soon(self._sweep)
                if self._shutdown is not None:
                    connections.start_soon(self._end_gracefully, self._shutdown, listeners, connections)
                for listener in listeners:
                    connections.start_soon(self._accept, listener, connections)
                task_status.started(tuple(listener.address for listener in listeners))
        finally:
            for listener in listeners:
                listener.close()

    @trio.lowlevel.enable_ki_protection
    async def serve(self, transport: Transport) -> None:
        """One connection, from beginning to end; the transport is closed whatever happens."""
        settings = self._settings
        leash = Leash(self._draining)
        self._leashes.add(leash)
        try:
            # While the connection is lent nothing of HTTP is kept; most WebSockets are idle, and many.
            takeover = await HttpConnection(transport, settings, leash).serve()
            while takeover is not None:
                refusal = await settings.service.upgrade(takeover)
                if refusal is None:
                    break
                takeover = await HttpConnection(transport, settings, leash).go_on(takeover, refusal)
        except Exception:
            # Nothing that one connection does may end the others; what arrives here is a defect of ours.
            logger.exception("connection from %s failed", transport.peer)
        finally:
            self._leashes.discard(leash)
            leash.let_go()
            self._tell_emptied()
            await transport.close()

    # Ending...

    @trio.lowlevel.enable_ki_protection
    async def _end_gracefully(
        self, shutdown: trio.Event, listeners: Sequence[Listener], connections: trio.Nursery
    ) -> None:
        """When it is time, stop accepting, and end with the last connection, or with the hard deadline."""
        await shutdown.wait()
        now = trio.current_time()
        connections.cancel_scope.deadline = now + hard_stop_after(self._settings.timeouts, FAREWELL_SECONDS)
        self._draining = True
        for listener in listeners:
            with suppress(OSError):  # nobody waits any more, or nobody can be taken
                for _ in range(_LAST_BURSTS):
                    self._accept_burst(listener, connections)
            listener.close()
        for leash in tuple(self._leashes):
            leash.draining = True
            leash.drain()
        for handshake in self._handshakes:
            handshake.deadline = min(handshake.deadline, now + LATE_SECONDS)
        while self._leashes or self._open:
            self._emptied = trio.Event()
            await self._emptied.wait()
        connections.cancel_scope.cancel()

    def _tell_emptied(self) -> None:
        if not self._leashes and not self._open:
            self._emptied.set()

    # Accepting...

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        while True:
            await self._wait_for_slot()
            if self._draining:
                return
            try:
                await trio.lowlevel.wait_readable(listener.socket)
                # Somebody may come in the very moment of the end, which has taken them, and closed the listener.
                if not self._draining:
                    self._accept_burst(listener, connections)
            except BlockingIOError:
                pass
            except trio.ClosedResourceError:
                if not self._draining:
                    raise
            except OSError as exc:
                if exc.errno in _NO_ROOM:
                    logger.warning("accepting pauses: %s", exc.strerror)
                    await trio.sleep(_NO_ROOM_PAUSE)
                elif exc.errno not in _NEWCOMER_FAILED:
                    raise

    def _accept_burst(self, listener: Listener, connections: trio.Nursery) -> None:
        for _ in range(_ACCEPT_BURST):
            if self._is_full():
                return
            sock, name = listener.socket.accept()
            self._open += 1
            peer = Address(name[0], name[1]) if isinstance(name, tuple) else Address(UNIX_PREFIX)
            connections.start_soon(self._serve_socket, sock, peer)

    @trio.lowlevel.enable_ki_protection
    async def _serve_socket(self, sock: socket.socket, peer: Address) -> None:
        try:
            if self._tls is None:
                await self.serve(SocketTransport(sock, peer))
            else:
                await self._serve_tls(sock, peer, self._tls)
        finally:
            self._open -= 1
            self._slot_freed.set()
            self._tell_emptied()

    async def _serve_tls(self, sock: socket.socket, peer: Address, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        stream = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
            context,
            server_side=True,
            https_compatible=True,
        )
        try:
            seconds = self._settings.timeouts.handshake
            with trio.fail_after(min(seconds, LATE_SECONDS) if self._draining else seconds) as scope:
                self._handshakes.add(scope)
                try:
                    await stream.do_handshake()
                finally:
                    self._handshakes.discard(scope)
        except (trio.BrokenResourceError, trio.TooSlowError) as exc:
            logger.debug("TLS handshake with %s failed: %s", peer, printable(str(exc.__cause__ or exc)))
            await trio.aclose_forcefully(stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        else:
            await self.serve(StreamTransport(stream, peer))

    def _is_full(self) -> bool:
        return self._max_connections is not None and self._open >= self._max_connections

    async def _wait_for_slot(self) -> None:
        while self._is_full():
            # One event for all listeners that wait, or only the last of them would be woken.
            if self._slot_freed.is_set():
                self._slot_freed = trio.Event()
            await self._slot_freed.wait()

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            now = trio.current_time()
            for leash in tuple(self._leashes):
                if leash.at <= now:
                    leash.expire()
