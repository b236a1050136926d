"""The seeded scheduler, cancellation at a step, and a watch for work without progress."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import trio

#: The number of steps of all tasks at one virtual time that counts as a busy loop.
MAX_STEPS = 30_000


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed the order of tasks and the random numbers of the library.

    trio has no public way to seed its scheduler. This is the only use of a private name here.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        _seed_scheduler(True, seed)
        yield
    finally:
        _seed_scheduler(False, None)
        random.setstate(state)


def _seed_scheduler(deterministic: bool, seed: int | None) -> None:
    scheduler: Any = trio._core._run
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING, _ = deterministic, scheduler._r.seed(seed)


class ProgressWatch(trio.abc.Instrument):
    """Counts the steps of tasks, and cancels a run in which tasks run while virtual time does not pass.

    Attributes:
        steps: the steps of the whole run.
        most: the maximum number of steps at one time.
        stuck: the tasks that ran without progress; empty if there were none.
    """

    def __init__(self) -> None:
        self.steps = self.most = self._here = 0
        self.stuck = ""
        self.scope: trio.CancelScope | None = None
        self._now = -1.0
        self._names: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        now = trio.current_time()
        if now != self._now:
            self._now, self._here = now, 0
        self._here += 1
        self.most = max(self.most, self._here)
        if self._here > MAX_STEPS // 2 and not self.stuck:
            self._names[task.name] += 1
            if self._here > MAX_STEPS:
                self.stuck = ", ".join(f"{name} ({count} steps)" for name, count in self._names.most_common(3))
                if self.scope is not None:
                    self.scope.cancel()
