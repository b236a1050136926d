"""The progress line on standard error: what runs, and how long it will take."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts the cells; what is left is estimated from what they were expected to take and what they took."""

    def __init__(self, durations: list[float]) -> None:
        self._cells = len(durations)
        self._expected = sum(durations)
        self._done = 0
        self._expected_done = 0.0
        self._started = time.monotonic()
        self._one_line = sys.stderr.isatty()

    def starts(self, what: str) -> None:
        gone = time.monotonic() - self._started
        times = f"{_clock(gone)} gone, about {_clock(self._left(gone))} to go"
        self._write(f"[{self._done + 1}/{self._cells}] {what}; {times}")

    def ends(self, duration: float) -> None:
        """A cell has ended that was expected to take so long."""
        self._done += 1
        self._expected_done += duration

    def finish(self) -> None:
        if self._one_line:
            self._write("")

    def _write(self, line: str) -> None:
        """On a terminal each line takes the place of the one before."""
        sys.stderr.write(f"\r{line}\x1b[K" if self._one_line else f"{line}\n")
        sys.stderr.flush()

    def _left(self, gone: float) -> float:
        pace = gone / self._expected_done if self._expected_done else 1.0
        return (self._expected - self._expected_done) * pace


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
