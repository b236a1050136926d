"""A server: its accept loops, a task for each connection, and one sweep of their deadlines.

It accepts and closes connections, and speaks no protocol itself. Its tasks are protected from
KeyboardInterrupt: Ctrl-C is raised in handlers, or in the main task, and never tears what is half done here.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import trio

from .._http._address import UNIX_PREFIX, Address
from .._http._drain import FAREWELL_SECONDS, Drain, check_drain, hard_stop_after
from .._http._response import Response
from .._http._statistics import HttpStatistics
from .._quoting import printable
from ._connection import LATE_SECONDS, HttpConnection, ServerSettings
from ._lingering import Lingering
from ._listen import BACKLOG
from ._pacing import Leash
from ._tls import PlainHttpError, TlsTransport
from ._transport import SocketTransport, Transport

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from .._http._limits import Timeouts
    from ._certificate import Certificate
    from ._listen import Listener

logger = logging.getLogger("humphrey_trio.http")

# Handshakes of TLS that compute in one pass of the scheduler; each takes 100 microseconds, with RSA a millisecond.
_HANDSHAKES_AT_ONCE = 16
# Newcomers that are taken at once: one per scheduler pass would let them starve beside busy connections.
_ACCEPT_BURST = 64
# With as many at the end everybody in the backlog is taken, and a flood of newcomers does not put it off.
_LAST_BURSTS = BACKLOG // _ACCEPT_BURST
# What accept says when the process or the system has no room for one more connection; it passes.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE = 0.1
_NO_ROOM_LOG_INTERVAL = 1.0

# Seconds between two looks at the files of a certificate.
_RELOAD_INTERVAL = 1.0

_PLAIN_HTTP = Response(400, "This port speaks HTTPS only: use https:// in place of http://.\n")
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
        max_connections: how many may be open at once, upgraded and lingering ones included; None for no bound.
            While there are as many, the oldest lingering one is closed for a new one; if none lingers, the
            server does not accept, and new connections wait in the kernel's backlog.
        certificate: for TLS on connections from listeners; None for plain ones.
        shutdown: set, it ends the server gracefully; None for never.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        max_connections: int | None = None,
        certificate: Certificate | None = None,
        shutdown: trio.Event | None = None,
    ) -> None:
        self._settings = settings
        self._max_connections = max_connections
        self._certificate = certificate
        self._shutdown = shutdown
        self._draining = False
        self._leashes: set[Leash] = set()  # one for each connection that holds a slot
        self._guests: set[trio.CancelScope] = set()  # of the connections whose tasks are not in our nursery
        self._slot_freed = trio.Event()
        self._emptied = trio.Event()
        self._pauses = _PauseLog()
        self._handshakes = trio.Semaphore(_HANDSHAKES_AT_ONCE)
        self._lingering = Lingering(settings.timeouts, settings.clock, max_connections, self._slot_freed_now)

    def statistics(self) -> HttpStatistics:
        """The connections at this moment."""
        return HttpStatistics(
            connections=len(self._leashes), lingering=len(self._lingering), lingering_cut=self._lingering.cuts
        )

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
                if self._certificate is not None and self._certificate.reloads:
                    connections.start_soon(self._reload, self._certificate)
                if self._shutdown is not None:
                    connections.start_soon(self._end_gracefully, self._shutdown, listeners, connections)
                for listener in listeners:
                    connections.start_soon(self._accept, listener, connections)
                task_status.started(tuple(listener.address for listener in listeners))
        finally:
            for guest in tuple(self._guests):
                guest.cancel()
            for listener in listeners:
                listener.close()

    @trio.lowlevel.enable_ki_protection
    async def serve(self, transport: Transport) -> None:
        """One connection, from beginning to end, in the calling task; the transport is closed whatever happens.

        The connection belongs to ``run``, which has to be under way: it holds a slot, takes part in a graceful
        end, and is cancelled with the server.
        """
        with trio.CancelScope() as guest:
            self._guests.add(guest)
            try:
                await self._serve_guest(transport)
            finally:
                self._guests.discard(guest)

    async def _serve_guest(self, transport: Transport) -> None:
        try:
            await self._wait_for_slot()
        except BaseException:
            await transport.close()
            raise
        self._make_room()
        await self._serve(transport, self._new_leash())

    def _make_room(self) -> None:
        """If no slot is free, free that of the oldest lingering connection."""
        if self._is_full():
            self._cut_lingering()

    def _cut_lingering(self) -> bool:
        """Close the oldest lingering connection; whether there was one."""
        cut = self._lingering.cut_oldest()
        if cut is not None:
            self._leave(cut)
        return cut is not None

    def _new_leash(self) -> Leash:
        leash = Leash(self._draining)
        self._leashes.add(leash)
        return leash

    async def _serve(self, transport: Transport, leash: Leash) -> None:
        settings = self._settings
        try:
            connection = HttpConnection(transport, settings, leash, self._lingering)
            takeover = await connection.serve()
            while takeover is not None:
                del connection  # most WebSockets are idle, and many: nothing of HTTP is kept for them
                refusal = await settings.service.upgrade(takeover)
                if refusal is None:
                    return  # the other protocol has ended the connection
                connection = HttpConnection(transport, settings, leash, self._lingering)
                takeover = await connection.go_on(takeover, refusal)
            await self._lingering.linger(transport, leash, idle=connection.idle)
        except Exception:
            # Nothing that one connection does may end the others; what arrives here is a defect of ours.
            logger.exception("connection from %s failed", transport.peer)
        finally:
            leash.let_go()
            self._leave(leash)
            await transport.close()

    def _leave(self, leash: Leash) -> None:
        """Free the slot of a connection; does nothing the second time."""
        self._leashes.discard(leash)
        self._slot_freed_now()
        if not self._leashes:
            self._emptied.set()

    def _slot_freed_now(self) -> None:
        self._slot_freed.set()

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
        while self._leashes:
            self._emptied = trio.Event()
            await self._emptied.wait()
        connections.cancel_scope.cancel()

    # Accepting...

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        while True:
            await self._wait_for_slot()
            await self._wait_for_handshakes()
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
                    self._pauses.count(exc)
                    if self._cut_lingering():
                        continue  # its descriptor is free
                    await trio.sleep(_NO_ROOM_PAUSE)
                elif exc.errno not in _NEWCOMER_FAILED:
                    raise

    def _accept_burst(self, listener: Listener, connections: trio.Nursery) -> None:
        for _ in range(_ACCEPT_BURST):
            if self._is_full() and not self._lingering:
                return
            sock, name = listener.socket.accept()
            self._make_room()
            peer = Address(name[0], name[1]) if isinstance(name, tuple) else Address(UNIX_PREFIX)
            connections.start_soon(self._serve_socket, sock, peer, self._new_leash())

    @trio.lowlevel.enable_ki_protection
    async def _serve_socket(self, sock: socket.socket, peer: Address, leash: Leash) -> None:
        if self._certificate is None:
            await self._serve(SocketTransport(sock, peer), leash)
            return
        transport = TlsTransport(sock, peer, self._certificate.context)
        if await self._shake_hands(transport, leash):
            await self._serve(transport, leash)

    async def _shake_hands(self, transport: TlsTransport, leash: Leash) -> bool:
        """Whether TLS was established; if not, the connection has ended."""
        self._limit_handshake(transport, leash)
        try:
            await transport.handshake(self._handshakes)
            return True
        except PlainHttpError as exc:
            logger.info("plain HTTP from %s on a port for TLS: %s", transport.peer, printable(str(exc)))
            await self._refuse_plain_http(transport.without_tls(), leash)
        except trio.ClosedResourceError:
            logger.debug("the TLS handshake with %s took too long", transport.peer)
            await self._end(transport, leash)
        except trio.BrokenResourceError as exc:
            logger.debug("the TLS handshake with %s failed: %s", transport.peer, printable(str(exc)))
            await self._end(transport, leash)
        except BaseException:
            leash.let_go()
            self._leave(leash)
            await transport.close()
            raise
        return False

    async def _refuse_plain_http(self, transport: Transport, leash: Leash) -> None:
        with suppress(trio.BrokenResourceError):
            transport.send_now(self._settings.writer.encode(_PLAIN_HTTP, head_only=False, close=True))
        await self._end(transport, leash)

    def _limit_handshake(self, transport: TlsTransport, leash: Leash) -> None:
        clock, seconds = self._settings.clock, self._settings.timeouts.handshake

        def hurry() -> None:
            leash.at = min(leash.at, clock.now() + LATE_SECONDS)

        leash.expire, leash.drain = transport.interrupt, hurry
        leash.at = clock.now() + seconds
        if leash.draining:
            hurry()

    async def _end(self, transport: Transport, leash: Leash) -> None:
        """End a connection that was never established, so that the peer can read our alert or our answer."""
        try:
            await self._lingering.linger(transport, leash, idle=True)
        finally:
            leash.let_go()
            self._leave(leash)
            await transport.close()

    @trio.lowlevel.enable_ki_protection
    async def _reload(self, certificate: Certificate) -> None:
        """Look at the files of the certificate now and then, in a thread that a slow disk may hold up."""
        while True:
            await trio.sleep(_RELOAD_INTERVAL)
            await trio.to_thread.run_sync(certificate.reload_if_changed, abandon_on_cancel=True)

    def _is_full(self) -> bool:
        return self._max_connections is not None and len(self._leashes) >= self._max_connections

    async def _wait_for_slot(self) -> None:
        while self._is_full() and not self._lingering:
            # One event for all listeners that wait, or only the last of them would be woken.
            if self._slot_freed.is_set():
                self._slot_freed = trio.Event()
            await self._slot_freed.wait()

    async def _wait_for_handshakes(self) -> None:
        """Wait behind the handshakes that wait to compute: a connection in the backlog costs no memory."""
        if not self._handshakes.value:
            async with self._handshakes:
                pass

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        while True:
            now = await self._settings.clock.wait_for_sweep()
            for leash in tuple(self._leashes):
                if leash.at <= now:
                    leash.expire()


class _PauseLog:
    """Warns that accepting pauses, at most once a second, with the number of pauses since the last warning."""

    __slots__ = ("_count", "_next")

    def __init__(self) -> None:
        self._count = 0
        self._next = -inf

    def count(self, exc: OSError) -> None:
        self._count += 1
        now = trio.current_time()
        if now >= self._next:
            logger.warning("accepting pauses: %s (pauses since the last warning: %d)", exc.strerror, self._count)
            self._count, self._next = 0, now + _NO_ROOM_LOG_INTERVAL
