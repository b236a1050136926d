"""The frames of one WebSocket that wait to be sent, and the order in which they leave.

Pure: it writes nothing, waits for nothing, and does not know what its frames say. The outbox decides what goes in,
and writes what comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ._drop_index import DropIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._policies import FullPolicy


class Batch(NamedTuple):
    """Frames that leave the queue together.

    Attributes:
        data: the frames, one behind the other; empty if there were none.
        messages: how many of them are messages.
    """

    data: bytes
    messages: int


class SendQueue:
    """Messages in the order in which they were put, each with a ticket; control frames; and the Close.

    A Ping or a Pong leaves in front of the messages, and only the latest of each kind waits (RFC 6455, section
    5.5.3: a Pong may answer the latest of several Pings). The Close leaves last (section 5.5.1).

    Only broadcasts are put as droppable, and a compressed one refers to nothing before it, so that dropping
    messages never corrupts what the peer inflates.

    Attributes:
        messages: the frames of the messages that wait, by their tickets, in order; to be read only.
        message_bytes: bytes of the messages that wait. Control frames and the Close are not bounded, since there
            are at most three of them.
    """

    __slots__ = ("_close", "_control", "_drop_index", "_ticket", "message_bytes", "messages")

    def __init__(self) -> None:
        self._ticket = 0  # of the last message; the first is 1
        self.messages: dict[int, bytes] = {}  # by their tickets
        self._control: dict[int, bytes] = {}  # the latest of each kind, by its first byte
        self._close = b""
        self._drop_index: DropIndex | None = None  # made for the first message that may be dropped
        self.message_bytes = 0

    def __bool__(self) -> bool:
        """Whether any frame waits."""
        return bool(self.messages or self._close or self._control)

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self.messages)

    @property
    def droppable(self) -> set[int]:
        """The tickets of the messages that may be dropped."""
        return set() if self._drop_index is None else self._drop_index.tickets()

    # Putting frames...

    def put(self, frame: bytes) -> None:
        """Put a message's frame behind the others."""
        self._ticket += 1
        self.messages[self._ticket] = frame
        self.message_bytes += len(frame)

    def put_droppable(self, frame: bytes, policy: FullPolicy) -> None:
        """As ``put``, for a message that may be dropped for others as its policy says."""
        self.put(frame)
        if self._drop_index is None:
            self._drop_index = DropIndex()
        self._drop_index.add(self._ticket, policy)

    def put_control(self, frame: bytes) -> None:
        """Put a Ping or a Pong in the place of one of its kind that waits."""
        self._control[frame[0]] = frame

    def put_close(self, frame: bytes) -> None:
        """Put the Close behind everything."""
        self._close = frame

    # Dropping messages...

    def drop_for(self, policy: FullPolicy, fits: Callable[[int, int], bool]) -> int:
        """Drop as few messages as a policy allows, until another one fits.

        Args:
            policy: that of the other message.
            fits: asked with the bytes and the number of the messages that would still wait.

        Returns:
            How many were dropped: none if dropping all that the policy allows would not be enough.
        """
        tickets: list[int] = []
        left = self.message_bytes
        for candidates in () if self._drop_index is None else self._drop_index.candidates(policy):
            tickets += candidates
            left -= sum(len(self.messages[ticket]) for ticket in candidates)
            if fits(left, len(self.messages) - len(tickets)):
                self._remove(tickets)
                return len(tickets)
        return 0

    def drop_messages(self) -> int:
        """Drop all messages; how many."""
        dropped = len(self.messages)
        self._remove_all()
        return dropped

    # Taking frames...

    def take_batch(self, size: int) -> Batch:
        """Take the frames that leave next: about so many bytes, but at least one frame if any waits.

        The Close is taken with the last message only, whatever the size.
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
            if frames and left < 0:
                break
            frames.append(frame)
            tickets.append(ticket)
        self._remove(tickets)
        return len(tickets)

    def last_words(self, close: bytes) -> bytes:
        """All messages, and behind them the Close that waits; or, where there is none, this one."""
        return b"".join((*self.messages.values(), self._close or close))

    def remove_sent(self, size: int) -> None:
        """Remove the messages that are whole within the first bytes of the queue, since those were sent."""
        tickets: list[int] = []
        for ticket, frame in self.messages.items():
            size -= len(frame)
            if size < 0:
                break
            tickets.append(ticket)
        self._remove(tickets)

    def _remove(self, tickets: list[int]) -> None:
        if len(tickets) == len(self.messages):
            self._remove_all()
            return
        for ticket in tickets:
            self.message_bytes -= len(self.messages.pop(ticket))
            if self._drop_index is not None:
                self._drop_index.discard(ticket)

    def _remove_all(self) -> None:
        self.messages.clear()
        self.message_bytes = 0
        self._drop_index = None
