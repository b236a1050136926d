"""Transports: send and receive the bytes of a connection. The interface, and its form for any trio stream.

A transport does not depend on the protocol. Only the connection task closes it. The transports over a socket, over
TLS and over a ``DirectStream`` have modules of their own.
"""

from __future__ import annotations

import enum
import socket
import struct
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, ClassVar, cast

import trio

from .._http._drain import CLEANUP_SECONDS

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._tls_info import TlsInfo
    from ._sendfile import LentSocket

#: The maximum number of bytes that are discarded, or taken from a queue to be sent, in one call.
CHUNK = 64 * 1024
#: The maximum number of bytes of one receive, by default. A frame of 64 KiB fits, together with its header.
RECEIVE_SIZE = 66 * 1024
# The maximum number of bytes of one send_all of a trio stream: one TLS record. The write timeout restarts after
# each, so a slow peer that reads is not cut off.
_FOREIGN_CHUNK = 16 * 1024

#: The value of ``SO_LINGER`` with which a close sends a reset, and discards what was not sent yet (socket(7)).
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# Seconds for each of two steps that a cancelled task still executes over a trio stream: send_last and close.
_CLEANUP_STEP_SECONDS = CLEANUP_SECONDS / 2


class Incoming(enum.Enum):
    """The state of the incoming side of a connection.

    Attributes:
        OPEN: the peer may send more.
        ENDED: the peer's end of file was received, and everything before it.
        BROKEN: the connection has broken, usually by a reset. Data that was sent may be lost.
    """

    OPEN = enum.auto()
    ENDED = enum.auto()
    BROKEN = enum.auto()


class Transport(ABC):
    """A connection to a peer.

    Unless documented otherwise, every method raises ``trio.BrokenResourceError`` after the connection has broken,
    and ``trio.ClosedResourceError`` after the transport was closed or aborted.

    Args:
        peer: the address of the peer.

    Attributes:
        peer: the address of the peer.
        incoming: the state of the incoming side, as known from the calls to receive so far.
        gathers: whether ``send_parts_now`` sends its parts without copying them.
    """

    __slots__ = ("incoming", "peer")

    gathers: ClassVar[bool] = False

    peer: Address
    incoming: Incoming

    def __init__(self, peer: Address) -> None:
        self.peer = peer
        self.incoming = Incoming.OPEN

    def tls_info(self) -> TlsInfo | None:
        """Return the TLS parameters of the connection; None without TLS."""
        return None

    @abstractmethod
    async def receive_some(self, size: int = RECEIVE_SIZE, /) -> bytes:
        """Receive some bytes.

        A checkpoint, except for the first bytes of a socket if they have already arrived.

        Args:
            size: the maximum number of bytes. Over TLS, the maximum is fixed and lower.

        Returns:
            At least one byte; empty at the peer's end of file.
        """

    @abstractmethod
    def send_now(self, data: bytes | memoryview) -> int:
        """Send as many bytes as possible without waiting.

        Returns:
            The number of bytes sent, from the start of ``data``. Always 0 over a trio stream.
        """

    def send_parts_now(self, first: bytes, second: bytes) -> int:
        """As ``send_now``, for two parts that are sent together, without copying them if ``gathers`` is true.

        Returns:
            The number of bytes sent, from the start of ``first``.
        """
        return self.send_now(first + second)

    def lend(self) -> LentSocket | None:
        """Lend the socket to worker threads that send files. While one of them sends, no other method may send.

        Returns:
            The socket; None if there is none that takes the bytes of a file as they are.
        """
        return None

    @abstractmethod
    async def send_some(self, data: bytes | memoryview) -> int:
        """Send at least one byte.

        If cancelled over a socket, nothing was sent. If cancelled over a trio stream, an unknown part was sent,
        and the transport is ``torn``.

        Args:
            data: the bytes. Must not be empty.

        Returns:
            The number of bytes sent, from the start of ``data``.
        """

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send all bytes. If cancelled, it has sent a part."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self.send_some(rest) :]

    @abstractmethod
    async def send_last(self, data: bytes) -> int:
        """Try to send the last bytes in a task that is cancelled, for a bounded time.

        Returns:
            The number of bytes that were certainly sent.
        """

    @property
    @abstractmethod
    def torn(self) -> bool:
        """Whether a cancelled send has sent an unknown part of its bytes, so that nothing more may be sent."""

    @property
    @abstractmethod
    def half_closes(self) -> bool:
        """Whether ``send_eof`` sends an end of file and leaves the incoming side open."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Send an end of file, if the transport can do that. Does not wait for the peer."""

    @abstractmethod
    async def discard_some(self) -> bool:
        """Receive some bytes and discard them. Does not allocate a buffer over a socket.

        Returns:
            False at the peer's end of file.
        """

    def unacknowledged(self) -> int:
        """Return the number of bytes sent that TCP has not acknowledged; 0 if that is unknown."""
        return 0

    def has_input(self) -> bool:
        """Whether bytes have arrived that were not received yet, or an end of file. False if that is unknown."""
        return False

    def hung_up(self) -> bool:
        """Whether the peer has disconnected, even if unread bytes come first. False if that is unknown."""
        return False

    @property
    def hangup_events(self) -> tuple[int, int]:
        """A file descriptor, and the events of ``select.poll`` that tell the same as ``hung_up``; 0 for none."""
        return -1, 0

    @abstractmethod
    def interruptible(self) -> AbstractContextManager[object]:
        """Return a context manager for the block in which ``interrupt`` has an effect."""

    @abstractmethod
    def interrupt(self) -> None:
        """Wake the tasks that wait on the transport, which stays open.

        Over a socket, ``trio.ClosedResourceError`` is raised in them. Over a trio stream, the block of
        ``interruptible`` is left.
        """

    @abstractmethod
    def abort(self) -> None:
        """Stop sending, and wake the task that waits to send. For a peer that does not read.

        Over a socket this closes the socket, and wakes the task that waits to receive as well.
        """

    def reset(self) -> None:
        """Abort, and end the connection with a reset if the transport can do that.

        For a message that is incomplete although an end of file would complete it.
        """
        self.abort()

    @abstractmethod
    async def close(self) -> None:
        """Close the transport, and wake the tasks that wait on it. Does nothing if it is closed already."""


class StreamTransport(Transport):
    """A transport over any trio stream, which it owns. ``send_now`` never sends anything."""

    __slots__ = ("_closed", "_sending", "_stream", "_torn", "_waiting")

    def __init__(self, stream: trio.abc.Stream, peer: Address) -> None:
        super().__init__(peer)
        self._stream = stream
        self._torn = False
        self._closed = False
        self._sending: trio.CancelScope | None = None
        self._waiting: trio.CancelScope | None = None

    async def receive_some(self, size: int = RECEIVE_SIZE, /) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(size))
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
        # A cancelled send_all may have sent any part of the chunk, so it is torn until send_all has returned.
        self._torn = True
        with trio.CancelScope() as self._sending:
            try:
                await self._stream.send_all(chunk)
            except trio.BrokenResourceError:
                self.incoming = Incoming.BROKEN
                raise
            # abort may have been called although send_all completed. Then nothing more may be sent.
            self._torn = self._sending.cancel_called
        if self._torn:
            raise trio.ClosedResourceError("the connection was aborted")
        return len(chunk)

    async def send_last(self, data: bytes) -> int:
        sent = 0
        rest = memoryview(data)
        with trio.move_on_after(_CLEANUP_STEP_SECONDS, shield=True):
            while sent < len(data):
                sent += await self.send_some(rest[sent:])
        return sent

    @property
    def torn(self) -> bool:
        return self._torn

    @property
    def half_closes(self) -> bool:
        # trio.SSLStream cannot close one direction. There the end of file is sent when the stream is closed.
        return isinstance(self._stream, trio.abc.HalfCloseableStream)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def discard_some(self) -> bool:
        return bool(await self.receive_some())

    def interruptible(self) -> AbstractContextManager[object]:
        # trio streams have nothing like notify_closing, so a wait can only be ended by cancelling it.
        self._waiting = trio.CancelScope()
        return self._waiting

    def interrupt(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def reset(self) -> None:
        # A socket below, without or with TLS. Closed with this option, it sends a reset.
        stream: object = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = cast("trio.SSLStream[trio.abc.Stream]", stream).transport_stream
        if isinstance(stream, trio.SocketStream):
            with suppress(OSError, trio.ClosedResourceError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.abort()

    def abort(self) -> None:
        # Torn, so that ``close`` does not wait for the peer, which does not read.
        self._torn = True
        if self._sending is not None:
            self._sending.cancel()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # trio.SSLStream sends a close_notify, for which the peer must read. Shielded, so that a cancelled task
        # sends it, too.
        with trio.move_on_after(_CLEANUP_STEP_SECONDS, shield=True), suppress(trio.BrokenResourceError):
            if not self._torn:
                await self._stream.aclose()
                return
        await trio.aclose_forcefully(self._stream)
