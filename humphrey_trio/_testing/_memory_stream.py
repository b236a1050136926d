"""An in-memory connection that behaves like TCP, with bounded buffers and injected faults, for tests.

It has the properties of TCP that matter to a server: a full buffer blocks the sender, a close with unread input
resets the connection, and a reset destroys data in transit. It uses no clock and no thread.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import inf

import trio

from .._server._direct import DirectStream
from .._server._transport import CHUNK
from ._held_clock import hold_clock


def memory_connection(buffer: int = 64 * 1024) -> tuple[MemoryStream, MemoryStream]:
    """Create an in-memory connection between a client and ``App.serve_stream``.

    Unlike those of ``trio.testing.memory_stream_pair``, the streams have bounded buffers and the non-blocking
    operations of ``DirectStream``, so that slow clients and short writes can be tested. Both ends have the same
    methods.

    While the library works in threads, on files or compressing, an autojump of ``trio.testing.MockClock`` waits
    for them, in each run of trio in which this was called.

    Args:
        buffer: the size of the buffer of each direction, in bytes.

    Returns:
        The end of the client and the end of the server.

    Raises:
        ValueError: ``buffer`` is below 1.

    Example:
        >>> client, server = memory_connection()
        >>> client.send_nowait(b"hello")
        5
        >>> server.receive_nowait(100)
        b'hello'
    """
    if buffer < 1:
        raise ValueError("buffer must be at least 1 byte")
    hold_clock()
    one, other = _Direction(buffer), _Direction(buffer)
    link = _Link(one, other)
    return MemoryStream(link, one, other), MemoryStream(link, other, one)


class _Direction:
    """The buffer of one direction.

    Attributes:
        capacity: the size of the buffer in bytes.
        data: bytes that were sent and not received.
        ended: whether the sender has sent an end of file.
        refused: whether the receiver has closed, so that nothing more can be sent.
        receivers, senders: the tasks that wait to receive and to send.
    """

    __slots__ = ("capacity", "data", "ended", "receivers", "refused", "senders")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False
        self.refused = False
        self.receivers = trio.lowlevel.ParkingLot()
        self.senders = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> None:
        """Send bytes."""
        self.data += data
        self.receivers.unpark_all()

    def end(self) -> None:
        """Send an end of file."""
        self.ended = True
        self.receivers.unpark_all()

    def refuse(self) -> None:
        """Refuse further bytes, because the receiver has closed."""
        self.refused = True
        self.wake()

    def wake(self) -> None:
        self.receivers.unpark_all()
        self.senders.unpark_all()


class _Link:
    """The state of the connection that both ends share."""

    __slots__ = ("broken", "directions")

    def __init__(self, *directions: _Direction) -> None:
        self.broken = False
        self.directions = directions

    def reset(self) -> None:
        self.broken = True
        for direction in self.directions:
            direction.data.clear()
            direction.wake()


class _OneTask:
    """A context manager that raises ``trio.BusyResourceError`` if another task is in its block."""

    __slots__ = ("_busy",)

    def __init__(self) -> None:
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError("another task is already using this side of the stream")
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False


class MemoryStream(DirectStream):
    """One end of a ``memory_connection``, which creates it. Not created by users.

    The attributes and ``break_at``, ``stall`` and ``reset`` inject faults at this end. They may be used at any
    time.

    Attributes:
        max_send: the maximum number of bytes that one call sends; None for no limit.
        max_receive: the maximum number of bytes that one call receives; None for no limit.
    """

    def __init__(self, link: _Link, outgoing: _Direction, incoming: _Direction) -> None:
        self._link = link
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self._stalled = False
        self._calls_left = inf
        self._receiving = _OneTask()
        self._sending = _OneTask()
        self._notices = 0  # calls of notify_closing
        self.max_send: int | None = None
        self.max_receive: int | None = None

    # Faults...

    def break_at(self, call: int) -> None:
        """Reset the connection in a future call that sends or receives at this end.

        Args:
            call: 1 for the next call, 2 for the one after it, and so on.

        Raises:
            ValueError: ``call`` is below 1.
        """
        if call < 1:
            raise ValueError("call must be at least 1, which is the next call")
        self._calls_left = call - 1

    def stall(self, stalled: bool = True) -> None:
        """Send and receive nothing at this end, like a network without traffic, until ``stall(False)``.

        Args:
            stalled: False to continue.
        """
        self._stalled = stalled
        self._outgoing.wake()
        self._incoming.wake()

    def reset(self) -> None:
        """Close this end with a reset. Data in transit is lost, and the other end breaks."""
        self._link.reset()
        self.close()

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._closed

    @property
    def hung_up(self) -> bool:
        """Whether the peer has sent an end of file or the connection has broken. See ``DirectStream.hung_up``."""
        return self._closed or self._link.broken or self._incoming.ended

    # Without waiting...

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send as many bytes as fit into the buffer, but at most ``max_send``.

        Args:
            data: the bytes.

        Returns:
            The number of bytes sent, from the start of ``data``; 0 if the buffer is full or this end is stalled.

        Raises:
            trio.BrokenResourceError: the connection was reset, or the peer has closed its end.
            trio.ClosedResourceError: this end was closed or half-closed.
        """
        self._check_may_send()
        out = self._outgoing
        self._count_call()
        if self._link.broken or out.refused:
            raise trio.BrokenResourceError("the peer has closed the connection")
        taken = bytes(data[: self._send_room])
        if taken:
            out.put(taken)
        return len(taken)

    def receive_nowait(self, max_bytes: int) -> bytes:
        """Receive bytes that have arrived.

        Args:
            max_bytes: the maximum number of bytes. ``max_receive`` applies, too.

        Returns:
            At least one byte; empty at the end of file.

        Raises:
            trio.WouldBlock: nothing has arrived, or this end is stalled.
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: this end was closed.
        """
        self._check_open()
        if self._stalled:
            raise trio.WouldBlock
        self._count_call()
        if self._link.broken:
            raise trio.BrokenResourceError("the connection was reset")
        incoming = self._incoming
        if not incoming.data and not incoming.ended:
            raise trio.WouldBlock
        size = max_bytes if self.max_receive is None else min(max_bytes, self.max_receive)
        data = bytes(incoming.data[:size])
        del incoming.data[:size]
        incoming.senders.unpark_all()
        return data

    def send_eof_nowait(self) -> None:
        """Half-close: the other end receives everything that was sent, and then an end of file.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: this end was closed.
        """
        self._check_open()
        if self._link.broken:
            raise trio.BrokenResourceError("the connection was reset")
        self._outgoing.end()

    def notify_closing(self) -> None:
        """Raise ``trio.ClosedResourceError`` in the tasks that wait on this end. Does not close it."""
        self._notices += 1
        self._incoming.receivers.unpark_all()
        self._outgoing.senders.unpark_all()

    def close(self) -> None:
        """Close this end. With unread input the connection is reset; otherwise the peer receives all data."""
        if self._closed:
            return
        self._closed = True
        if self._incoming.data:
            self._link.reset()  # like TCP, because the peer must learn that its bytes were lost
        self._outgoing.end()
        self._incoming.refuse()
        self.notify_closing()
        self._outgoing.wake()

    # Waiting...

    async def wait_readable(self) -> None:
        """Wait until ``receive_nowait`` would not raise ``trio.WouldBlock``.

        Raises:
            trio.BusyResourceError: another task is already receiving.
        """
        with self._receiving:
            await self._wait_readable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until at least one byte can be sent, or the connection has broken.

        Raises:
            trio.BusyResourceError: another task is already sending.
        """
        with self._sending:
            await self._wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes, and receive them.

        Args:
            max_bytes: the maximum number of bytes; None for 64 KiB.

        Returns:
            At least one byte; empty at the end of file.

        Raises:
            ValueError: ``max_bytes`` is below 1.
            trio.BusyResourceError: another task is already receiving.
            trio.BrokenResourceError, trio.ClosedResourceError: as for ``receive_nowait``.
        """
        size = CHUNK if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint()
            while True:
                try:
                    return self.receive_nowait(size)
                except trio.WouldBlock:
                    await self._wait_readable()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes, and wait while the buffer is full. If cancelled, it has sent a part of them.

        Args:
            data: the bytes.

        Raises:
            trio.BusyResourceError: another task is already sending.
            trio.BrokenResourceError, trio.ClosedResourceError: as for ``send_nowait``.
        """
        rest = memoryview(data)
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_may_send()
            while rest:
                sent = self.send_nowait(rest)
                rest = rest[sent:]
                if not sent:
                    await self._wait_writable()

    async def send_eof(self) -> None:
        """Half-close, as ``send_eof_nowait``. A checkpoint."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self.send_eof_nowait()

    async def aclose(self) -> None:
        """Close this end, as ``close``. A checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def _wait_readable(self) -> None:
        await self._wait(self._incoming.receivers, lambda: self._can_receive)

    async def _wait_writable(self) -> None:
        self._check_may_send()
        await self._wait(self._outgoing.senders, lambda: self._can_send)

    async def _wait(self, lot: trio.lowlevel.ParkingLot, ready: Callable[[], bool]) -> None:
        self._check_open()
        notices = self._notices
        await trio.lowlevel.checkpoint()
        while self._notices == notices and not ready():
            await lot.park()
        if self._notices != notices:
            raise trio.ClosedResourceError("another task has closed or interrupted this stream")

    @property
    def _can_receive(self) -> bool:
        found = self._incoming.data or self._incoming.ended or self._link.broken
        return bool(found) and not self._stalled

    @property
    def _can_send(self) -> bool:
        return self._send_room > 0 or self._link.broken or self._outgoing.refused

    @property
    def _send_room(self) -> int:
        out = self._outgoing
        room = 0 if self._stalled else out.capacity - len(out.data)
        return room if self.max_send is None else min(room, self.max_send)

    def _count_call(self) -> None:
        self._calls_left -= 1
        if self._calls_left < 0:
            self._link.reset()

    def _check_may_send(self) -> None:
        self._check_open()
        if self._outgoing.ended:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
