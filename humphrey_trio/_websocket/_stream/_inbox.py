"""The incoming side of one WebSocket: decoding, reading ahead, and which task reads.

At most one task reads from the transport at any time. ``next`` is the only way to get a message. The inbox does
not change the state of the stream: it calls its owner, the connection, for control frames and at the end of the
input.

The owner is an argument of each call and not an attribute. References in both directions would be a cycle, which
delays the release of memory until a garbage collection.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from ..._server._clock import SWEEP_INTERVAL
from ..._server._transport import RECEIVE_SIZE
from .._causes import CONNECTION_BROKE, NO_CLOSE
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

# The fairness counts the bytes only of messages that are longer than this. Of shorter ones, the limit of 64
# messages in a turn is reached before that of the bytes.
_SHORT = 1024
# The maximum number of bytes of one receive while more than that of a frame is missing.
_LONG_RECEIVE = 256 * 1024


class Reader(enum.Enum):
    """The kind of task that reads a stream."""

    NONE = enum.auto()
    """None yet: the stream was not used, and may wait in a hook."""
    CALLERS = enum.auto()
    """The tasks of the user that call ``receive``, during the call."""
    SESSION = enum.auto()
    """The session of an application, until the end of the stream."""
    TASK = enum.auto()
    """A task that reads ahead until the end of the stream. ``receive`` takes messages from it."""


# Saves the attribute lookups of the enums for each message.
_NONE, _CALLERS, _SESSION, _TASK = Reader.NONE, Reader.CALLERS, Reader.SESSION, Reader.TASK
_OPENING = Phase.OPENING


class Owner(Protocol):
    """The part of the connection that its inbox uses."""

    lifecycle: Lifecycle

    def handle_control(self, event: Event, /) -> None:
        """Handle an event that is not a message."""
        ...

    def end_without_close(self, cause: str, /) -> None:
        """Handle the end of the input without a Close."""
        ...

    def detect_disconnect(self) -> None:
        """Check whether the peer has disconnected, while no task reads."""
        ...


class Inbox:
    """The incoming side of one stream.

    Args:
        transport: the transport that receives the bytes.
        fairness: limits the work between two checkpoints, so that one connection does not block the others.
        limits: the limits of messages and of reading ahead.
        deflate: the negotiated compression, or None.
        counters: the counters of pauses and of unhandled messages.

    Attributes:
        decoder: decodes the frames.
        fairness: as the argument. Messages that are sent count as well.
        reader: the kind of task that reads.
        receiving: whether a task is in ``receive``.
        waiting: whether the reader waits for bytes at this moment.
        messages_received, bytes_received: the numbers of received messages and bytes.
    """

    __slots__ = (
        "_ahead",
        "_change",
        "_counters",
        "_max_ahead",
        "_transport",
        "bytes_received",
        "decoder",
        "fairness",
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
        self.fairness = fairness
        self._counters = counters
        self._max_ahead = limits.max_read_ahead
        self.decoder = Decoder(limits, deflate=deflate)
        self.reader = Reader.NONE
        self.receiving = False
        self.waiting = False
        self.messages_received = 0
        self.bytes_received = 0
        self._ahead: deque[Message] | None = None  # created at first use: most streams never read ahead
        self._change: trio.Event | None = None  # see ``tell_change``

    # The reader...

    @property
    def is_taken(self) -> bool:
        """Whether the stream has or had a reader."""
        return self.reader is not _NONE

    @property
    def is_attended(self) -> bool:
        """Whether another task reads until the Close of the peer, so that the connection task need not."""
        return self.receiving or self.reader in (_SESSION, _TASK)

    @property
    def is_busy(self) -> bool:
        """Whether ``receive`` is not allowed, because another task receives."""
        return self.receiving or self.reader is _SESSION

    def take(self) -> None:
        """Make the tasks of the user the reader, if there is none yet."""
        if self.reader is _NONE:
            self.reader = _CALLERS

    def give_to(self, reader: Reader) -> None:
        """Set the reader."""
        self.reader = reader

    def begin_receive(self) -> None:
        """Begin a call of ``receive``."""
        if self.reader is _NONE:
            self.reader = _CALLERS
        self.receiving = True

    def end_receive(self) -> None:
        """End a call of ``receive``."""
        self.receiving = False

    # Messages...

    def limit(self, limits: StreamLimits) -> None:
        """Set other limits, before the first frame is decoded."""
        self._max_ahead = limits.max_read_ahead
        self.decoder.limit(limits)

    def receive_bytes(self, data: bytes) -> None:
        """Add received bytes."""
        self.bytes_received += len(data)
        self.decoder.receive(data)

    def next(self, owner: Owner, *, include_buffered: bool = False) -> Awaitable[Message | None]:
        """Get the next message, from those that were read ahead or from the transport.

        There is no checkpoint between taking a message and returning it, so a cancellation loses no message.

        Args:
            owner: the connection.
            include_buffered: whether to return also messages that had been received, but not decoded, when the
                connection broke.

        Returns:
            An awaitable of the message, or of None if there are no further messages.
        """
        # Not a coroutine function: another coroutine would cost every idle stream 200 bytes.
        if self.reader is _TASK:
            return self._wait_for_reader(owner)
        if self._ahead:
            return self._next_ahead()
        return self._read(owner, include_buffered)

    async def _next_ahead(self) -> Message | None:
        return self._queue_ahead().popleft()  # no task reads ahead, so no task waits for room

    async def _wait_for_reader(self, owner: Owner) -> Message | None:
        ahead = self._queue_ahead()
        # Before the message is taken: a checkpoint after that could be cancelled, and the message would be lost.
        await trio.lowlevel.checkpoint()
        while not ahead and owner.lifecycle.phase.reads:
            await self._wait_for_change()
        if not ahead:
            return None
        message = ahead.popleft()
        self.tell_change()  # there is room for another message
        return message

    async def _read(self, owner: Owner, include_buffered: bool) -> Message | None:
        lifecycle, decoder = owner.lifecycle, self.decoder
        # A stream may be used before its 101 is sent, for example by an app that takes it out of a hook at once.
        while lifecycle.phase is _OPENING:
            await self._wait_for_change()
        while include_buffered or lifecycle.phase.reads:
            if self.fairness.spent(0):
                await trio.lowlevel.checkpoint()
                if not (include_buffered or lifecycle.phase.reads):
                    break  # the connection broke during the checkpoint: the buffered rest is not wanted
            event = decoder.next()
            if event is None:
                if include_buffered:
                    break  # nothing more can be received
                # Not a coroutine of its own, for the reason in ``next``.
                self.waiting = True
                try:
                    missing = decoder.missing
                    if missing > RECEIVE_SIZE:
                        data = await self._transport.receive_some(min(missing, _LONG_RECEIVE))
                    else:
                        data = await self._transport.receive_some()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    owner.end_without_close(CONNECTION_BROKE)
                    break
                finally:
                    self.waiting = False
                if data:
                    self.receive_bytes(data)
                else:
                    owner.end_without_close(NO_CLOSE)
            elif isinstance(event, Message):
                if len(event.data) > _SHORT:
                    self.fairness.count(len(event.data))  # the size after decompression
                if include_buffered or lifecycle.phase.is_open:
                    self.messages_received += 1
                    return event
                # Sent before the peer received our Close: discarded. Only its bytes are counted.
            elif not include_buffered:
                owner.handle_control(event)
        return None

    # Reading ahead...

    @property
    def read_ahead_count(self) -> int:
        """The number of messages that were read ahead."""
        return 0 if self._ahead is None else len(self._ahead)

    @trio.lowlevel.enable_ki_protection
    async def read_ahead(self, owner: Owner, *, detect_disconnect: bool) -> None:
        """Read messages until the end of the stream, and queue them for the receiver.

        Pauses while ``max_read_ahead`` messages are queued. A cancellation loses no message.

        Args:
            owner: the connection.
            detect_disconnect: whether to detect a disconnect during a pause. If False, the caller must do that.
        """
        ahead = self._queue_ahead()
        while True:
            if len(ahead) >= self._max_ahead:
                await self._pause(owner, detect_disconnect)
            message = await self._read(owner, False)
            if message is None:
                return self.tell_change()
            # No checkpoint since ``_read`` took the message from the decoder, so a cancellation loses none.
            ahead.append(message)
            self.tell_change()

    async def _pause(self, owner: Owner, detect_disconnect: bool) -> None:
        """Wait until there is room for a message, or until the stream is closed."""
        self._counters.count_pause()
        while self.read_ahead_count >= self._max_ahead and owner.lifecycle.phase.is_open:
            with trio.move_on_after(SWEEP_INTERVAL) as interval:
                await self._wait_for_change()
            if interval.cancelled_caught and detect_disconnect:
                owner.detect_disconnect()

    def put_back(self, message: Message) -> None:
        """Put a message before those that were read ahead."""
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

    # One event for all conditions: the handshake is answered, a message or room for one is available, the stream
    # has ended. Each wait is in a loop that checks its own condition. An event for each condition would cost
    # memory.

    def tell_change(self) -> None:
        """Wake the waiting tasks, so that they check their conditions."""
        if self._change is not None:
            self._change.set()
            self._change = None

    async def _wait_for_change(self) -> None:
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()
