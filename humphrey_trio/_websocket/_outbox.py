"""What waits to be sent on one WebSocket, in whole frames.

Frames are handed over whole or not at all. Whatever the kernel does not take at once is written by one task,
the connection's. The outbox itself never waits for a peer except in ``flush_some``, and does not know what its
frames say.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import trio

from .._server._transport import CHUNK
from ._droppables import Droppables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._server._transport import Transport
    from ._limits import StreamLimits
    from ._policies import FullPolicy
    from ._tally import Tally


# What a writer sends in a turn at least, if its peer reads: one piece of a foreign stream. That takes two passes
# of the scheduler over TLS, and up to five where a stream hands each piece from task to task.
_TURN_BYTES = 16 * 1024
_TURN_PASSES = 8


class Outbox:
    """The outgoing side of one stream.

    It begins corked: frames gather until the handshake's answer is put before them. Frames that cannot go out
    at once queue in order. A pong and a ping pass the queue, between two frames, and only the latest of each
    waits. A Close is the last frame; nothing can be put behind it.

    Attributes:
        direct: whether nothing waits, so that a frame may go to the kernel at once.
        bytes_sent: what the kernel has taken, without the handshake's answer.
    """

    __slots__ = (
        "_begun",
        "_begun_messages",
        "_close",
        "_corked",
        "_droppables",
        "_dropped",
        "_ended",
        "_head_left",
        "_lane",
        "_limits",
        "_progress",
        "_queue",
        "_queued_bytes",
        "_stuck_at",
        "_tally",
        "_ticket",
        "_transport",
        "_turn",
        "_writer",
        "bytes_sent",
        "direct",
    )

    def __init__(self, transport: Transport, limits: StreamLimits, tally: Tally) -> None:
        self._transport = transport
        self._limits = limits
        self._tally = tally
        self._corked = True
        self.direct = False
        self._ended = False  # whether the last frame was put
        self._ticket = 0  # of the last message that was put; the first is 1
        self._queue: dict[int, bytes] = {}  # by their tickets
        self._queued_bytes = 0  # in the queue and in what has begun
        self._head_left = 0  # bytes of the handshake's answer that wait; they count nowhere else
        self._begun: memoryview | None = None
        self._begun_messages = 0
        self._droppables: Droppables | None = None  # made for the first
        self._dropped = 0  # messages that have waited in vain
        self.bytes_sent = 0
        self._stuck_at = -1  # ``bytes_sent`` when a turn of the writer passed in which the peer took nothing
        self._lane: dict[int, bytes] = {}  # the latest control frame of each kind
        self._close: bytes | None = None
        self._writer: trio.lowlevel.Task | None = None  # while it waits for work
        self._progress: trio.Event | None = None  # whoever waits for room waits for it
        self._turn: trio.StrictFIFOLock | None = None  # and in this order

    # Putting frames...

    @property
    def corked(self) -> bool:
        """Whether the handshake's answer is still to come."""
        return self._corked

    @property
    def ended(self) -> bool:
        """Whether the last frame was put."""
        return self._ended

    @property
    def pending(self) -> bool:
        """Whether anything waits that may be written."""
        return not self.direct and not self._corked and self._has_frames()

    @property
    def queued_bytes(self) -> int:
        """Bytes of frames that wait."""
        return self._queued_bytes

    @property
    def queued_messages(self) -> int:
        """Messages that wait, those that are being written among them."""
        return len(self._queue) + self._begun_messages

    @property
    def messages_put(self) -> int:
        """Messages that were handed over, without those that were dropped since."""
        return self._ticket - self._dropped

    def limit(self, limits: StreamLimits) -> None:
        """Other bounds from here on."""
        self._limits = limits

    def has_room(self, size: int) -> bool:
        """Whether a frame of so many bytes may be put. An empty outbox takes one of any size."""
        return self.direct or self._fits(self._queued_bytes, len(self._queue), size)

    def _fits(self, queued_bytes: int, queued_messages: int, size: int) -> bool:
        limits = self._limits
        return not queued_bytes or (
            queued_bytes + size <= limits.max_outbox_bytes and queued_messages < limits.max_outbox_messages
        )

    def missing(self, size: int) -> int:
        """Bytes that have to be written before a frame of so many bytes may be put; 0 if it may, or never will."""
        if self._ended or self.has_room(size):
            return 0
        # Where the number of messages is the limit, the end of the piece that is being written makes room.
        return min(self._queued_bytes, max(self._queued_bytes + size - self._limits.max_outbox_bytes, 1))

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
        begun = 0 if self._begun is None else len(self._begun) - self._head_left
        if begun and begun + size > self._limits.max_outbox_bytes:
            return False  # not even with an empty queue
        victims: list[int] = []
        queued_bytes = self._queued_bytes
        for tickets in self._droppables.candidates(policy) if self._droppables is not None else ():
            victims += tickets
            queued_bytes -= sum(len(self._queue[ticket]) for ticket in tickets)
            if self._fits(queued_bytes, len(self._queue) - len(victims), size):
                self._drop(victims)
                self._tell_progress()  # more may have gone than comes
                return True
        return False

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
        self._ticket += 1
        self.bytes_sent += sent
        if sent < len(frame):
            self._begin(frame, sent)
            self._begun_messages = 1

    def put_later(self, frame: bytes) -> None:
        """Hand over a message's frame that the writer sends in its next step, with those that come until then."""
        self._ticket += 1
        self._queue[self._ticket] = frame
        self._queued_bytes += len(frame)
        self._call_writer()

    def put_droppable(self, frame: bytes, policy: FullPolicy) -> None:
        """As ``put``, for a message that may be dropped while it waits; see ``make_room``."""
        self.put(frame)
        if self._ticket in self._queue:
            if self._droppables is None:
                self._droppables = Droppables()
            self._droppables.add(self._ticket, policy)

    def _put_apart(self, frame: bytes) -> None:
        """As ``put`` where nothing waits, for what is no message."""
        sent = self._transport.send_now(frame)
        self.bytes_sent += sent
        if sent < len(frame):
            self._begin(frame, sent)

    def _begin(self, frame: bytes, sent: int) -> None:
        """Leave the rest of a frame to the writer."""
        self._begun = memoryview(frame)[sent:]
        self._queued_bytes = len(self._begun)
        self._call_writer()

    async def wait_for_room(self, size: int) -> None:
        """Wait until a frame of so many bytes may be put, behind those who came first. Ends with the outbox."""
        self._tally.count_wait()
        if self._turn is None:
            self._turn = trio.StrictFIFOLock()
        async with self._turn:
            while not self._ended and not self.has_room(size):
                if self._progress is None:
                    self._progress = trio.Event()
                await self._progress.wait()

    @property
    def contended(self) -> bool:
        """Whether somebody waits for room already."""
        return self._turn is not None and self._turn.locked()

    def put_control(self, frame: bytes) -> None:
        """Hand over a ping or a pong; it replaces one that still waits (RFC 6455, section 5.5.3)."""
        if self.direct:
            self._put_apart(frame)
        elif not self._ended:
            self._lane[frame[0]] = frame
            self._call_writer()

    def end(self, close: bytes, *, drop_queue: bool = False) -> None:
        """Put the last frame behind what waits, or in the place of the messages that have not begun.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self._ended:
            return
        self._ended = True
        if drop_queue:
            self._drop_queue()
        if self.direct:
            self._put_apart(close)
        else:
            self._close = close
        self._call_writer()
        self._tell_progress()

    def abandon(self) -> None:
        """Drop everything: there is no peer any more."""
        self._ended = True
        self.direct = False
        self._begun = self._close = None
        self._begun_messages = 0
        self._lane.clear()
        self._drop_queue()
        self._call_writer()
        self._tell_progress()

    def uncork(self, head: bytes) -> None:
        """Put the handshake's answer before everything, and let it flow."""
        self._corked = False
        self.direct = not self._ended and not self._has_frames()
        sent = self._transport.send_now(head) if self.direct else 0
        if sent < len(head):
            self._begun = memoryview(head)[sent:]  # so that nothing passes it, nor is it dropped
            self._head_left = len(self._begun)
            self._call_writer()

    # Writing, by the connection task...

    async def wait_for_work(self) -> None:
        """Park until there is something to do; whoever calls ``wake`` or puts what cannot go out ends it."""
        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def wake(self) -> None:
        """Let the writer look up."""
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def flush_some(self) -> None:
        """Write some of what waits; when all is written, frames may go out directly again.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as ``put``.
        """
        if self._begun is None:
            self._begun = self._next_batch()
        if self._begun is not None:
            rest = self._begun
            sent = await self._transport.send_some(rest)
            sent_of_frames = self.count_sent(sent)
            if self._begun is rest:  # nobody abandoned it meanwhile
                self._begun = rest[sent:] if sent < len(rest) else None
                self._queued_bytes -= sent_of_frames
            if self._begun is None:
                self._begun_messages = 0
            self._tell_progress()
        self.direct = not self._ended and not self._has_frames()

    def count_sent(self, size: int) -> int:
        """The kernel has taken so many bytes of what had to wait; how many were of frames."""
        head = min(size, self._head_left)
        self._head_left -= head
        self.bytes_sent += size - head
        return size - head

    def last_words(self, close: bytes) -> bytes:
        """Everything that waits and a Close behind it, unless one was put; empty if nothing may follow.

        Whoever sends it tells ``count_last_words``, and abandons the rest.
        """
        if self._transport.torn or self._corked:
            return b""
        begun = bytes(self._begun) if self._begun is not None else b""
        if not self._ended:
            self._close = close
        words = b"".join((begun, *self._queue.values(), self._close or b""))
        self._ended, self.direct = True, False
        return words

    def count_last_words(self, size: int) -> None:
        """So many bytes of the last words were taken; what is not among them is still to be dropped."""
        self.count_sent(size)
        left = size if self._begun is None else size - len(self._begun)
        sent: list[int] = []
        for ticket, frame in self._queue.items():
            left -= len(frame)
            if left < 0:
                break
            sent.append(ticket)
        self._take(sent)

    def _next_batch(self) -> memoryview | None:
        """The next frames to be written, as many as make a chunk; the lane for control frames first."""
        batch = list(self._lane.values())
        self._lane.clear()
        size = sum(map(len, batch))
        self._queued_bytes += size
        if self._queued_bytes <= CHUNK:
            self._begun_messages = len(self._queue)
            batch += self._queue.values()
            self._take_all()
        else:
            self._begun_messages = self._fill_up(batch, size)
        if not self._queue and self._close is not None:
            batch.append(self._close)
            self._queued_bytes += len(self._close)
            self._close = None
        if not batch:
            return None
        return memoryview(batch[0] if len(batch) == 1 else b"".join(batch))

    def _fill_up(self, batch: list[bytes], size: int) -> int:
        """Take messages until they make a chunk; how many."""
        taken: list[int] = []
        for ticket, frame in self._queue.items():
            size += len(frame)
            if batch and size > CHUNK:
                break
            batch.append(frame)
            taken.append(ticket)
        self._take(taken)
        return len(taken)

    def _has_frames(self) -> bool:
        return bool(self._begun is not None or self._queue or self._close or self._lane)

    def _take(self, tickets: list[int]) -> None:
        """Take messages out of the queue."""
        if len(tickets) == len(self._queue):
            self._take_all()
            return
        for ticket in tickets:
            del self._queue[ticket]
            if self._droppables is not None:
                self._droppables.discard(ticket)

    def _take_all(self) -> None:
        self._queue.clear()
        self._droppables = None

    def _drop(self, tickets: list[int]) -> None:
        self._queued_bytes -= sum(len(self._queue[ticket]) for ticket in tickets)
        self._take(tickets)
        self._dropped += len(tickets)
        self._tally.count_dropped(len(tickets))

    def _drop_queue(self) -> None:
        self._drop(list(self._queue))
        self._queued_bytes = 0 if self._begun is None else len(self._begun) - self._head_left

    def _call_writer(self) -> None:
        self.direct = False
        if self._writer is not None:
            self.wake()

    def _tell_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None


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
