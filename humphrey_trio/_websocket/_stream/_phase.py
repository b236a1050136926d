"""The life of one WebSocket as a table: its phases, the steps between them, and what each phase allows.

Pure. Only ``Lifecycle.move`` changes a phase; the connection calls it and does what the change asks for.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._close_record import Ending


class Phase(enum.Enum):
    """Where a stream stands between its handshake and its end.

    Attributes:
        is_open: whether users may send, and whether messages of the peer are delivered.
        reads: whether frames of the peer are read; before the handshake is answered, the reader waits.
        awaits_close: whether the peer has ``Timeouts.close`` seconds, counted anew from each byte that it takes,
            to receive our Close. Else it has ``Timeouts.write``.
    """

    #           is_open  reads  awaits_close
    OPENING = ("opening", True, True, False)
    """The handshake is not answered. Frames gather in the outbox; nothing is read."""
    OPEN = ("open", True, True, False)
    """Both sides may send."""
    CLOSING = ("closing", False, True, True)
    """We have closed. The peer's messages are read and discarded up to its Close (RFC 6455, section 7.1.2)."""
    FAILED = ("failed", False, False, True)
    """The peer broke the protocol or a limit: it gets our Close, and is not read (RFC 6455, section 7.1.7)."""
    CLOSED = ("closed", False, False, False)
    """Nothing more is read: the peer's Close or end of file has arrived, the connection broke, or the handshake
    was refused. What waits may still be written."""

    def __init__(self, label: str, is_open: bool, reads: bool, awaits_close: bool) -> None:
        self.is_open = is_open
        self.reads = reads
        self.awaits_close = awaits_close


class Step(enum.Enum):
    """What moves a stream from one phase to the next."""

    ANSWER = enum.auto()
    """The 101 was put into the outbox."""
    CLOSE = enum.auto()
    """This side closes."""
    PEER_CLOSE = enum.auto()
    """The peer's Close has arrived."""
    FAILURE = enum.auto()
    """The peer has sent what cannot be accepted."""
    END = enum.auto()
    """The peer sends no more, the connection broke or was cut off, or nobody waits for the peer any longer."""


# A step that is not listed changes nothing: the first to close decides, and what is over stays over.
TRANSITIONS: dict[Phase, dict[Step, Phase]] = {
    # Closed before the 101, the handshake is refused: the peer gets an HTTP response instead of a Close.
    Phase.OPENING: {Step.ANSWER: Phase.OPEN, Step.CLOSE: Phase.CLOSED, Step.END: Phase.CLOSED},
    Phase.OPEN: {
        Step.CLOSE: Phase.CLOSING,
        Step.PEER_CLOSE: Phase.CLOSED,
        Step.FAILURE: Phase.FAILED,
        Step.END: Phase.CLOSED,
    },
    Phase.CLOSING: {Step.PEER_CLOSE: Phase.CLOSED, Step.FAILURE: Phase.FAILED, Step.END: Phase.CLOSED},
    Phase.FAILED: {Step.END: Phase.CLOSED},
    Phase.CLOSED: {},
}


class Lifecycle:
    """The phase of one stream, and the note of its end.

    Args:
        now: the time at which the stream begins, for the age in its close record.

    Attributes:
        phase: where the stream stands.
        ending: who closed it first, and why; None while it is open.
        began: the time at which it began.
    """

    __slots__ = ("_on_over", "began", "ending", "phase")

    def __init__(self, now: float) -> None:
        self.phase = Phase.OPENING
        self.ending: Ending | None = None
        self.began = now
        self._on_over: Callable[[], None] | None = None

    def move(self, step: Step) -> bool:
        """Take a step; False if it changes nothing in this phase."""
        after = TRANSITIONS[self.phase].get(step)
        if after is None:
            return False
        self.phase = after
        return True

    def note_ending(self, ending: Ending) -> None:
        """Note who closed first, and why; later notes change nothing."""
        if self.ending is None:
            self.ending = ending

    def when_over(self, on_over: Callable[[], None]) -> None:
        """Call a function when nothing more is read, in place of the one that was given before."""
        self._on_over = on_over

    def tell_over(self) -> None:
        """Nothing more is read."""
        if self._on_over is not None:
            # Forgotten first: it may refer to objects that refer to this one.
            on_over, self._on_over = self._on_over, None
            on_over()
