"""Tell for how long the process was suspended: stopped by a signal or a tracer, or with the machine."""

from __future__ import annotations

import time


class Suspensions:
    """Measures the laps of a thread that sleeps for one interval between two calls of ``lap``.

    A lap that took longer was a suspension, as far as the process has not used the CPU in it. A thread that
    computes without releasing the GIL delays the call of ``lap`` as well, but it uses the CPU.

    Args:
        interval: seconds between two calls.
    """

    __slots__ = ("_cpu", "_interval", "_wall")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def lap(self) -> float:
        """Return for how many seconds the process was suspended since the last call."""
        wall, cpu = time.monotonic(), time.process_time()
        suspended = (wall - self._wall) - max(self._interval, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        return max(suspended, 0.0)
