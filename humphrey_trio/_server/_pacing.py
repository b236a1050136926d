"""Deadlines of connections, and fairness between them.

Both use plain numbers, because they are on the fast path: setting the deadline of a cancel scope, or executing a
checkpoint, for every message would cost more than handling the message.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

#: Seconds between two checks of all deadlines. This is the resolution of the timeouts.
SWEEP_INTERVAL = 0.25

_MESSAGES_PER_TURN = 64
_BYTES_PER_TURN = 64 * 1024


class SweepClock:
    """The clock of the deadlines. It does not count time in which the process was blocked.

    While the process is blocked (by a handler that does not await, by SIGSTOP, by a machine that is suspended), it
    does not read, but its peers may send. Their bytes are in the kernel, and a deadline must not expire before
    they are read. A sweep that runs late detects the delay, sets the clock back by it, and lets the tasks that
    read run before it checks the deadlines.
    """

    __slots__ = ("_delays", "_due")

    def __init__(self) -> None:
        self._delays = 0.0  # the sum of all delays, in seconds
        self._due = inf  # when the next sweep is due, in trio's time

    def now(self) -> float:
        """Return trio's time minus all delays, in seconds. It never decreases.

        It does not advance from the time when a sweep is due until the sweep runs. Only the sweep can tell whether
        that time was a delay, and a deadline that is set after a delay must not include it.
        """
        return min(trio.current_time(), self._due) - self._delays

    async def wait_for_sweep(self) -> float:
        """Sleep until the next sweep is due.

        Returns:
            The time with which to compare the deadlines. It has advanced by about one interval, even if the sweep
            runs late.
        """
        due = self._due = trio.current_time() + SWEEP_INTERVAL
        await trio.sleep_until(due)
        now = trio.current_time()
        late = now - due
        self._due = now + SWEEP_INTERVAL
        if late > SWEEP_INTERVAL:
            self._delays += late
        now = self.now()
        if late > SWEEP_INTERVAL:
            # Let every task run that has something to read. If the delay happened in the current scheduler pass,
            # trio polls the sockets before the next pass. The order of tasks within a pass is random, so the tasks
            # of these sockets have certainly run only after a second checkpoint.
            for _ in range(2):
                await trio.lowlevel.checkpoint()
        return now


class Leash:
    """The control of a server over a connection: its deadline, and the request to shut down.

    Attributes:
        at: the deadline, in seconds of the server's ``SweepClock``; infinity for none. Set by assignment.
        expire: called by the server when the deadline has passed. Must not raise.
        draining: whether a graceful shutdown has begun, so that no new request may be read.
        drain: called when a graceful shutdown begins. Must not raise.
    """

    __slots__ = ("at", "drain", "draining", "expire")

    expire: Callable[[], None]
    drain: Callable[[], None]

    def __init__(self, draining: bool) -> None:
        self.at = inf
        self.draining = draining
        self.expire = self.drain = _do_nothing

    def hand_to(self, expire: Callable[[], None], drain: Callable[[], None]) -> None:
        """Set the callbacks, when another part of the connection takes over.

        Args:
            expire, drain: see the attributes.
        """
        self.expire, self.drain = expire, drain

    def expire_at(self, moment: float) -> None:
        """Set the deadline.

        Args:
            moment: see ``at``.
        """
        self.at = moment

    def detach(self) -> None:
        """Drop the callbacks of a closed connection. This breaks a reference cycle, so its memory is freed now."""
        self.expire = self.drain = _do_nothing


def _do_nothing() -> None: ...


class Pace:
    """Counts the work since the last checkpoint, for all connections of a server.

    A task that handles buffered messages does not wait, so the others would not run. It executes a checkpoint when
    ``spent`` returns True.
    """

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages = 0
        self._bytes = 0

    def count(self, size: int) -> None:
        """Add bytes to the count.

        Args:
            size: bytes of work done.
        """
        self._bytes += size

    def spent(self, size: int) -> bool:
        """Count a message.

        Args:
            size: bytes of the message.

        Returns:
            Whether the task must execute a checkpoint now, so that other tasks can run.
        """
        self._messages += 1
        self._bytes += size
        if self._messages < _MESSAGES_PER_TURN and self._bytes < _BYTES_PER_TURN:
            return False
        self._messages = self._bytes = 0
        return True
