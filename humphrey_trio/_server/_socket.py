"""The transport over a connected socket."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._nonblocking import NonBlockingTransport
from ._sendfile import LentSocket
from ._transport import CHUNK, RECEIVE_SIZE, RESET_ON_CLOSE, Incoming

if TYPE_CHECKING:
    from .._http._address import Address

# Only Linux reports an end of file that comes after unread bytes. Elsewhere, it is found when the bytes before it
# were read.
_HANGUP: int = getattr(select, "POLLRDHUP", 0)

# A buffer for discarded input. All connections share it, because it is never read.
_DISCARDED = bytearray(CHUNK)


class SocketTransport(NonBlockingTransport):
    """A transport over a connected socket, which it owns."""

    __slots__ = ("_fileno", "_has_waited", "_is_receiving", "_lent", "_socket")

    gathers = True

    def __init__(self, sock: socket.socket, peer: Address) -> None:
        super().__init__(peer)
        self._socket = sock
        sock.setblocking(False)
        self._fileno = sock.fileno()
        self._lent: LentSocket | None = None  # from the first file that is sent without reading it
        # Whether a task may be waiting: to receive, or in any other wait. The second one remains true. To wake the
        # tasks costs 5 us even if there are none, and most connections are closed by the task that has received.
        self._is_receiving = self._has_waited = False

    async def receive_some(self, size: int = RECEIVE_SIZE, /) -> bytes:
        while True:
            self._check_open()
            if self._is_new:
                self._is_new = False
            else:
                self._is_receiving = True
                await trio.lowlevel.wait_readable(self._fileno)
                self._is_receiving = False
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._failure() from exc
            if not data:
                self.incoming = Incoming.ENDED
            return data

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._failure() from exc

    def send_parts_now(self, first: bytes, second: bytes) -> int:
        try:
            return self._socket.sendmsg((first, second))
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._failure() from exc

    def lend(self) -> LentSocket | None:
        self._check_open()
        if self._lent is None:
            self._lent = LentSocket(self._socket)
        return self._lent

    async def send_eof(self) -> None:
        self._check_open()
        with suppress(OSError):  # the peer may have disconnected already
            self._socket.shutdown(socket.SHUT_WR)

    async def discard_some(self) -> bool:
        while True:
            self._check_open()
            self._is_receiving = True
            await trio.lowlevel.wait_readable(self._fileno)
            self._is_receiving = False
            try:
                size = self._socket.recv_into(_DISCARDED)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._failure() from exc
            if not size:
                self.incoming = Incoming.ENDED
            return size > 0

    def unacknowledged(self) -> int:
        # This is SIOCOUTQ of tcp(7). Other systems do not have it.
        if self._fileno < 0 or sys.platform != "linux":
            return 0
        return int.from_bytes(fcntl.ioctl(self._fileno, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def has_input(self) -> bool:
        return self._fileno >= 0 and self.incoming is Incoming.OPEN and self._polls(select.POLLIN)

    def hung_up(self) -> bool:
        if self._fileno < 0:
            return True
        return self._polls(_HANGUP) if _HANGUP else self._has_ended()

    @property
    def hangup_events(self) -> tuple[int, int]:
        return (self._fileno, _HANGUP) if self._fileno >= 0 else (-1, 0)

    def _polls(self, events: int) -> bool:
        """Whether one of some events of ``select.poll`` has occurred."""
        poll = select.poll()
        poll.register(self._fileno, events)
        return bool(poll.poll(0))

    def _has_ended(self) -> bool:
        """Whether the next receive would return an end of file or an error."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def interrupt(self) -> None:
        if self._fileno >= 0:
            self._wake()

    def abort(self) -> None:
        if self._fileno >= 0:
            # Before the close: trio must not wait on a number that the next socket may get.
            self._wake()
            self._fileno = -1
            (self._lent or self._socket).close()

    def reset(self) -> None:
        if self._fileno >= 0:
            with suppress(OSError):  # the peer may have disconnected already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.abort()

    def _wake(self) -> None:
        """Wake the tasks that wait on the socket, if there may be any."""
        if self._is_receiving or self._has_waited or self._lent is not None:
            trio.lowlevel.notify_closing(self._fileno)

    async def _wait_writable(self) -> None:
        self._has_waited = True
        await trio.lowlevel.wait_writable(self._fileno)

    def _discard_now(self) -> bool:
        # The end of file is not noted in ``incoming``. A peer that has closed before it could read the last bytes
        # must not count as one that has received them.
        with suppress(OSError):
            return self._socket.recv_into(_DISCARDED) > 0
        return False

    def _check_open(self) -> None:
        if self._fileno < 0:
            raise trio.ClosedResourceError("the connection was closed")

    def _failure(self) -> Exception:
        if self._fileno < 0:
            return trio.ClosedResourceError("the connection was closed")
        self.incoming = Incoming.BROKEN
        return trio.BrokenResourceError("the connection has broken")
