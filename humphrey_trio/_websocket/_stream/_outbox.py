"""The outgoing side of one WebSocket: whole frames, which go to the kernel at once or wait in a queue.

A frame is handed over whole or not at all. What the kernel does not take at once is written by one task, the
connection's. Only ``flush_some`` and ``wait_for_room`` wait for the peer. The outbox does not know what its frames
say, and never splits one or puts anything between the parts of one.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import trio

from ..._server._transport import CHUNK
from ._send_queue import SendQueue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._server._transport import Transport
    from .._counters import Counters
    from .._limits import StreamLimits
    from .._policies import FullPolicy


# What a writer sends in a turn at least, if its peer reads: one piece of a foreign stream. That takes two passes
# of the scheduler over TLS, and up to five where a stream hands each piece from task to task.
_TURN_BYTES = 16 * 1024
_TURN_PASSES = 8


class Outbox:
    """The outgoing side of one stream.

    It begins corked: frames gather until the handshake's answer is put before them. While nothing waits, a frame
    goes to the kernel directly. What the kernel leaves of it has begun, and what is put behind it waits in a
    ``SendQueue``, from which the writer takes the next batch when the one before has left. Nothing can be put
    behind a Close.

    Args:
        transport: where the frames go.
        limits: bounds of what waits.
        counters: where drops and waits are counted.

    Attributes:
        direct: whether nothing waits, so that a frame may go to the kernel at once.
        bytes_sent: bytes of frames that the kernel has taken.
        messages_put: messages that were handed over, without those that were dropped since.
        corked: whether the handshake's answer was not put yet.
        ended: whether the last frame was put.
    """

    __slots__ = (
        "_begun",
        "_begun_messages",
        "_counters",
        "_handshake",
        "_limits",
        "_progress",
        "_queue",
        "_room",
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
        # What waits, in the order in which it leaves; most streams never need the queue.
        self._handshake: memoryview | None = (
            None  # not counted anywhere: no frame, and nothing may drop or pass it
        )
        self._begun: memoryview | None = None
        self._begun_messages = 0
        self._queue: SendQueue | None = None
        self._stuck_at = -1  # ``bytes_sent`` when the writer had a turn and the peer took nothing
        self._writer: trio.lowlevel.Task | None = None  # while it waits for work
        self._progress: trio.Event | None = None  # set when room may have become free or the outbox has ended
        self._room: trio.StrictFIFOLock | None = None  # held by the sender that is the next to get room

    # What waits...

    @property
    def pending(self) -> bool:
        """Whether anything waits that may be written."""
        return not self.direct and not self.corked and self._has_frames()

    @property
    def queued_bytes(self) -> int:
        """Bytes of frames that wait."""
        return self._begun_bytes + (0 if self._queue is None else self._queue.message_bytes)

    @property
    def queued_messages(self) -> int:
        """Messages that wait, those that are being written among them."""
        return self._begun_messages + (0 if self._queue is None else len(self._queue))

    @property
    def queue(self) -> SendQueue:
        """What waits and has not begun."""
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
        """Use other bounds from here on."""
        self._limits = limits

    def has_room(self, size: int) -> bool:
        """Whether a frame of so many bytes may be put. An empty outbox takes one of any size."""
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

    def missing(self, size: int) -> int:
        """Bytes that have to be written before a frame of so many bytes may be put; 0 if it may, or never will."""
        if self.ended or self.has_room(size):
            return 0
        # Where the number of messages is the limit, the end of the piece that is being written makes room.
        queued_bytes = self.queued_bytes
        return min(queued_bytes, max(queued_bytes + size - self._limits.max_outbox_bytes, 1))

    @property
    def is_stuck(self) -> bool:
        """Whether nothing has been written since ``note_stuck``."""
        return self.bytes_sent == self._stuck_at

    def note_stuck(self) -> None:
        """Note that the writer had its turn, and that the peer took nothing."""
        self._stuck_at = self.bytes_sent

    def make_room(self, size: int, policy: FullPolicy) -> bool:
        """Drop as few waiting messages as a policy allows, until a frame of so many bytes may be put.

        Returns:
            False if dropping all that it allows would not be enough; then none is dropped.
        """
        begun = self._begun_bytes
        if self._queue is None or (begun and begun + size > self._limits.max_outbox_bytes):
            return False  # not even with an empty queue
        dropped = self._queue.drop_for(policy, lambda left, messages: self._fits(begun + left, messages, size))
        if not dropped:
            return False
        self._count_dropped(dropped)
        self._tell_progress()  # what was dropped may be larger than what is put
        return True

    async def wait_for_room(self, size: int) -> None:
        """Wait until a frame of so many bytes may be put, behind those who wait already, or until the end."""
        self._counters.count_wait()
        if self._room is None:
            self._room = trio.StrictFIFOLock()
        async with self._room:
            while not self.ended and not self.has_room(size):
                if self._progress is None:
                    self._progress = trio.Event()
                await self._progress.wait()

    @property
    def contended(self) -> bool:
        """Whether a sender waits for room already."""
        return self._room is not None and self._room.locked()

    # Putting frames...

    def put(self, frame: bytes) -> None:
        """Hand over a message's frame; the caller has looked at ``has_room`` and ``ended``.

        Raises:
            trio.BrokenResourceError: the peer is gone.
            trio.ClosedResourceError: the transport is closed.
        """
        if not self.direct:
            self.put_later(frame)
            return
        sent = self._transport.send_now(frame)
        self.messages_put += 1
        self.bytes_sent += sent
        if sent < len(frame):
            self._begin(frame, sent)
            self._begun_messages = 1

    def put_later(self, frame: bytes) -> None:
        """Hand over a message's frame that the writer sends in its next step, with those that come until then.

        Everything that is put behind it waits as well, so the order is kept.
        """
        self.messages_put += 1
        if self._queue is None:
            self._queue = SendQueue()
        self._queue.put(frame)
        self.direct = False
        if self._writer is not None:
            self.wake()

    def put_droppable(self, frame: bytes, policy: FullPolicy) -> None:
        """As ``put``, for a message that may be dropped while it waits; see ``make_room``."""
        if self.direct:
            self.put(frame)  # what has begun cannot be dropped any more
            return
        self.messages_put += 1
        self.queue.put_droppable(frame, policy)
        self._call_writer()

    def put_control(self, frame: bytes) -> None:
        """Hand over a Ping or a Pong; it replaces one that still waits.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self.direct:
            self._put_directly(frame)
        elif not self.ended:
            self.queue.put_control(frame)
            self._call_writer()

    def _put_directly(self, frame: bytes) -> None:
        """As ``put`` where nothing waits, for what is no message."""
        sent = self._transport.send_now(frame)
        self.bytes_sent += sent
        if sent < len(frame):
            self._begin(frame, sent)

    def _begin(self, frame: bytes, sent: int) -> None:
        """Leave the rest of a frame to the writer."""
        self._begun = memoryview(frame)[sent:]
        self._call_writer()

    # The two ends...

    def uncork(self, head: bytes) -> None:
        """Put the handshake's answer before everything, and let it flow.

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
        """Put the last frame behind what waits, or in the place of the messages that have not begun.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self.ended:
            return
        self.ended = True
        if drop_queue:
            self._drop_messages()
        if self.direct:
            self._put_directly(close)
        else:
            self.queue.put_close(close)
        self._call_writer()
        self._tell_progress()

    def abandon(self) -> None:
        """Drop everything: there is no peer any more."""
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
        """Wait until there is something to do: until ``wake``, or until a frame is put that has to wait.

        Parking the task costs less than an event for each wait would. Nothing may be awaited between a look at
        ``pending`` and this call, or what was put in between would be missed.
        """
        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def wake(self) -> None:
        """End the writer's wait, if it waits."""
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        # Cancelled, the task must not be rescheduled a second time by ``wake``.
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _call_writer(self) -> None:
        self.direct = False
        if self._writer is not None:
            self.wake()

    async def flush_some(self) -> None:
        """Write some of what waits; when all is written, frames may go out directly again.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self._handshake is not None:
            await self._flush_handshake(self._handshake)
        else:
            await self._flush_frames()
        self.direct = not self.ended and not self._has_frames()

    async def _flush_handshake(self, rest: memoryview) -> None:
        sent = await self._transport.send_some(rest)
        if self._handshake is rest:  # not abandoned meanwhile
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
        if self._begun is rest:  # not abandoned meanwhile
            # What was not taken is offered first the next time, which TLS demands of its caller: a record that was
            # taken in part has to be completed with the same bytes.
            self._begun = rest[sent:] if sent < len(rest) else None
        if self._begun is None:
            self._begun_messages = 0
        self._tell_progress()

    def _begin_batch(self) -> None:
        if self._queue:
            data, self._begun_messages = self._queue.take_batch(CHUNK)
            self._begun = memoryview(data)

    def _tell_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    # The last words of a connection task that is cancelled...

    def last_words(self, close: bytes) -> bytes:
        """Everything that waits and a Close behind it, unless one was put; empty if nothing may follow.

        The caller sends it, tells ``count_last_words`` how much was taken, and abandons the rest.
        """
        behind = b"" if self.ended else close
        self.ended, self.direct = True, False
        if self._transport.torn or self.corked:
            return b""
        return b"".join((self._handshake or b"", self._begun or b"", self.queue.last_words(behind)))

    def count_last_words(self, size: int) -> None:
        """Note that so many bytes of the last words were taken, so that ``abandon`` counts only the others."""
        if self._handshake is not None:
            size = max(0, size - len(self._handshake))
        self.bytes_sent += size
        self.queue.remove_sent(size - self._begun_bytes)


async def give_turns(waiting: Iterable[tuple[Outbox, int]]) -> None:
    """Let the writers of full outboxes run, as long as their peers read and there is no room yet.

    An outbox whose peer takes nothing in a turn is noted as stuck. The turns are counted by the bytes that are
    missing, so that a peer that takes a few bytes in each of them does not hold up the caller.

    Args:
        waiting: outboxes, and for each the size of the frame that it has to have room for.
    """
    full = [(outbox, size) for outbox, size in waiting if outbox.missing(size) and not outbox.is_stuck]
    turns = max((ceil(outbox.missing(size) / _TURN_BYTES) for outbox, size in full), default=0)
    for _ in range(turns + 1):
        full = [(outbox, size) for outbox, size in full if outbox.missing(size) and not outbox.is_stuck]
        if not full:
            return
        sent = [outbox.bytes_sent for outbox, _ in full]
        for _ in range(_TURN_PASSES):
            await trio.lowlevel.checkpoint()
        for (outbox, _), before in zip(full, sent, strict=True):
            if outbox.bytes_sent == before:
                outbox.note_stuck()
