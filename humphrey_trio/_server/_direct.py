"""Streams with non-blocking operations, and the transport over them.

A WebSocket over such a stream sends a frame in the task that sends the message, without a switch to another task
(the direct path), as over a socket. Sockets have ``SocketTransport``.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ._nonblocking import NonBlockingTransport
from ._transport import CHUNK, RECEIVE_SIZE, Incoming

if TYPE_CHECKING:
    from .._http._address import Address


class DirectStream(trio.abc.HalfCloseableStream):
    """A trio stream that also has the operations of a non-blocking socket.

    ``App.serve_stream`` uses only the methods of this class and ``wait_send_all_might_not_block``. One task at a
    time may wait to receive, and one to send.

    Unless documented otherwise, every method raises ``trio.ClosedResourceError`` after the stream was closed, and
    ``trio.BrokenResourceError`` after the connection has broken.
    """

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send as many bytes as possible without waiting.

        Args:
            data: the bytes.

        Returns:
            The number of bytes sent, from the start of ``data``; 0 if none can be sent now.
        """

    @abstractmethod
    def receive_nowait(self, max_bytes: int) -> bytes:
        """Receive without waiting.

        Args:
            max_bytes: the maximum number of bytes.

        Returns:
            At least one byte; empty at the end of file.

        Raises:
            trio.WouldBlock: nothing can be received yet.
        """

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until ``receive_nowait`` would not raise ``trio.WouldBlock``. Always a checkpoint.

        Raises:
            trio.BusyResourceError: another task is already waiting to receive.
        """

    @abstractmethod
    def send_eof_nowait(self) -> None:
        """Send an end of file to the peer, after everything that was sent before."""

    @abstractmethod
    def notify_closing(self) -> None:
        """Raise ``trio.ClosedResourceError`` in the tasks that are waiting on this stream.

        Like ``trio.lowlevel.notify_closing``, it does not close the stream. Never raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the stream immediately, and wake waiting tasks as ``notify_closing`` does. Never raises."""

    def reset(self) -> None:
        """Close the stream with a reset, so that the peer does not receive an end of file. Never raises.

        For a response without a length that is incomplete. The default closes the stream.
        """
        self.close()

    @property
    @abstractmethod
    def hung_up(self) -> bool:
        """Whether the peer has sent an end of file or the connection has broken, even if unread bytes come first.

        Never raises.
        """


class DirectTransport(NonBlockingTransport):
    """A transport over a ``DirectStream``, which it owns. It behaves like ``SocketTransport``."""

    __slots__ = ("_closed", "_stream")

    def __init__(self, stream: DirectStream, peer: Address) -> None:
        super().__init__(peer)
        self._stream = stream
        self._closed = False

    async def receive_some(self, size: int = RECEIVE_SIZE, /) -> bytes:
        while True:
            self._check_open()
            if self._is_new:
                self._is_new = False
            else:
                await self._stream.wait_readable()
            with suppress(trio.WouldBlock):
                return self._receive_now(size)

    def send_now(self, data: bytes | memoryview) -> int:
        self._check_open()
        try:
            return self._stream.send_nowait(data)
        except trio.BrokenResourceError:
            self.incoming = Incoming.BROKEN
            raise

    async def send_eof(self) -> None:
        self._check_open()
        with suppress(trio.BrokenResourceError):  # the peer may have disconnected already
            self._stream.send_eof_nowait()

    async def discard_some(self) -> bool:
        while True:
            self._check_open()
            await self._stream.wait_readable()
            with suppress(trio.WouldBlock):
                return bool(self._receive_now(CHUNK))

    def hung_up(self) -> bool:
        return self._closed or self._stream.hung_up

    def interrupt(self) -> None:
        self._stream.notify_closing()

    def abort(self) -> None:
        self._closed = True
        self._stream.close()

    def reset(self) -> None:
        self._closed = True
        self._stream.reset()

    def _receive_now(self, size: int) -> bytes:
        try:
            data = self._stream.receive_nowait(size)
        except trio.BrokenResourceError:
            self.incoming = Incoming.BROKEN
            raise
        if not data:
            self.incoming = Incoming.ENDED
        return data

    async def _wait_writable(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    def _discard_now(self) -> bool:
        # As for sockets, ``incoming`` does not change.
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            return bool(self._stream.receive_nowait(CHUNK))
        return False

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the connection was closed")
