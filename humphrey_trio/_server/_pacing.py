"""What keeps one connection from costing the others: a leash with a deadline on it, and a count of work done.

Both are plain numbers, because they stand on the quick path: setting a cancel scope's deadline or taking a
checkpoint for every message would cost more than handling it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

#: Seconds between two looks at the deadlines: the precision of every timeout that is swept.
SWEEP_INTERVAL = 0.25

_MESSAGES_PER_TURN = 64
_BYTES_PER_TURN = 64 * 1024


class SweepClock:
    """Seconds as the swept deadlines count them: time in which the process was held up is left out.

    A handler that blocks, a stopped process or a machine that sleeps keeps this side from reading, not its
    peers from sending. Their bytes wait in the kernel, and a deadline must not fire in front of them. A sweep
    notices the delay when it runs late; it sets the clock back by that much, and lets the readers run first.
    """

    __slots__ = ("_due", "_held_up")

    def __init__(self) -> None:
        self._held_up = 0.0
        self._due = inf  # when the next sweep is due

    def now(self) -> float:
        """The time of trio's clock, less all delays. It never goes back.

        It stands still from the moment at which a sweep is due until that runs: only then it is known whether
        that time counts, and a deadline that is set behind a delay must not include it.
        """
        return min(trio.current_time(), self._due) - self._held_up

    async def wait_for_sweep(self) -> float:
        """Sleep until the next sweep is due.

        Returns:
            The time at which to judge the deadlines. It has advanced by about one interval, however late the
            sweep runs.
        """
        due = self._due = trio.current_time() + SWEEP_INTERVAL
        await trio.sleep_until(due)
        now = trio.current_time()
        late = now - due
        self._due = now + SWEEP_INTERVAL
        if late > SWEEP_INTERVAL:
            self._held_up += late
        now = self.now()
        if late > SWEEP_INTERVAL:
            # If the delay was in the present pass of the scheduler, the next one looks at the sockets first. In
            # that pass or, without this delay, in the present one, their tasks run before or behind this one.
            for _ in range(2):
                await trio.lowlevel.checkpoint()
        return now


class Leash:
    """What a server holds a connection by: until when it may go on as it does, and the wish that it ends.

    Attributes:
        at: that moment, in seconds of the server's ``SweepClock``; infinity for none. Set by assignment.
        expire: called by the server's sweep when the moment has passed. It must not raise.
        draining: whether the server ends gracefully, so that nothing new may be begun.
        drain: called when that begins. It must not raise.
    """

    __slots__ = ("at", "drain", "draining", "expire")

    expire: Callable[[], None]
    drain: Callable[[], None]

    def __init__(self, draining: bool) -> None:
        self.at = inf
        self.draining = draining
        self.expire = self.drain = _do_nothing

    def hand_to(self, expire: Callable[[], None], drain: Callable[[], None]) -> None:
        """Call another part of the connection from now on.

        Args:
            expire, drain: see the attributes.
        """
        self.expire, self.drain = expire, drain

    def expire_at(self, moment: float) -> None:
        """Expire at a moment, in place of the one before; infinity for never."""
        self.at = moment

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
