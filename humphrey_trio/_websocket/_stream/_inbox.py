"""The incoming side of one WebSocket: bytes to messages, those that are read ahead, and who reads.

At most one task reads from the transport at any time, and there is one way to get the next message: ``next``. The
inbox decides nothing about the stream. It tells its owner, the connection, what the peer has sent beside messages
and that the bytes have ended.

The owner is given with each call and not kept: references in both directions would be a cycle, and the memory of a
stream has to be free as soon as it ends.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from ..._server._clock import SWEEP_INTERVAL
from .._message import Message
from .._protocol._decoder import Decoder
from ._phase import Phase

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..._server._fairness import Fairness
    from ..._server._transport import Transport
    from .._counters import Counters
    from .._limits import StreamLimits
    from .._protocol._decoder import Event
    from .._protocol._deflate import PerMessageDeflate
    from ._phase import Lifecycle

# Messages up to here count for the fairness as messages only: 64 of them end a turn before their bytes would.
_SHORT = 1024


class Reader(enum.Enum):
    """Who reads a stream."""

    NOBODY = enum.auto()
    """The stream waits to be taken, perhaps in a hook."""
    CALLERS = enum.auto()
    """Tasks of a user, when they call ``receive``; between two calls nobody does."""
    SESSION = enum.auto()
    """The session of an application, up to the end of the stream."""
    TASK = enum.auto()
    """A task that reads ahead up to the end of the stream; ``receive`` waits for it."""


# An enumeration looks its members up anew each time, which every message would feel.
_NOBODY, _CALLERS, _SESSION, _TASK = Reader.NOBODY, Reader.CALLERS, Reader.SESSION, Reader.TASK
_OPENING = Phase.OPENING


class Owner(Protocol):
    """The connection, as its inbox sees it."""

    lifecycle: Lifecycle

    def handle_control(self, event: Event, /) -> None:
        """Do what anything but a message asks for."""
        ...

    def lose(self, cause: str, /) -> None:
        """The bytes have ended without a Close."""
        ...

    def look_for_peer(self) -> None:
        """Notice that the peer has left, where no task reads."""
        ...


class Inbox:
    """The incoming side of one stream.

    Args:
        transport: where the bytes come from.
        fairness: counts the work of all connections, so that one that floods does not hold up the others.
        limits: bounds of messages and of what is read ahead.
        deflate: what was agreed on compression, or None.
        counters: where pauses and messages without a handler are counted.

    Attributes:
        decoder: what takes the bytes apart.
        reader: who reads.
        receiving: whether a call of ``receive`` is under way.
        waiting: whether the reader waits for bytes at this moment.
        messages_received, bytes_received: what has arrived so far.
    """

    __slots__ = (
        "_ahead",
        "_change",
        "_counters",
        "_fairness",
        "_max_ahead",
        "_transport",
        "bytes_received",
        "decoder",
        "messages_received",
        "reader",
        "receiving",
        "waiting",
    )

    def __init__(
        self,
        transport: Transport,
        fairness: Fairness,
        limits: StreamLimits,
        deflate: PerMessageDeflate | None,
        counters: Counters,
    ) -> None:
        self._transport = transport
        self._fairness = fairness
        self._counters = counters
        self._max_ahead = limits.max_read_ahead
        self.decoder = Decoder(limits, deflate=deflate)
        self.reader = Reader.NOBODY
        self.receiving = False
        self.waiting = False
        self.messages_received = 0
        self.bytes_received = 0
        self._ahead: deque[Message] | None = None  # most streams never read ahead
        self._change: trio.Event | None = None  # set when something changes that a task waits for

    # Who reads...

    @property
    def is_taken(self) -> bool:
        """Whether anybody reads the stream, or has used it."""
        return self.reader is not _NOBODY

    @property
    def is_attended(self) -> bool:
        """Whether a task reads up to the end of the stream, so that the connection task need not."""
        return self.receiving or self.reader in (_SESSION, _TASK)

    @property
    def is_busy(self) -> bool:
        """Whether a user's task may not receive now."""
        return self.receiving or self.reader is _SESSION

    def take(self) -> None:
        """Belong to the tasks of a user, if nobody has taken the stream yet."""
        if self.reader is _NOBODY:
            self.reader = _CALLERS

    def give_to(self, reader: Reader) -> None:
        """Belong to another reader."""
        self.reader = reader

    def begin_receive(self) -> None:
        """Be read by the calling task until ``end_receive``."""
        if self.reader is _NOBODY:
            self.reader = _CALLERS
        self.receiving = True

    def end_receive(self) -> None:
        """Be read by the calling task no more."""
        self.receiving = False

    # Messages...

    def limit(self, limits: StreamLimits) -> None:
        """Use other bounds from here on; for a stream whose first frame was not read yet."""
        self._max_ahead = limits.max_read_ahead
        self.decoder.limit(limits)

    def receive_bytes(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self.bytes_received += len(data)
        self.decoder.receive(data)

    def next(self, owner: Owner, *, left: bool = False) -> Awaitable[Message | None]:
        """The next message: one that was read ahead, or one that is read in the calling task.

        No checkpoint separates a message from its receiver, so that a cancellation loses none.

        Args:
            owner: the connection.
            left: whether to give also what had arrived, but was not decoded, when the connection broke.

        Returns:
            An awaitable of the message; of None when no further message counts.
        """
        # No coroutine around those below: it would cost every idle stream 200 bytes, and every message a step.
        if self.reader is _TASK:
            return self._wait_for_reader(owner)
        if self._ahead:
            return self._next_ahead()
        return self._read(owner, left)

    async def _next_ahead(self) -> Message | None:
        return self._queue_ahead().popleft()  # no task reads ahead any more that could wait for the room

    async def _wait_for_reader(self, owner: Owner) -> Message | None:
        ahead = self._queue_ahead()
        await trio.lowlevel.checkpoint()
        while not ahead and owner.lifecycle.phase.reads:
            await self._wait_for_change()
        if not ahead:
            return None
        message = ahead.popleft()
        self.tell_change()
        return message

    async def _read(self, owner: Owner, left: bool) -> Message | None:
        lifecycle, decoder = owner.lifecycle, self.decoder
        while lifecycle.phase is _OPENING:
            await self._wait_for_change()
        while left or lifecycle.phase.reads:
            if self._fairness.spent(0):
                await trio.lowlevel.checkpoint()
                if not (left or lifecycle.phase.reads):
                    break  # The connection broke meanwhile; what is not decoded yet is only for ``left``.
            event = decoder.next()
            if event is None:
                if left:
                    break
                # Not in a coroutine of its own, for the reason given in ``next``.
                self.waiting = True
                try:
                    data = await self._transport.receive_some()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    owner.lose("the connection broke")
                    break
                finally:
                    self.waiting = False
                if data:
                    self.receive_bytes(data)
                else:
                    owner.lose("the connection ended without a Close")
            elif isinstance(event, Message):
                if len(event.data) > _SHORT:
                    self._fairness.count(len(event.data))  # what it has inflated to
                if left or lifecycle.phase.is_open:
                    self.messages_received += 1
                    return event
                # It was sent before the peer has seen our Close; it is discarded, and its bytes are counted.
            elif not left:
                owner.handle_control(event)
        return None

    # Reading ahead...

    @property
    def read_ahead_count(self) -> int:
        """Messages that were read ahead."""
        return 0 if self._ahead is None else len(self._ahead)

    @trio.lowlevel.enable_ki_protection
    async def read_ahead(self, owner: Owner, *, look_for_peer: bool) -> None:
        """Read for a receiver that is busy, until the end of the stream; pause while enough is read.

        Cancelled, it has lost no message. The peer's end is noticed in a pause as well.

        Args:
            owner: the connection.
            look_for_peer: whether to look in a pause if the peer has left; else the caller does that.
        """
        ahead = self._queue_ahead()
        while True:
            if len(ahead) >= self._max_ahead:
                await self._pause(owner, look_for_peer)
            message = await self._read(owner, False)
            if message is None:
                return self.tell_change()
            ahead.append(message)
            self.tell_change()

    async def _pause(self, owner: Owner, look_for_peer: bool) -> None:
        """Wait until fewer messages are read ahead, or until the stream is closed."""
        self._counters.count_pause()
        while self.read_ahead_count >= self._max_ahead and owner.lifecycle.phase.is_open:
            with trio.move_on_after(SWEEP_INTERVAL) as interval:
                await self._wait_for_change()
            if interval.cancelled_caught and look_for_peer:
                owner.look_for_peer()

    def put_back(self, message: Message) -> None:
        """Let a message that was received wait, in front of those that are read ahead."""
        self._queue_ahead().appendleft(message)

    def drop_ahead(self) -> None:
        """Drop the messages that were read ahead, and count them as unhandled."""
        if self._ahead:
            self._counters.count_unhandled(len(self._ahead))
            self._ahead.clear()

    def _queue_ahead(self) -> deque[Message]:
        if self._ahead is None:
            self._ahead = deque()
        return self._ahead

    # One event for all that is waited for here: the 101, a message, room for one, the end. Each wait is in a loop
    # that looks at its own condition.

    def tell_change(self) -> None:
        """Let the tasks that wait look again."""
        if self._change is not None:
            self._change.set()
            self._change = None

    async def _wait_for_change(self) -> None:
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()
