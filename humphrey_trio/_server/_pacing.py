"""What keeps one connection from costing the others: a leash with a deadline on it, and a count of work done.

Both are plain numbers, because they stand on the quick path: setting a cancel scope's deadline or taking a
checkpoint for every message would cost more than handling it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

#: Seconds between two looks at the deadlines: the precision of every timeout that is swept.
SWEEP_INTERVAL = 0.25

_MESSAGES_PER_TURN = 64
_BYTES_PER_TURN = 64 * 1024


class Leash:
    """What a server holds a connection by: until when it may go on as it does, and the wish that it ends.

    Attributes:
        at: that moment, in seconds of trio's clock; infinity for none. Set by assignment.
        expire: called by the server's sweep when the moment has passed; set before ``at`` is. It must not raise.
        draining: whether the server ends gracefully, so that nothing new may be begun.
        drain: called when that begins. It must not raise.
    """

    __slots__ = ("at", "drain", "draining", "expire")

    expire: Callable[[], None]
    drain: Callable[[], None]

    def __init__(self, draining: bool) -> None:
        self.at = inf
        self.draining = draining

    def let_go(self) -> None:
        """Forget the connection, which has ended and refers to this, so that its memory is free at once."""
        self.expire = self.drain = _do_nothing


def _do_nothing() -> None: ...


class Pace:
    """Counts what was done since the last full checkpoint, over all connections of a server."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages = 0
        self._bytes = 0

    def count(self, size: int) -> None:
        """Count so many bytes, for the next question."""
        self._bytes += size

    def spent(self, size: int) -> bool:
        """Count one message of so many bytes; True when it is time to let the other tasks run."""
        self._messages += 1
        self._bytes += size
        if self._messages < _MESSAGES_PER_TURN and self._bytes < _BYTES_PER_TURN:
            return False
        self._messages = self._bytes = 0
        return True
