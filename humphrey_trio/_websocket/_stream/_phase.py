"""The state machine of one WebSocket: its phases, the transitions between them, and what each phase allows.

This module does no I/O. Only ``Lifecycle.move`` changes the phase. The connection calls it, and executes the
effects.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._close_record import Ending


class Phase(enum.Enum):
    """A phase of a stream.

    Attributes:
        is_open: whether users may send, and whether messages of the peer are delivered.
        reads: whether frames of the peer are read. In OPENING, readers wait until the handshake is answered.
        awaits_close: whether the close deadline applies: ``Timeouts.close`` seconds, restarted whenever the peer
            accepts bytes. Else ``Timeouts.write`` applies.
    """

    #           is_open  reads  awaits_close
    OPENING = ("opening", True, True, False)
    """The handshake is not answered. Frames wait in the outbox; nothing is read."""
    OPEN = ("open", True, True, False)
    """Both sides may send."""
    CLOSING = ("closing", False, True, True)
    """We have closed. Messages of the peer are discarded until its Close (RFC 6455, section 7.1.2)."""
    FAILED = ("failed", False, False, True)
    """The peer violated the protocol or a limit. Our Close is sent, and nothing is read (section 7.1.7)."""
    CLOSED = ("closed", False, False, False)
    """Nothing is read: the Close or the end of file of the peer was received, the connection broke, or the
    handshake was refused. Queued frames may still be written."""

    __hash__ = object.__hash__  # that of Enum is a function in Python, which each step would call

    def __init__(self, label: str, is_open: bool, reads: bool, awaits_close: bool) -> None:
        self.is_open = is_open
        self.reads = reads
        self.awaits_close = awaits_close


class Step(enum.Enum):
    """An event that can change the phase."""

    ANSWER = enum.auto()
    """The 101 response was put into the outbox."""
    CLOSE = enum.auto()
    """This side closes."""
    PEER_CLOSE = enum.auto()
    """The Close of the peer was received."""
    FAILURE = enum.auto()
    """The peer violated the protocol or a limit."""
    END = enum.auto()
    """The end of file was received, the connection broke or was cut off, or a deadline for the peer has passed."""

    __hash__ = object.__hash__


# A step that is not listed does not change the phase.
TRANSITIONS: dict[Phase, dict[Step, Phase]] = {
    # A close before the 101 refuses the handshake: the peer receives an HTTP response instead of a Close.
    Phase.OPENING: {Step.ANSWER: Phase.OPEN, Step.CLOSE: Phase.CLOSED, Step.END: Phase.CLOSED},
    Phase.OPEN: {
        Step.CLOSE: Phase.CLOSING,
        Step.PEER_CLOSE: Phase.CLOSED,
        Step.FAILURE: Phase.FAILED,
        Step.END: Phase.CLOSED,
    },
    # A violation is not answered by a second Close, but ends reading: what follows cannot be decoded.
    Phase.CLOSING: {Step.PEER_CLOSE: Phase.CLOSED, Step.FAILURE: Phase.FAILED, Step.END: Phase.CLOSED},
    # Nothing is read, so the Close of the peer is not found. The connection lingers until its end of file.
    Phase.FAILED: {Step.END: Phase.CLOSED},
    Phase.CLOSED: {},
}


class Lifecycle:
    """The phase of one stream, and the note of the first close.

    Args:
        now: the time of the handshake, for the age in the close record.

    Attributes:
        phase: the current phase.
        ending: the note of the first close; None while the stream is open.
        began: the time of the handshake.
    """

    __slots__ = ("_on_over", "began", "ending", "phase")

    def __init__(self, now: float) -> None:
        self.phase = Phase.OPENING
        self.ending: Ending | None = None
        self.began = now
        self._on_over: Callable[[], None] | None = None

    def move(self, step: Step) -> bool:
        """Change the phase.

        Returns:
            False if the step does not change the current phase.
        """
        after = TRANSITIONS[self.phase].get(step)
        if after is None:
            return False
        self.phase = after
        return True

    def note_ending(self, ending: Ending) -> None:
        """Note the first close. Does nothing after the first call."""
        if self.ending is None:
            self.ending = ending

    def note_answered(self) -> None:
        """Note that the peer has sent a Close frame, after the first close was noted."""
        if self.ending is not None:
            self.ending.note_answered()

    def when_over(self, on_over: Callable[[], None]) -> None:
        """Set the function that is called when nothing more is read. It replaces the previous one."""
        self._on_over = on_over

    def tell_over(self) -> None:
        """Call the function of ``when_over``, because nothing more is read."""
        if self._on_over is not None:
            # Remove the reference first: the function may refer to objects that refer to this one.
            on_over, self._on_over = self._on_over, None
            on_over()
