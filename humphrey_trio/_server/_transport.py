"""The bytes of one connection, over a plain socket or over any trio stream.

A transport moves bytes and knows nothing of protocols. Only the connection task closes it.
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

import trio

from .._http._drain import FAREWELL_SECONDS

if TYPE_CHECKING:
    from .._http._address import Address

#: Bytes asked of the kernel at once.
CHUNK = 64 * 1024
# The most that is handed to a foreign stream at once: a record of TLS. A peer that reads shows it once for each.
_FOREIGN_CHUNK = 16 * 1024

# Closing a socket with unread input resets the connection, and the peer may lose what was sent to it last.
# Reading on for a moment lets it arrive; both bounds keep that from becoming a service.
LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024

# How long a foreign stream may take for its last bytes, and for its own farewell, even when cancelled.
_FAREWELL_SECONDS = FAREWELL_SECONDS / 2

# Linux alone tells of an end of file in front of which there are bytes; the others of a reset.
_HANGUP: int = getattr(select, "POLLRDHUP", 0)

# A socket's waits can be ended one by one, without a scope around them, which would cost 15 microseconds.
_NOTHING = nullcontext()


class Transport(ABC):
    """What a connection does with its peer.

    Every method raises ``trio.BrokenResourceError`` once the peer is gone, and ``trio.ClosedResourceError``
    once the transport is closed or aborted.
    """

    __slots__ = ("peer",)

    peer: Address

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

    @abstractmethod
    async def send_eof(self) -> None:
        """End the outgoing side, where the transport can do that."""

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
        self.peer = peer
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
                return self._socket.recv(CHUNK)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._failure() from exc

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
        # What has come and was not read would turn the close into a reset, which overtakes the last bytes.
        with suppress(OSError):
            self._socket.recv(CHUNK)
        return sent

    @property
    def torn(self) -> bool:
        return False

    async def send_eof(self) -> None:
        self._check_open()
        with suppress(OSError):  # the peer may be gone already
            self._socket.shutdown(socket.SHUT_WR)

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
        return trio.BrokenResourceError("the peer is gone")


class StreamTransport(Transport):
    """Any trio stream (TLS, memory), which it owns. Nothing can be sent over it without waiting."""

    __slots__ = ("_closed", "_sending", "_stream", "_torn", "_waiting")

    def __init__(self, stream: trio.abc.Stream, peer: Address) -> None:
        self.peer = peer
        self._stream = stream
        self._torn = False
        self._closed = False
        self._sending: trio.CancelScope | None = None
        self._waiting: trio.CancelScope | None = None

    async def receive_some(self) -> bytes:
        return bytes(await self._stream.receive_some(CHUNK))

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
            await self._stream.send_all(chunk)
            # An abort may have come when all was taken already; it holds.
            self._torn = self._sending.cancel_called
        if self._torn:
            raise trio.ClosedResourceError("the connection was aborted")
        return len(chunk)

    async def send_last(self, data: bytes) -> int:
        sent = 0
        with trio.move_on_after(_FAREWELL_SECONDS, shield=True):
            while sent < len(data):
                sent += await self.send_some(data[sent:])
        return sent

    @property
    def torn(self) -> bool:
        return self._torn

    async def send_eof(self) -> None:
        # TLS cannot end one direction only; there the close itself carries the end.
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

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


async def linger(transport: Transport) -> None:
    """End the outgoing side, then read away what still comes, so that the peer can read our last words.

    It ends at the peer's end of file, after a second or after a mebibyte.
    """
    left = LINGER_BYTES
    with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await transport.send_eof()
        while left > 0 and (data := await transport.receive_some()):
            left -= len(data)
