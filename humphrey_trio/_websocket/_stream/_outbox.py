"""The outgoing side of one WebSocket: whole frames, which are sent at once or wait in a queue.

A frame is put as a whole or not at all. The connection task is the only task that writes what the kernel does not
accept at once, so no frame is interrupted by another. Only ``flush_some`` and ``wait_for_room`` wait for the peer.
The outbox does not decode its frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..._server._transport import CHUNK
from ._send_queue import SendQueue
from ._waiting_senders import WaitingSenders

if TYPE_CHECKING:
    from ..._server._transport import Transport
    from .._counters import Counters
    from .._limits import StreamLimits
    from .._policies import FullPolicy


class Outbox:
    """The outgoing side of one stream.

    At first it is corked: frames wait until the response of the handshake is put before them. Then, while nothing
    waits, a frame is sent directly. The part that the kernel does not accept is the begun frame. Frames that are
    put after it wait in a ``SendQueue``, from which the writer takes a batch whenever the previous one is written.
    No frame can be put after a Close (RFC 6455, section 5.5.1).

    Args:
        transport: the transport that sends the frames.
        limits: the limits of what waits.
        counters: the counters of dropped messages and waits.

    Attributes:
        direct: whether nothing waits, so that a frame can be sent directly.
        bytes_sent: the number of bytes of frames that the kernel accepted.
        messages_put: the number of messages that were put and not dropped.
        corked: whether the response of the handshake was not put yet.
        ended: whether the last frame was put.
    """

    __slots__ = (
        "_begun",
        "_begun_messages",
        "_counters",
        "_handshake",
        "_limits",
        "_queue",
        "_senders",
        "_stuck_at",
        "_transport",
        "_writer",
        "bytes_sent",
        "corked",
        "direct",
        "ended",
        "messages_put",
    )

    def __init__(self, transport: Transport, limits: StreamLimits, counters: Counters) -> None:
        self._transport = transport
        self._limits = limits
        self._counters = counters
        self.corked = True
        self.direct = False
        self.ended = False
        self.messages_put = 0
        self.bytes_sent = 0
        # What waits, in the order in which it is sent. The rest of the handshake is no frame: it is not counted,
        # cannot be dropped, and no control frame is sent before it.
        self._handshake: memoryview | None = None
        self._begun: memoryview | None = None  # cannot be dropped: a part of it may be sent
        self._begun_messages = 0
        self._queue: SendQueue | None = None  # most streams never need it
        self._stuck_at = -1  # ``bytes_sent`` when the writer had a turn and the peer accepted nothing
        self._writer: trio.lowlevel.Task | None = None  # set while it waits for work
        self._senders: WaitingSenders | None = None  # created when the first sender waits for room

    # What waits...

    @property
    def pending(self) -> bool:
        """Whether there is anything to write."""
        return not self.direct and not self.corked and self._has_frames()

    @property
    def queued_bytes(self) -> int:
        """The number of bytes of messages that wait, including those that are being written."""
        return self._begun_bytes + (0 if self._queue is None else self._queue.message_bytes)

    @property
    def queued_messages(self) -> int:
        """The number of messages that wait, including those that are being written."""
        return self._begun_messages + (0 if self._queue is None else len(self._queue))

    @property
    def queue(self) -> SendQueue:
        """The queue of frames of which no byte was sent. Created at the first access."""
        if self._queue is None:
            self._queue = SendQueue()
        return self._queue

    @property
    def _begun_bytes(self) -> int:
        return 0 if self._begun is None else len(self._begun)

    def _has_frames(self) -> bool:
        return bool(self._handshake is not None or self._begun is not None or self._queue)

    # Room...

    def limit(self, limits: StreamLimits) -> None:
        """Set other limits for frames that are put from now on."""
        self._limits = limits

    def has_room(self, size: int) -> bool:
        """Whether a frame of ``size`` bytes may be put. An empty outbox accepts any size."""
        if self.direct:
            return True
        begun, queue = self._begun, self._queue
        queued_bytes = 0 if begun is None else len(begun)
        if queue is None:
            return self._fits(queued_bytes, 0, size)
        return self._fits(queued_bytes + queue.message_bytes, len(queue.messages), size)

    def _fits(self, queued_bytes: int, queued_messages: int, size: int) -> bool:
        limits = self._limits
        return not queued_bytes or (
            queued_bytes + size <= limits.max_outbox_bytes and queued_messages < limits.max_outbox_messages
        )

    def bytes_over(self, size: int) -> int:
        """Return how many bytes must be written before a frame of ``size`` bytes may be put.

        0 if it may be put now, or if the outbox has ended.
        """
        if self.ended or self.has_room(size):
            return 0
        # At least 1: if the number of messages is the limit, there is room when the begun batch is written.
        queued_bytes = self.queued_bytes
        return min(queued_bytes, max(queued_bytes + size - self._limits.max_outbox_bytes, 1))

    @property
    def is_stuck(self) -> bool:
        """Whether nothing was written since ``note_stuck``."""
        return self.bytes_sent == self._stuck_at

    def note_stuck(self) -> None:
        """Note that the writer had its turn, and that the peer accepted nothing."""
        self._stuck_at = self.bytes_sent

    def make_room(self, size: int, policy: FullPolicy) -> bool:
        """Drop the fewest messages that a policy allows, until a frame of ``size`` bytes may be put.

        Returns:
            Whether there is room. If dropping all messages that the policy allows is not enough, none is dropped.
        """
        begun = self._begun_bytes
        if self._queue is None or (begun and begun + size > self._limits.max_outbox_bytes):
            return False  # an empty queue would not be enough
        dropped = self._queue.drop_for(policy, lambda left, messages: self._fits(begun + left, messages, size))
        if not dropped:
            return False
        self._count_dropped(dropped)
        self._tell_progress()  # more may have been dropped than is put, so a sender may have room
        return True

    async def wait_for_room(self, size: int) -> None:
        """Wait until a frame of ``size`` bytes may be put, or until the outbox has ended.

        Senders get room in the order of their calls. A checkpoint.
        """
        self._counters.count_wait()
        if self._senders is None:
            self._senders = WaitingSenders()
        await self._senders.wait(lambda: self.ended or self.has_room(size))

    @property
    def contended(self) -> bool:
        """Whether a sender waits for room. Others must wait after it, even if their frames are smaller."""
        return self._senders is not None and self._senders.waiting

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

    def _drop_messages(self) -> None:
        if self._queue is not None:
            self._count_dropped(self._queue.drop_messages())

    def _count_dropped(self, messages: int) -> None:
        self.messages_put -= messages
        self._counters.count_dropped(messages)

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

    def _tell_progress(self) -> None:
        """Wake the first sender that waits: there may be room, or the outbox has ended."""
        if self._senders is not None:
            self._senders.tell_progress()

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

    def count_final_frames(self, size: int) -> None:
        """Count the final frames that were sent. ``abandon`` counts the others as dropped.

        Args:
            size: the number of bytes of ``final_frames`` that were sent.
        """
        if self._handshake is not None:
            size = max(0, size - len(self._handshake))
        self.bytes_sent += size
        self.queue.remove_sent(size - self._begun_bytes)
