"""Calls and cancellations at the n-th step of tasks: between two steps, a task waits at a checkpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import trio


class AtStep(trio.abc.Instrument):
    """Calls a function before the n-th step from now on. Use ``at_step`` to install it.

    Attributes:
        fired: whether the function was called.
    """

    def __init__(self, step: int, call: Callable[[], object], task: trio.lowlevel.Task | None = None) -> None:
        self.fired = False
        self._left = step
        self._call = call
        self._task = task

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._task is None or task is self._task:
            self._left -= 1
            if self._left == 0:
                self.fired = True
                self._call()


@contextmanager
def at_step(step: int, call: Callable[[], object], task: trio.lowlevel.Task | None = None) -> Generator[AtStep]:
    """Call a function before the n-th step of a block.

    Args:
        step: 1 for the next step.
        call: the function, which usually cancels something.
        task: counts only the steps of this task; None for the steps of all tasks.
    """
    instrument = AtStep(step, call, task)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield instrument
    finally:
        trio.lowlevel.remove_instrument(instrument)


class TurnCounter:
    """Counts the turns of its own task, which are the times that other tasks let it run.

    Attributes:
        turns: the number of turns since ``run`` was started.
    """

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        """Count until the task is cancelled."""
        while True:
            await trio.lowlevel.checkpoint()
            self.turns += 1


async def cancelled_at(step: int, function: Callable[[], Awaitable[object]], *, resumed: bool = False) -> bool:
    """Run a function, and cancel it at the n-th time that its task lets other tasks run.

    Exceptions of the function are raised.

    Args:
        step: 1 for the first time that it lets other tasks run.
        function: the async function.
        resumed: whether to cancel it only when it may run again, which it notices at its next checkpoint.

    Returns:
        Whether the function has reached this step. If not, every checkpoint was tried.
    """
    scope = trio.CancelScope()
    instrument = _CancelAt(step, trio.lowlevel.current_task(), scope, resumed)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope:
            await function()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.steps >= step


class _CancelAt(trio.abc.Instrument):
    def __init__(self, step: int, task: trio.lowlevel.Task, scope: trio.CancelScope, resumed: bool) -> None:
        self.steps = 0
        self._step = step
        self._task = task
        self._scope = scope
        self._resumed = resumed

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.steps += 1
            if self.steps == self._step and not self._resumed:
                self._scope.cancel()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and self.steps == self._step and self._resumed:
            self._scope.cancel()
