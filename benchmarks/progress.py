"""The progress line on standard error: the current measurement and the remaining time."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts measurements, and estimates the remaining time.

    Args:
        durations: the expected seconds of each measurement.
    """

    def __init__(self, durations: list[float]) -> None:
        self._count = len(durations)
        self._expected = sum(durations)
        self._done = 0
        self._expected_done = 0.0
        self._started = time.monotonic()
        self._one_line = sys.stderr.isatty()

    def starts(self, what: str) -> None:
        elapsed = time.monotonic() - self._started
        times = f"{_clock(elapsed)} elapsed, about {_clock(self._remaining(elapsed))} remaining"
        self._write(f"[{self._done + 1}/{self._count}] {what}; {times}")

    def ends(self, duration: float) -> None:
        """Note that a measurement with this expected duration has ended."""
        self._done += 1
        self._expected_done += duration

    def finish(self) -> None:
        if self._one_line:
            self._write("")

    def _write(self, line: str) -> None:
        """Write a line. On a terminal it replaces the previous one."""
        sys.stderr.write(f"\r{line}\x1b[K" if self._one_line else f"{line}\n")
        sys.stderr.flush()

    def _remaining(self, elapsed: float) -> float:
        pace = elapsed / self._expected_done if self._expected_done else 1.0
        return (self._expected - self._expected_done) * pace


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
