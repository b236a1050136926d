"""What waits to be sent on one WebSocket: how much it is, whether there is room for more, and what may be dropped.

This module sends nothing. The outbox puts frames here, and writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._send_queue import SendQueue
from ._waiting_senders import WaitingSenders

if TYPE_CHECKING:
    from .._counters import Counters
    from .._limits import StreamLimits
    from .._policies import FullPolicy


class Backlog:
    """What waits to be sent on one stream. The base of its ``Outbox``: an object of its own would cost memory.

    Args:
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
        "bytes_sent",
        "corked",
        "direct",
        "ended",
        "messages_put",
    )

    bytes_sent: int
    messages_put: int

    def __init__(self, limits: StreamLimits, counters: Counters) -> None:
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

    def _drop_messages(self) -> None:
        if self._queue is not None:
            self._count_dropped(self._queue.drop_messages())

    def _count_dropped(self, messages: int) -> None:
        self.messages_put -= messages
        self._counters.count_dropped(messages)

    def _tell_progress(self) -> None:
        """Wake the first sender that waits: there may be room, or the outbox has ended."""
        if self._senders is not None:
            self._senders.tell_progress()

    def count_final_frames(self, size: int) -> None:
        """Count the final frames that were sent. ``abandon`` counts the others as dropped.

        Args:
            size: the number of bytes of ``final_frames`` that were sent.
        """
        if self._handshake is not None:
            size = max(0, size - len(self._handshake))
        self.bytes_sent += size
        self.queue.remove_sent(size - self._begun_bytes)
