"""The state of the event loop: it waits, or it runs a step of a task.

An instrument of trio. It must never raise, and never takes a lock: the event loop writes one attribute, and the
thread of the watchdog reads it.
"""

from __future__ import annotations

from time import monotonic

import trio


class Steps(trio.abc.Instrument):
    """Notes the step that a run of trio executes.

    Attributes:
        since: when the step began that runs now, by ``time.monotonic``, which also identifies it; None while the
            event loop waits for I/O or a deadline.
    """

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by trio before each step of a task."""
        self.since = monotonic()

    def before_io_wait(self, timeout: float) -> None:
        """Called by trio when every task that could run has done so."""
        self.since = None
