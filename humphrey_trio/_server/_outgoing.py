"""The bytes that a connection sends, in order: a queue, the write timeout, and turns between tasks.

A send that is cancelled keeps the unsent bytes at the front of the queue. So the next send continues where it
stopped, which TLS requires, and no other bytes get in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .._http._limits import Timeouts
    from ._clock import SweepClock
    from ._control import ConnectionControl
    from ._fairness import Fairness
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
        timeouts: ``write`` applies to each send that waits.
        clock: the clock of the deadline.
        fairness: counts what is sent after a wait.

    Attributes:
        size: bytes in the queue.
        cut: called when the peer has accepted nothing for the write timeout.
    """

    __slots__ = ("_clock", "_control", "_fairness", "_queue", "_timeouts", "_transport", "_turn", "cut", "size")

    cut: Callable[[], None]

    def __init__(
        self,
        transport: Transport,
        control: ConnectionControl,
        timeouts: Timeouts,
        clock: SweepClock,
        fairness: Fairness,
    ) -> None:
        self._transport = transport
        self._control = control
        self._timeouts = timeouts
        self._clock = clock
        self._fairness = fairness
        self._queue: list[bytes | memoryview] = []
        self._turn: trio.Lock | None = None
        self.size = 0
        # The connection must not linger, because the peer does not read.
        self.cut = transport.abort

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
            if sent < len(data):
                await self._send_rest(memoryview(data)[sent:])

    async def send(self, make: Callable[[], Iterable[bytes]]) -> None:
        """Send pieces, after those of the tasks that called this before.

        If it is cancelled, either all pieces are in the queue or none. Each task adds its pieces when the queue is
        empty, so the queue is bounded.

        Args:
            make: returns the pieces. Called in turn.
        """
        turn = self._turn
        if turn is None:
            turn = self._turn = trio.Lock()
        try:
            turn.acquire_nowait()
        except trio.WouldBlock:
            await turn.acquire()
        try:
            await self.flush()
            for piece in make():
                self.put(piece)
            await self.flush()
        finally:
            turn.release()

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
        control, seconds = self._control, self._timeouts.write
        before = control.expire, control.at
        control.expire = self.cut
        try:
            while rest:
                control.expire_at(self._clock.now() + seconds)
                sent = await self._transport.send_some(rest)
                rest = rest[sent:]
                if self._fairness.spent(sent):
                    await trio.lowlevel.checkpoint()
        finally:
            control.expire, control.at = before
            if rest:
                self._queue.insert(0, rest)
                self.size += len(rest)
