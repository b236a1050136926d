"""A connection in memory that behaves as one of TCP does, with bounded buffers and faults, for tests.

The rules are those of TCP where they matter to a server: a sender is held up by a full buffer, a close over
unread input resets the connection, and a reset destroys what is on its way. There is no clock and no thread.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import inf

import trio

from ._server._direct import DirectStream

_CHUNK = 64 * 1024


def memory_connection(buffer: int = 64 * 1024) -> tuple[MemoryStream, MemoryStream]:
    """Make a connection in memory, for a client and for ``App.serve_stream``.

    Unlike the streams of ``trio.testing.memory_stream_pair`` these have bounded buffers and the direct path of
    sockets, so slow clients and short writes can be tested. Both ends have the same methods.

    Args:
        buffer: bytes that each direction holds while the receiver does not read.

    Returns:
        The client's end and the server's end.

    Raises:
        ValueError: ``buffer`` is below one.

    Example:
        >>> client, server = memory_connection()
        >>> client.send_nowait(b"hello")
        5
        >>> server.receive_nowait(100)
        b'hello'
    """
    if buffer < 1:
        raise ValueError("buffer must be at least 1 byte")
    one, other = _Direction(buffer), _Direction(buffer)
    link = _Link(one, other)
    return MemoryStream(link, one, other), MemoryStream(link, other, one)


class _Direction:
    """What is on its way in one direction.

    Attributes:
        data: bytes that were sent and not received.
        ended: whether the sender has ended.
        refused: whether the receiver has closed, so that nothing more can be sent.
    """

    __slots__ = ("capacity", "data", "ended", "receivers", "refused", "senders")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False
        self.refused = False
        self.receivers = trio.lowlevel.ParkingLot()
        self.senders = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self.receivers.unpark_all()
        self.senders.unpark_all()


class _Link:
    """What both ends share: whether the connection has broken."""

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
    """A block in which one task may be at a time."""

    __slots__ = ("_busy",)

    def __init__(self) -> None:
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError("another task uses this side of the stream already")
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False


class MemoryStream(DirectStream):
    """One end of a ``memory_connection``.

    The attributes and ``break_at``, ``stall`` and ``reset`` make faults. They concern this end only, and may be
    used at any time.

    Attributes:
        max_send: the most bytes that one call takes to send; None for no bound.
        max_receive: the most bytes that one call receives; None for no bound.
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
        """Reset the connection in the n-th call from now on that sends or receives on this end.

        Args:
            call: 1 for the next one.

        Raises:
            ValueError: it is below one.
        """
        if call < 1:
            raise ValueError("break_at counts calls from 1, the next one")
        self._calls_left = call - 1

    def stall(self, stalled: bool = True) -> None:
        """Send and receive nothing on this end, as if the network took nothing, until ``stall(False)``."""
        self._stalled = stalled
        self._outgoing.wake()
        self._incoming.wake()

    def reset(self) -> None:
        """Close this end with a reset: what is on its way is lost, the other end breaks."""
        self._link.reset()
        self.close()

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._closed

    @property
    def hung_up(self) -> bool:
        """Whether the peer has ended or the connection broke, even behind unread bytes."""
        return self._closed or self._link.broken or self._incoming.ended

    # Without waiting...

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what the peer's buffer has room for; how many bytes were taken."""
        self._check_may_send()
        out = self._outgoing
        self._count_call()
        if self._link.broken or out.refused:
            raise trio.BrokenResourceError("the peer has closed the connection")
        taken = bytes(data[: self._send_room])
        if taken:
            out.data += taken
            out.receivers.unpark_all()
        return len(taken)

    def receive_nowait(self, max_bytes: int) -> bytes:
        """Receive what has arrived; empty at the end of file. See ``DirectStream.receive_nowait``."""
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
        """End the outgoing side (half close). The other end receives what was sent, then an end of file."""
        self._check_open()
        if self._link.broken:
            raise trio.BrokenResourceError("the connection was reset")
        self._outgoing.ended = True
        self._outgoing.receivers.unpark_all()

    def notify_closing(self) -> None:
        """Raise ``trio.ClosedResourceError`` in the tasks that wait on this end, which stays open."""
        self._notices += 1
        self._incoming.receivers.unpark_all()
        self._outgoing.senders.unpark_all()

    def close(self) -> None:
        """Close this end. Over unread input, the connection is reset; else the peer receives everything."""
        if self._closed:
            return
        self._closed = True
        if self._incoming.data:
            self._link.reset()  # as TCP: the peer has to learn that its bytes were not received
        self._outgoing.ended = True
        self._incoming.refused = True
        self.notify_closing()
        self._outgoing.wake()
        self._incoming.wake()

    # Waiting...

    async def wait_readable(self) -> None:
        """Wait until there is something to receive, the end of file included."""
        with self._receiving:
            await self._wait_readable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until at least one byte can be sent, or the connection has ended."""
        with self._sending:
            await self._wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See ``trio.abc.ReceiveStream``."""
        size = _CHUNK if max_bytes is None else operator.index(max_bytes)
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
        """See ``trio.abc.SendStream``. Cancelled, it has sent a part."""
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
        """As ``send_eof_nowait``, and a checkpoint."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self.send_eof_nowait()

    async def aclose(self) -> None:
        """As ``close``, and a checkpoint."""
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
            raise trio.ClosedResourceError("this side has ended: nothing can be sent behind send_eof")

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
