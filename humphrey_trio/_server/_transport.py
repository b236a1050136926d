"""The bytes of one connection, over a plain socket or over any trio stream.

A transport moves bytes and knows nothing of protocols. Only the connection task closes it.
"""

from __future__ import annotations

import enum
import fcntl
import select
import socket
import sys
import termios
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

import trio

from .._http._drain import FAREWELL_SECONDS

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._tls_info import TlsInfo

#: Bytes asked of the kernel at once.
CHUNK = 64 * 1024
# The most that is handed to a foreign stream at once: a record of TLS. A peer that reads shows it once for each.
_FOREIGN_CHUNK = 16 * 1024

# How long a foreign stream may take for its last bytes, and for its own farewell, even when cancelled.
_FAREWELL_SECONDS = FAREWELL_SECONDS / 2

# Linux alone tells of an end of file in front of which there are bytes; the others of a reset.
_HANGUP: int = getattr(select, "POLLRDHUP", 0)

# A socket's waits can be ended one by one, without a scope around them, which would cost 15 microseconds.
_NOTHING = nullcontext()

# Discarded input goes here; all connections share it, since nothing reads it.
_DISCARDED = bytearray(CHUNK)
# A hard stop discards at most so many chunks of input: it must not wait, nor be held up by a fast sender.
_LAST_DISCARDS = 16


class Incoming(enum.Enum):
    """How far the incoming side of a connection has come.

    Attributes:
        OPEN: the peer may send more.
        ENDED: the peer has sent its end of file, and everything before it was received.
        BROKEN: the connection broke, mostly by a reset. What the kernel had taken to send may be lost.
    """

    OPEN = enum.auto()
    ENDED = enum.auto()
    BROKEN = enum.auto()


class Transport(ABC):
    """What a connection does with its peer.

    Every method raises ``trio.BrokenResourceError`` once the peer is gone, and ``trio.ClosedResourceError``
    once the transport is closed or aborted.

    Attributes:
        peer: the peer's address.
        incoming: the state of the incoming side, as far as it was read.
    """

    __slots__ = ("incoming", "peer")

    peer: Address
    incoming: Incoming

    def __init__(self, peer: Address) -> None:
        self.peer = peer
        self.incoming = Incoming.OPEN

    def tls_info(self) -> TlsInfo | None:
        """What TLS has negotiated; None over a plain connection."""
        return None

    @abstractmethod
    async def receive_some(self) -> bytes:
        """Some bytes, at most ``CHUNK``; empty at the peer's end of file.

        Always a checkpoint, but for the first bytes of a socket if they are there already.
        """

    @abstractmethod
    def send_now(self, data: bytes | memoryview) -> int:
        """Send without waiting; how many bytes were taken, 0 where it cannot be done."""

    @abstractmethod
    async def send_some(self, data: bytes | memoryview) -> int:
        """Send at least one byte of ``data``, which must not be empty; how many were taken.

        Cancelled over a socket, nothing was sent; over a foreign stream nobody knows (``torn``).
        """

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send everything."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self.send_some(rest) :]

    @abstractmethod
    async def send_last(self, data: bytes) -> int:
        """Try once to send the last bytes, for a task that is cancelled; how many are known to be taken."""

    @property
    @abstractmethod
    def torn(self) -> bool:
        """Whether a cancelled send has left an unknown part of its bytes behind, so that no more may follow."""

    @property
    @abstractmethod
    def half_closes(self) -> bool:
        """Whether ``send_eof`` shows the peer our end of file while it may still send."""

    @abstractmethod
    async def send_eof(self) -> None:
        """End the outgoing side, where the transport can do that. Does not wait for the peer."""

    @abstractmethod
    async def discard_some(self) -> bool:
        """Wait for input and discard it, without a buffer of its own; False at the peer's end of file."""

    def unacknowledged(self) -> int:
        """Bytes that were sent and that the peer's system has not acknowledged; 0 where that cannot be known."""
        return 0

    def hung_up(self) -> bool:
        """Whether the peer has left behind bytes that were not received yet, where that can be known."""
        return False

    @abstractmethod
    def interruptible(self) -> AbstractContextManager[object]:
        """A block in which ``interrupt`` ends a wait of this transport."""

    @abstractmethod
    def interrupt(self) -> None:
        """End a wait, with ``trio.ClosedResourceError`` or with the block; the transport stays open."""

    @abstractmethod
    def abort(self) -> None:
        """Send no more, and wake whoever waits to; for a peer that takes too long."""

    @abstractmethod
    async def close(self) -> None:
        """Close both sides and wake whoever waits on them; does nothing the second time."""


class SocketTransport(Transport):
    """A connected, non-blocking socket, which it owns."""

    __slots__ = ("_fileno", "_is_new", "_socket")

    def __init__(self, sock: socket.socket, peer: Address) -> None:
        super().__init__(peer)
        self._socket = sock
        sock.setblocking(False)
        self._fileno = sock.fileno()
        self._is_new = True

    async def receive_some(self) -> bytes:
        while True:
            self._check_open()
            # A newcomer has mostly sent its request by the time it is accepted; then there is nothing to wait for.
            if self._is_new:
                self._is_new = False
            else:
                await trio.lowlevel.wait_readable(self._fileno)
            try:
                data = self._socket.recv(CHUNK)
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

    async def send_some(self, data: bytes | memoryview) -> int:
        while not (sent := self.send_now(data)):
            await trio.lowlevel.wait_writable(self._fileno)
            self._check_open()
        return sent

    async def send_last(self, data: bytes) -> int:
        sent = self.send_now(data)
        # Unread input would turn the close into a reset, which overtakes the last bytes.
        with suppress(OSError):
            for _ in range(_LAST_DISCARDS):
                if not self._socket.recv_into(_DISCARDED):
                    break
        return sent

    @property
    def torn(self) -> bool:
        return False

    @property
    def half_closes(self) -> bool:
        return True

    async def send_eof(self) -> None:
        self._check_open()
        with suppress(OSError):  # the peer may be gone already
            self._socket.shutdown(socket.SHUT_WR)

    async def discard_some(self) -> bool:
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._fileno)
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
        # tcp(7) calls it SIOCOUTQ. Other systems have other ways.
        if self._fileno < 0 or sys.platform != "linux":
            return 0
        return int.from_bytes(fcntl.ioctl(self._fileno, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def hung_up(self) -> bool:
        if self._fileno < 0:
            return True
        poll = select.poll()
        poll.register(self._fileno, _HANGUP)
        return bool(poll.poll(0))

    def interruptible(self) -> AbstractContextManager[object]:
        return _NOTHING

    def interrupt(self) -> None:
        if self._fileno >= 0:
            trio.lowlevel.notify_closing(self._fileno)

    def abort(self) -> None:
        if self._fileno >= 0:
            trio.lowlevel.notify_closing(self._fileno)
            self._fileno = -1
            self._socket.close()

    async def close(self) -> None:
        self.abort()

    def _check_open(self) -> None:
        if self._fileno < 0:
            raise trio.ClosedResourceError("the connection was closed")

    def _failure(self) -> Exception:
        if self._fileno < 0:
            return trio.ClosedResourceError("the connection was closed")
        self.incoming = Incoming.BROKEN
        return trio.BrokenResourceError("the peer is gone")


class StreamTransport(Transport):
    """Any trio stream (TLS, memory), which it owns. Nothing can be sent over it without waiting."""

    __slots__ = ("_closed", "_sending", "_stream", "_torn", "_waiting")

    def __init__(self, stream: trio.abc.Stream, peer: Address) -> None:
        super().__init__(peer)
        self._stream = stream
        self._torn = False
        self._closed = False
        self._sending: trio.CancelScope | None = None
        self._waiting: trio.CancelScope | None = None

    async def receive_some(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(CHUNK))
        except trio.BrokenResourceError:
            self.incoming = Incoming.BROKEN
            raise
        if not data:
            self.incoming = Incoming.ENDED
        return data

    def send_now(self, data: bytes | memoryview) -> int:
        if self._closed:
            raise trio.ClosedResourceError("the connection was closed")
        return 0

    async def send_some(self, data: bytes | memoryview) -> int:
        chunk = data[:_FOREIGN_CHUNK]
        if self._torn or self._closed:
            raise trio.ClosedResourceError("the connection was closed")
        # Torn, unless it comes back whole: a stream that was cancelled in between may have sent anything.
        self._torn = True
        with trio.CancelScope() as self._sending:
            try:
                await self._stream.send_all(chunk)
            except trio.BrokenResourceError:
                self.incoming = Incoming.BROKEN
                raise
            # The transport may have been aborted in the same moment; then nothing more may follow.
            self._torn = self._sending.cancel_called
        if self._torn:
            raise trio.ClosedResourceError("the connection was aborted")
        return len(chunk)

    async def send_last(self, data: bytes) -> int:
        sent = 0
        rest = memoryview(data)
        with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
            while sent < len(data):
                sent += await self.send_some(rest[sent:])
        return sent

    @property
    def torn(self) -> bool:
        return self._torn

    @property
    def half_closes(self) -> bool:
        # trio's TLS streams cannot end one direction only; there the close itself carries the end.
        return isinstance(self._stream, trio.abc.HalfCloseableStream)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def discard_some(self) -> bool:
        return bool(await self.receive_some())

    def interruptible(self) -> AbstractContextManager[object]:
        self._waiting = trio.CancelScope()
        return self._waiting

    def interrupt(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def abort(self) -> None:
        self._torn = True
        if self._sending is not None:
            self._sending.cancel()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # The farewell of TLS needs the peer to read; shielded, so that a cancelled task can say it too.
        with trio.move_on_after(_FAREWELL_SECONDS, shield=True), suppress(trio.BrokenResourceError):
            if not self._torn:
                await self._stream.aclose()
                return
        await trio.aclose_forcefully(self._stream)
