"""Streams that can be used without waiting, as non-blocking sockets can, and the transport over them.

They let a program bring a connection of its own to ``App.serve_stream`` without giving up the direct path, on
which a frame is sent in the task that sends the message. Sockets have ``SocketTransport``.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

import trio

from ._transport import CHUNK, Incoming, Transport

if TYPE_CHECKING:
    from .._http._address import Address

_NOTHING = nullcontext()
# As for sockets: a hard stop discards a bounded amount of input.
_LAST_DISCARDS = 16


class DirectStream(trio.abc.HalfCloseableStream):
    """A stream with the operations of a non-blocking socket, beside those of trio.

    ``App.serve_stream`` sends and receives on one with these methods only, except for
    ``wait_send_all_might_not_block``. Every method raises ``trio.ClosedResourceError`` once the stream is closed
    and ``trio.BrokenResourceError`` once the connection has broken, unless it says something else. One task at a
    time may wait to receive, and one to send.
    """

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting.

        Returns:
            How many bytes were taken, from the start of ``data``; 0 for none.
        """

    @abstractmethod
    def receive_nowait(self, max_bytes: int) -> bytes:
        """Receive at most so many bytes.

        Returns:
            At least one byte; empty at the peer's end of file.

        Raises:
            trio.WouldBlock: there is nothing to receive yet.
        """

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until ``receive_nowait`` would not raise ``trio.WouldBlock``. Always a checkpoint.

        Raises:
            trio.BusyResourceError: another task waits already.
        """

    @abstractmethod
    def send_eof_nowait(self) -> None:
        """End the outgoing side. What was sent before reaches the peer first."""

    @abstractmethod
    def notify_closing(self) -> None:
        """Raise ``trio.ClosedResourceError`` in the tasks that wait on this stream, as
        ``trio.lowlevel.notify_closing`` does. The stream stays open. Never raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Close both sides at once, and end all waits as ``notify_closing`` does. Never raises."""

    @property
    @abstractmethod
    def hung_up(self) -> bool:
        """Whether the peer has ended or the connection broke, even behind unread bytes. Never raises."""


class DirectTransport(Transport):
    """A ``DirectStream``, which it owns. It behaves as ``SocketTransport`` does."""

    __slots__ = ("_closed", "_is_new", "_stream")

    def __init__(self, stream: DirectStream, peer: Address) -> None:
        super().__init__(peer)
        self._stream = stream
        self._closed = False
        self._is_new = True

    async def receive_some(self) -> bytes:
        while True:
            self._check_open()
            # The first request has mostly arrived with the connection; then there is nothing to wait for.
            if self._is_new:
                self._is_new = False
            else:
                await self._stream.wait_readable()
            with suppress(trio.WouldBlock):
                return self._receive()

    def send_now(self, data: bytes | memoryview) -> int:
        self._check_open()
        try:
            return self._stream.send_nowait(data)
        except trio.BrokenResourceError:
            self.incoming = Incoming.BROKEN
            raise

    async def send_some(self, data: bytes | memoryview) -> int:
        while not (sent := self.send_now(data)):
            await self._stream.wait_send_all_might_not_block()
        return sent

    async def send_last(self, data: bytes) -> int:
        sent = self.send_now(data)
        # Unread input would turn the close into a reset, which overtakes the last bytes.
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            for _ in range(_LAST_DISCARDS):
                if not self._receive():
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
        with suppress(trio.BrokenResourceError):  # the peer may be gone already
            self._stream.send_eof_nowait()

    async def discard_some(self) -> bool:
        while True:
            self._check_open()
            await self._stream.wait_readable()
            with suppress(trio.WouldBlock):
                return bool(self._receive())

    def hung_up(self) -> bool:
        return self._closed or self._stream.hung_up

    def interruptible(self) -> AbstractContextManager[object]:
        return _NOTHING

    def interrupt(self) -> None:
        self._stream.notify_closing()

    def abort(self) -> None:
        self._closed = True
        self._stream.close()

    async def close(self) -> None:
        self.abort()

    def _receive(self) -> bytes:
        try:
            data = self._stream.receive_nowait(CHUNK)
        except trio.BrokenResourceError:
            self.incoming = Incoming.BROKEN
            raise
        if not data:
            self.incoming = Incoming.ENDED
        return data

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the connection was closed")
