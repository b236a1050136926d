"""Virtual time stands still while the library works in threads, so that a timeout does not expire meanwhile.

trio lets a ``MockClock`` jump when all tasks wait, also if one of them waits for a thread.
"""

from __future__ import annotations

from math import inf

import trio
import trio.testing
from trio.lowlevel import RunVar

from .._thread_limiters import computing_limiter, file_limiter

_holds: RunVar[bool] = RunVar("the clock of this run is held", default=False)


def hold_clock() -> None:
    """Hold the clock of this run whenever a thread of the library is busy, if the clock is a ``MockClock``.

    It lasts until the end of the run. Another call has no effect, and neither has one outside trio.
    """
    if not trio.lowlevel.in_trio_run() or _holds.get():
        return
    _holds.set(True)
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        trio.lowlevel.add_instrument(_Hold(clock))


class _Hold(trio.abc.Instrument):
    """Sets ``autojump_threshold`` of a clock to infinity while a thread of the library is busy.

    A thread begins in a step of its task, and its end is noticed in a step of a task, too.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._limiters = file_limiter(), computing_limiter()
        self._threshold: float | None = None  # while the clock is held: what it had before

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Hold or release the clock."""
        busy = any(limiter.borrowed_tokens for limiter in self._limiters)
        if busy and self._threshold is None:
            self._threshold = self._clock.autojump_threshold
            self._clock.autojump_threshold = inf
        elif not busy and self._threshold is not None:
            self._clock.autojump_threshold = self._threshold
            self._threshold = None
