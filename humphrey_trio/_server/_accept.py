"""Accepting connections: the accept loop of a listener, and the end of its backlog in a graceful shutdown.

It asks for a slot, and asks the connection condition. It starts no task itself, and serves no connection.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from .._http._address import UNIX_PREFIX, Address
from .._http._events import EventType
from ._listener import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ._connection_condition import Condition
    from ._control import ConnectionControl
    from ._listener import Listener
    from ._observers import Observers
    from ._server_tls import ServerTls
    from ._slots import Slots

# The maximum number of connections that are accepted in one scheduler pass. One per pass would be too slow while
# other connections are busy.
_BURST = 64
# Bursts at the start of a graceful shutdown: enough for a full backlog, and no more, so that a flood of new
# connections does not delay the shutdown.
_FINAL_BURSTS = BACKLOG // _BURST
# Temporary errors of accept: the process or the system has no resources for another connection.
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE = 0.1

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


class Acceptor:
    """Accepts the connections of one server.

    Args:
        slots: the slots of the server.
        tls: the TLS of the server, or None.
        condition: decides which peers may connect.
        observers: what the connections report to.
        start: starts the task of a connection, with its socket, its peer and its control.
    """

    __slots__ = ("_condition", "_observers", "_slots", "_start", "_tls")

    def __init__(
        self,
        slots: Slots,
        tls: ServerTls | None,
        condition: Condition,
        observers: Observers,
        start: Callable[[socket.socket, Address, ConnectionControl], None],
    ) -> None:
        self._slots = slots
        self._tls = tls
        self._condition = condition
        self._observers = observers
        self._start = start

    @trio.lowlevel.enable_ki_protection
    async def run(self, listener: Listener) -> None:
        """Accept until a graceful shutdown begins, or until cancelled."""
        slots = self._slots
        while True:
            await slots.wait_for_room()
            if self._tls is not None:
                await self._tls.wait_for_turn()
            if slots.draining:
                return
            try:
                await trio.lowlevel.wait_readable(listener.socket)
                # The shutdown may have begun since the listener became readable, and closed it.
                if not slots.draining:
                    self._accept_burst(listener)
            except BlockingIOError:
                pass
            except trio.ClosedResourceError:
                if not slots.draining:
                    raise
            except OSError as exc:
                await self._recover(exc)

    def accept_backlog(self, listener: Listener) -> None:
        """Accept what waits in the backlog, when a graceful shutdown begins.

        For these clients the connection is open already, and they may have sent a request. To close the listener
        now would reset them.
        """
        with suppress(OSError):  # the backlog is empty, or accept fails
            for _ in range(_FINAL_BURSTS):
                self._accept_burst(listener)

    async def _recover(self, exc: OSError) -> None:
        """Continue after an error of accept that leaves the listener usable. Raises any other error."""
        if exc.errno in _OUT_OF_RESOURCES:
            self._slots.overload.note_shortage(exc)
            # A connection that lingers holds a file descriptor, which can be reused at once.
            if not self._slots.cut_lingering():
                await trio.sleep(_PAUSE)
        elif exc.errno in _CONNECTION_ERRORS:
            self._observers.report(EventType.CONNECTION_ERROR, None, str(exc.strerror))
        else:
            raise exc

    def _accept_burst(self, listener: Listener) -> None:
        for _ in range(_BURST):
            if not self._slots.has_room():
                return
            sock, name = listener.socket.accept()
            peer = Address(name[0], name[1]) if isinstance(name, tuple) else Address(UNIX_PREFIX)
            if self._admits(sock, peer):
                self._start(sock, peer, self._slots.take(peer))

    def _admits(self, sock: socket.socket, peer: Address) -> bool:
        """Return whether a peer may connect. Closes the socket if it may not."""
        admitted = False
        try:
            admitted = self._condition.admits(peer)
        finally:
            if not admitted:
                sock.close()
        return admitted
