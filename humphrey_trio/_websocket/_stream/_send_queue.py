"""The queue of the frames of one WebSocket that wait to be sent.

This module does no I/O and does not decode frames. The outbox puts frames into the queue, and writes the batches
that it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ._drop_order import DropOrder

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._policies import FullPolicy


class Batch(NamedTuple):
    """Frames that are taken from the queue together.

    Attributes:
        data: the concatenated frames; empty if there were none.
        messages: the number of messages among them.
    """

    data: bytes
    messages: int


class SendQueue:
    """The messages in the order in which they were put, each with a ticket; Ping and Pong; and the Close.

    Ping and Pong are sent before the messages. Only the latest of each waits: a Pong need answer only the latest
    of several Pings (RFC 6455, section 5.5.3). The Close is sent last (section 5.5.1).

    Only broadcasts may be dropped. The compressed frame of a broadcast does not depend on earlier messages, and
    the compressor is reset after it. So dropping one does not invalidate the frames after it.

    Attributes:
        messages: the frames of the messages by their tickets, in order. Read only.
        message_bytes: the number of bytes of the messages. Control frames are not counted, because there are at
            most three.
    """

    __slots__ = ("_close", "_control", "_drop_order", "_ticket", "message_bytes", "messages")

    def __init__(self) -> None:
        self._ticket = 0  # the ticket of the last message; the first is 1
        self.messages: dict[int, bytes] = {}
        self._control: dict[int, bytes] = {}  # the latest Ping and Pong, by the first byte of the frame
        self._close = b""
        self._drop_order: DropOrder | None = None  # created for the first message that may be dropped
        self.message_bytes = 0

    def __bool__(self) -> bool:
        """Whether any frame waits."""
        return bool(self.messages or self._close or self._control)

    def __len__(self) -> int:
        """The number of messages that wait."""
        return len(self.messages)

    # Putting frames...

    def put(self, frame: bytes) -> None:
        """Put the frame of a message after the others."""
        self._ticket += 1
        self.messages[self._ticket] = frame
        self.message_bytes += len(frame)

    def put_droppable(self, frame: bytes, policy: FullPolicy) -> None:
        """As ``put``, for a message that may be dropped as its policy says."""
        self.put(frame)
        if self._drop_order is None:
            self._drop_order = DropOrder()
        self._drop_order.add(self._ticket, policy)

    def put_control(self, frame: bytes) -> None:
        """Put a Ping or a Pong. It replaces one of the same kind."""
        self._control[frame[0]] = frame

    def put_close(self, frame: bytes) -> None:
        """Put the Close frame after everything."""
        self._close = frame

    # Dropping messages...

    def drop_for(self, policy: FullPolicy, fits: Callable[[int, int], bool]) -> int:
        """Drop the fewest messages that a policy allows, until a new message fits.

        Args:
            policy: the policy of the new message.
            fits: called with the number of bytes and of messages that would remain; returns whether the new
                message fits.

        Returns:
            The number of dropped messages. 0 if dropping all messages that the policy allows is not enough.
        """
        tickets: list[int] = []
        left = self.message_bytes
        for candidates in () if self._drop_order is None else self._drop_order.candidates(policy):
            tickets += candidates
            left -= sum(len(self.messages[ticket]) for ticket in candidates)
            if fits(left, len(self.messages) - len(tickets)):
                self._remove(tickets)
                return len(tickets)
        return 0

    def drop_messages(self) -> int:
        """Drop all messages, and return their number."""
        dropped = len(self.messages)
        self._remove_all()
        return dropped

    # Taking frames...

    def take_batch(self, size: int) -> Batch:
        """Take the next frames.

        Args:
            size: the maximum number of bytes of the messages. The first frame is taken whatever its size, and so
                are Ping, Pong, and the Close if no message remains.
        """
        frames = list(self._control.values())
        self._control.clear()
        messages = self._take_messages(frames, size)
        if not self.messages and self._close:
            frames.append(self._close)
            self._close = b""
        return Batch(frames[0] if len(frames) == 1 else b"".join(frames), messages)

    def _take_messages(self, frames: list[bytes], size: int) -> int:
        left = size - sum(map(len, frames))
        if self.message_bytes <= left:
            frames += self.messages.values()
            return self.drop_messages()
        tickets: list[int] = []
        for ticket, frame in self.messages.items():
            left -= len(frame)
            if frames and left < 0:  # the first frame is taken whatever its size, or it would wait forever
                break
            frames.append(frame)
            tickets.append(ticket)
        self._remove(tickets)
        return len(tickets)

    def final_frames(self, close: bytes) -> bytes:
        """Return all messages, followed by the queued Close, or by ``close`` if none is queued."""
        # Without Ping and Pong: the connection ends, so nothing depends on them.
        return b"".join((*self.messages.values(), self._close or close))

    def remove_sent(self, size: int) -> None:
        """Remove the messages that lie completely within the first ``size`` bytes, because they were sent."""
        tickets: list[int] = []
        for ticket, frame in self.messages.items():
            size -= len(frame)
            if size < 0:
                break
            tickets.append(ticket)
        self._remove(tickets)

    def _remove(self, tickets: list[int]) -> None:
        if len(tickets) == len(self.messages):
            self._remove_all()  # the usual case; the drop order need not forget each ticket
            return
        for ticket in tickets:
            self.message_bytes -= len(self.messages.pop(ticket))
            if self._drop_order is not None:
                self._drop_order.discard(ticket)

    def _remove_all(self) -> None:
        self.messages.clear()
        self.message_bytes = 0
        self._drop_order = None
