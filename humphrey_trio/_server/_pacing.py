"""What keeps one connection from costing the others: deadlines that are swept, and a count of work done.

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


class Deadline:
    """The moment until which a connection may go on as it does, set by assignment.

    Attributes:
        at: the moment, in seconds of trio's clock; infinity for none.
        expire: called by the server's sweep when the moment has passed; set before ``at`` is. It must not raise.
    """

    __slots__ = ("at", "expire")

    expire: Callable[[], None]

    def __init__(self) -> None:
        self.at = inf


class Pace:
    """Counts what was done since the last full checkpoint, over all connections of a server."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages = 0
        self._bytes = 0

    def spent(self, size: int) -> bool:
        """Count one message of so many bytes; True when it is time to let the other tasks run."""
        self._messages += 1
        self._bytes += size
        if self._messages < _MESSAGES_PER_TURN and self._bytes < _BYTES_PER_TURN:
            return False
        self._messages = self._bytes = 0
        return True
