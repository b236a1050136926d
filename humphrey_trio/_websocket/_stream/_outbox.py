"""The outgoing side of one WebSocket: whole frames, which are sent at once or wait in a queue.

A frame is put as a whole or not at all. The connection task is the only task that writes what the kernel does not
accept at once, so no frame is interrupted by another. Only ``flush_some`` waits for the peer. The outbox does not
decode its frames. What waits, and whether there is room for more, is in ``_backlog``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..._server._transport import CHUNK
from ._backlog import Backlog
from ._send_queue import SendQueue

if TYPE_CHECKING:
    from ..._server._transport import Transport
    from .._counters import Counters
    from .._limits import StreamLimits
    from .._policies import FullPolicy


class Outbox(Backlog):
    """The outgoing side of one stream.

    At first it is corked: frames wait until the response of the handshake is put before them. Then, while nothing
    waits, a frame is sent directly. The part that the kernel does not accept is the begun frame. Frames that are
    put after it wait in a ``SendQueue``, from which the writer takes a batch whenever the previous one is written.
    No frame can be put after a Close (RFC 6455, section 5.5.1).

    Args:
        transport: the transport that sends the frames.
        limits: the limits of what waits.
        counters: the counters of dropped messages and waits.
    """

    __slots__ = ("_transport", "_writer")

    def __init__(self, transport: Transport, limits: StreamLimits, counters: Counters) -> None:
        super().__init__(limits, counters)
        self._transport = transport
        self._writer: trio.lowlevel.Task | None = None  # set while it waits for work

    # Putting frames...

    def put(self, frame: bytes) -> None:
        """Put the frame of a message. The caller must check ``has_room`` and ``ended`` before.

        Raises:
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: the transport is closed.
        """
        if not self.direct:
            self.put_later(frame)
            return
        # No checkpoint from here on: a frame that is sent in part must be kept before any other task runs.
        sent = self._transport.send_now(frame)
        self.messages_put += 1
        self.bytes_sent += sent
        if sent < len(frame):
            self._begin(frame, sent)
            self._begun_messages = 1

    def put_parts(self, header: bytes, payload: bytes) -> None:
        """As ``put``, for a frame in two parts. If nothing waits, the payload is sent without being copied."""
        if not (self.direct and self._transport.gathers):
            self.put(header + payload)
            return
        sent = self._transport.send_parts_now(header, payload)
        self.messages_put += 1
        self.bytes_sent += sent
        if sent < len(header):
            self._begin(header + payload, sent)
            self._begun_messages = 1
        elif sent < len(header) + len(payload):
            self._begin(payload, sent - len(header))
            self._begun_messages = 1

    def put_later(self, frame: bytes) -> None:
        """Put the frame of a message, without sending it directly. The writer sends such frames together.

        Frames that are put after it wait as well, so the order is kept.
        """
        self.messages_put += 1
        if self._queue is None:
            self._queue = SendQueue()
        self._queue.put(frame)
        # Written out instead of ``_call_writer``: this runs for each reply to messages that arrived together.
        self.direct = False
        if self._writer is not None:
            self.wake()

    def put_droppable(self, frame: bytes, policy: FullPolicy) -> None:
        """As ``put``, for a message that ``make_room`` may drop while it waits."""
        if self.direct:
            self.put(frame)  # a begun frame cannot be dropped
            return
        self.messages_put += 1
        self.queue.put_droppable(frame, policy)
        self._call_writer()

    def put_control(self, frame: bytes) -> None:
        """Put a Ping or a Pong. It replaces one of the same kind that waits.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self.direct:
            self._put_directly(frame)
        elif not self.ended:
            # Without a limit, because at most one Ping and one Pong wait. So a peer that sends Pings and does not
            # read uses no memory.
            self.queue.put_control(frame)
            self._call_writer()

    def _put_directly(self, frame: bytes) -> None:
        """Send a control frame directly."""
        sent = self._transport.send_now(frame)
        self.bytes_sent += sent
        if sent < len(frame):
            self._begin(frame, sent)

    def _begin(self, frame: bytes, sent: int) -> None:
        """Keep the rest of a frame for the writer."""
        self._begun = memoryview(frame)[sent:]
        self._call_writer()

    # The handshake and the end...

    def uncork(self, head: bytes) -> None:
        """Put the response of the handshake before all frames, and start to send.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        self.corked = False
        self.direct = not self.ended and not self._has_frames()
        sent = self._transport.send_now(head) if self.direct else 0
        if sent < len(head):
            self._handshake = memoryview(head)[sent:]
            self._call_writer()

    def end(self, close: bytes, *, drop_queue: bool = False) -> None:
        """Put the last frame after what waits. Does nothing if the outbox has ended.

        Args:
            close: the Close frame.
            drop_queue: whether to drop the messages of which no byte was sent.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self.ended:
            return
        self.ended = True
        # A begun frame is not dropped: the peer has a part of it, and could not decode a Close in its middle.
        if drop_queue:
            self._drop_messages()
        if self.direct:
            self._put_directly(close)
        else:
            self.queue.put_close(close)
        self._call_writer()
        self._tell_progress()

    def abandon(self) -> None:
        """Drop everything, because the connection has ended."""
        # The messages of the begun batch count as sent, although it is unknown whether they were received. Those
        # in the queue count as dropped.
        self.ended = True
        self.direct = False
        self._handshake = self._begun = None
        self._begun_messages = 0
        self._drop_messages()
        self._queue = None
        self._call_writer()
        self._tell_progress()

    # Writing, by the connection task...

    async def wait_for_work(self) -> None:
        """Wait until ``wake``, or until a frame is put that the writer must send.

        The writer must not execute a checkpoint between its check of ``pending`` and this call. A frame that is
        put in between would not wake it.
        """
        # Rescheduling the task is cheaper than a trio.Event for each wait, since only one task waits here.
        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def wake(self) -> None:
        """Wake the writer if it waits."""
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        # The cancelled task is rescheduled by trio. ``wake`` must not reschedule it a second time.
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _call_writer(self) -> None:
        self.direct = False
        if self._writer is not None:
            self.wake()

    async def flush_some(self) -> None:
        """Write some of what waits. When everything is written, frames are sent directly again.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self._handshake is not None:
            await self._flush_handshake(self._handshake)
        else:
            await self._flush_frames()
        # Checked after the send, not before: frames may have been put while it waited.
        self.direct = not self.ended and not self._has_frames()

    async def _flush_handshake(self, rest: memoryview) -> None:
        sent = await self._transport.send_some(rest)
        if self._handshake is rest:  # else ``abandon`` was called during the send
            self._handshake = rest[sent:] if sent < len(rest) else None
        self._tell_progress()

    async def _flush_frames(self) -> None:
        if self._begun is None:
            self._begin_batch()
        rest = self._begun
        if rest is None:
            return
        sent = await self._transport.send_some(rest)
        self.bytes_sent += sent
        if self._begun is rest:  # else ``abandon`` was called during the send
            # The next send must begin with the unsent bytes. TLS requires this: a record that the kernel accepted
            # in part must be completed with the same bytes.
            self._begun = rest[sent:] if sent < len(rest) else None
        if self._begun is None:
            self._begun_messages = 0
        self._tell_progress()

    def _begin_batch(self) -> None:
        if self._queue:
            data, self._begun_messages = self._queue.take_batch(CHUNK)
            self._begun = memoryview(data)

    # The final frames, when the connection task is cancelled...

    def final_frames(self, close: bytes) -> bytes:
        """End the outbox, and return everything that waits, followed by a Close.

        The caller must try to send it, call ``count_final_frames``, and then ``abandon``.

        Args:
            close: a Close frame, used if none was put.

        Returns:
            The bytes. Empty if the handshake was not answered, or if a cancelled send has sent an unknown part of
            a frame (``Transport.torn``), so that no frame can follow.
        """
        # A Close that was put is in the queue or in the begun batch, so there is no second one.
        last = b"" if self.ended else close
        self.ended, self.direct = True, False
        if self._transport.torn or self.corked:
            return b""
        return b"".join((self._handshake or b"", self._begun or b"", self.queue.final_frames(last)))
