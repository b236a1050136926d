"""The clock of the deadlines of connections.

Deadlines are plain numbers that are checked periodically (a sweep): to set the deadline of a cancel scope for each
message would cost more than to handle the message.
"""

from __future__ import annotations

from math import inf

import trio

#: Seconds between two checks of all deadlines. This is the resolution of the timeouts.
SWEEP_INTERVAL = 0.25


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
