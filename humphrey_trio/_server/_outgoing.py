"""The bytes that a connection sends, in order: a queue, the write timeout, and turns between tasks.

A send that is cancelled keeps the unsent bytes at the front of the queue. So the next send continues where it
stopped, which TLS requires, and no other bytes get in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

import trio

from ._sendfile import STEP_SIZE, send_step

if TYPE_CHECKING:
    from .._http._file_body import OpenFile
    from .._http._ranges import ByteRange
    from ._control import ConnectionControl
    from ._interface import ServerSettings
    from ._recording import Recording
    from ._sendfile import LentSocket
    from ._transport import Transport

# Queued pieces are joined up to this size, to be sent in one call. Joining larger ones costs more than a call.
_JOINED = 256 * 1024


class Outgoing:
    """The outgoing side of an HTTP connection.

    ``put`` and ``flush`` are for a single task, in which responses are sent. While a response is streamed, several
    tasks may send, with ``send``.

    Args:
        transport: the transport.
        control: the control of the connection. While a send waits, its deadline is that of the write timeout.
        settings: the objects that all connections of the server share. ``Timeouts.write`` applies to each send
            that waits.
        recording: is told when the queue was sent; None if nothing records.

    Attributes:
        size: bytes in the queue.
        file_bytes: bytes that were sent by ``send_range``.
    """

    __slots__ = (
        "_control",
        "_counters",
        "_deadline",
        "_on_timeout",
        "_queue",
        "_recording",
        "_settings",
        "_transport",
        "_turn",
        "file_bytes",
        "size",
    )

    def __init__(
        self,
        transport: Transport,
        control: ConnectionControl,
        settings: ServerSettings,
        recording: Recording | None,
    ) -> None:
        self._transport = transport
        self._control = control
        self._settings = settings
        self._counters = settings.observers.counters
        self._recording = recording
        self._queue: list[bytes | memoryview] = []
        self._turn: trio.Lock | None = None
        # When the transport has to have accepted some of the bytes that wait. It is kept if a send is cancelled,
        # so that a task that tries again and again finds a peer too slow.
        self._deadline = inf
        self.size = 0
        self.file_bytes = 0
        # The connection must not linger, because the peer does not read.
        self._on_timeout: Callable[[], None] = transport.abort

    def on_write_timeout(self, callback: Callable[[], None]) -> None:
        """Set what is called when the peer has accepted nothing for the write timeout. The default is to abort."""
        self._on_timeout = callback

    def put(self, data: bytes) -> None:
        """Add bytes to the queue."""
        self._queue.append(data)
        self.size += len(data)

    def clear(self) -> None:
        """Drop the queue."""
        self._queue.clear()
        self.size = 0

    async def flush(self) -> None:
        """Send the queue. Does not wait if the transport accepts all of it."""
        queue = self._queue
        while queue:
            if len(queue) == 1:
                data, self.size = queue.pop(), 0
            else:
                data = self._take()
            sent = self._transport.send_now(data)
            self._counters.bytes_sent += sent
            if sent:
                self._deadline = inf
            if sent < len(data):
                await self._send_rest(memoryview(data)[sent:])
        if self._recording is not None:
            self._recording.note_sent()

    async def send(self, make: Callable[[], Iterable[bytes]]) -> None:
        """Send pieces, after those of the tasks that called this before.

        If it is cancelled, either all pieces are in the queue or none. Each task adds its pieces when the queue is
        empty, so the queue is bounded.

        Args:
            make: returns the pieces. Called in turn.
        """
        turn = await self._take_turn()
        try:
            await self._send_pieces(make)
        finally:
            turn.release()

    async def send_range(self, make: Callable[[], Iterable[bytes]], file: OpenFile, part: ByteRange) -> int:
        """Send pieces, and then a range of a file without reading it, as far as that is possible.

        If the transport lends no socket, nothing is sent. If this is cancelled while a worker thread sends, the
        transport is aborted, because an unknown part was sent.

        Args:
            make: as for ``send``.
            file: the file. It is closed if this is cancelled.
            part: the range.

        Returns:
            The number of bytes of the range that were sent. If these are not all, the rest has to be read.
        """
        lent = self._transport.lend()
        if lent is None:
            return 0
        turn = await self._take_turn()
        try:
            await self._send_pieces(make)
            return await self._send_file(lent, file, part)
        finally:
            turn.release()

    async def _take_turn(self) -> trio.Lock:
        turn = self._turn
        if turn is None:
            turn = self._turn = trio.Lock()
        try:
            turn.acquire_nowait()
        except trio.WouldBlock:
            await turn.acquire()
        return turn

    async def _send_pieces(self, make: Callable[[], Iterable[bytes]]) -> None:
        await self.flush()
        for piece in make():
            self.put(piece)
        await self.flush()

    def _take(self) -> bytes | memoryview:
        """Remove the whole queue, or only its first piece if the queue is large."""
        if self.size > _JOINED:
            data = self._queue.pop(0)
        else:
            data = b"".join(self._queue)
            self._queue.clear()
        self.size -= len(data)
        return data

    async def _send_rest(self, rest: memoryview) -> None:
        control, seconds, clock = self._control, self._settings.timeouts.write, self._settings.clock
        # The deadline may belong to the handler that waits for this send. It is in force again afterwards.
        before = control.replace_expire(self._on_timeout)
        try:
            while rest:
                self._deadline = min(self._deadline, clock.now() + seconds)
                control.expire_at(self._deadline)
                sent = await self._transport.send_some(rest)
                self._deadline = inf
                rest = rest[sent:]
                self._counters.bytes_sent += sent
                if self._settings.fairness.spent(sent):
                    await trio.lowlevel.checkpoint()
        finally:
            control.restore(before)
            if rest:  # cancelled, or broken: the next send must begin with these bytes
                self._queue.insert(0, rest)
                self.size += len(rest)

    # Files...

    async def _send_file(self, lent: LentSocket, file: OpenFile, part: ByteRange) -> int:
        position, end = part.first, part.last + 1
        deadline = inf
        while position < end:
            size = min(STEP_SIZE, end - position)
            accepted = await self._send_step(lent, file, position, size)
            if accepted == 0:
                break
            if accepted:
                position += accepted
                self._counters.bytes_sent += accepted
                self.file_bytes += accepted
                deadline = inf
            if accepted != size:
                # The deadline restarts only after bytes were accepted.
                deadline = min(deadline, self._settings.clock.now() + self._settings.timeouts.write)
                await self._wait_writable(lent, deadline)
        return position - part.first

    async def _send_step(self, lent: LentSocket, file: OpenFile, position: int, size: int) -> int | None:
        try:
            return await send_step(lent, file, position, size)
        except BaseException:
            # The thread may still be sending, so nothing else may be sent on this connection.
            self._transport.abort()
            raise

    async def _wait_writable(self, lent: LentSocket, deadline: float) -> None:
        control = self._control
        before = control.replace_expire(self._on_timeout)
        control.expire_at(deadline)
        try:
            await lent.wait_writable()
        finally:
            control.restore(before)
