"""Log which function blocks the event loop, from a thread that looks at it four times in the time allowed.

It never touches the tasks that it watches, and its thread ends before ``watch_event_loop`` returns.
"""

from __future__ import annotations

import logging
import threading
from math import inf
from time import monotonic
from typing import NoReturn

import trio

from ._stack import Stack
from ._steps import Steps
from ._suspensions import Suspensions

logger = logging.getLogger("humphrey_trio.watchdog")

_LOOKS = 4


@trio.lowlevel.enable_ki_protection
async def watch_event_loop(
    longest: float = 1.0, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Log the function that blocks the event loop: it calls something that waits, or it computes for too long.

    While one task runs, no other task of this run does, and no client is served. A task that runs for ``longest``
    seconds or more without a checkpoint is logged by the logger ``humphrey_trio.watchdog`` at level WARNING, while
    it runs, with its stack. Each blocking is logged at most once, and each line of the application that is blocked
    at most once. Time in which the process was suspended, or a debugger waits for its user, does not count.

    It watches every task of this run of trio until it is cancelled. It costs 0.7 microseconds for each step of a
    task, and a thread.

    Args:
        longest: seconds that a task may run without a checkpoint. A blocking is logged after this time and a
            quarter of it at the latest.
        task_status: for ``nursery.start``. Started when it watches.

    Raises:
        ValueError: ``longest`` is not a positive, finite number.

    Example:
        ``await nursery.start(watch_event_loop, 0.5)``
    """
    if not 0 < longest < inf:
        raise ValueError(f"longest is a positive number of seconds, not {longest!r}")
    steps = Steps()
    watchdog = Watchdog(longest, steps, threading.get_ident())
    thread = threading.Thread(target=watchdog.run, name="humphrey_trio.watchdog", daemon=True)
    trio.lowlevel.add_instrument(steps)
    thread.start()
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        watchdog.stop()
        trio.lowlevel.remove_instrument(steps)
        with trio.CancelScope(shield=True):  # the thread writes a line at most
            await trio.to_thread.run_sync(thread.join, limiter=trio.CapacityLimiter(1))


class Watchdog:
    """Looks at the event loop from another thread.

    Args:
        longest: seconds that a step may take.
        steps: the steps of the event loop.
        loop: the identifier of its thread.
    """

    __slots__ = ("_done", "_longest", "_loop", "_reported", "_since", "_steps", "_stopped", "_suspended")

    def __init__(self, longest: float, steps: Steps, loop: int) -> None:
        self._longest = longest
        self._steps = steps
        self._loop = loop
        self._stopped = threading.Event()
        self._since: float | None = None  # the step at the last look
        self._suspended = 0.0  # seconds of it that do not count
        self._done = False  # whether there is nothing more to report of it
        self._reported: set[tuple[str, int]] = set()  # files and lines: as many as the application has

    def run(self) -> None:
        """Look at the event loop until ``stop`` is called."""
        interval = self._longest / _LOOKS
        suspensions = Suspensions(interval)
        while not self._stopped.wait(interval):
            self._look(suspensions.lap())

    def stop(self) -> None:
        """Let ``run`` return at once. May be called at any time, from any thread."""
        self._stopped.set()

    def _look(self, suspended: float) -> None:
        since = self._steps.since
        if since is None:
            return
        if since != self._since:
            self._since, self._suspended, self._done = since, 0.0, False
        self._suspended += suspended
        blocked = monotonic() - since - self._suspended
        if blocked >= self._longest and not self._done:
            self._done = self._report(since, blocked)

    def _report(self, since: float, blocked: float) -> bool:
        """Log what blocks. Returns False if the step has ended meanwhile."""
        stack = Stack.of_thread(self._loop)
        if self._steps.since != since or not stack.calls:
            return False
        blocking = stack.blocking
        place = (blocking.file, blocking.line)
        if place not in self._reported and not stack.in_debugger:
            self._reported.add(place)
            logger.warning(
                "the event loop has been blocked for %.3g s by %s, and no client is served meanwhile. "
                "If the function waits or computes, call it by trio.to_thread.run_sync. "
                "Its stack, with the innermost call last:\n%s",
                blocked,
                blocking,
                stack,
            )
        return True
