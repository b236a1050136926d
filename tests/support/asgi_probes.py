"""What the handlers of a framework tell a test, and what they wait for."""

from __future__ import annotations

import pytest
import trio


class Probe:
    """What happened in an app, in order.

    Attributes:
        notes: what happened.
        gate: what handlers wait for. The test sets it.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.gate = trio.Event()
        self._changed = trio.Event()

    def note(self, text: str) -> None:
        """Add a note. Call it in a task of trio."""
        self.notes.append(text)
        self._changed.set()
        self._changed = trio.Event()

    def note_in_thread(self, text: str) -> None:
        """Add a note. Call it in a worker thread."""
        trio.from_thread.run_sync(self.note, text)

    async def noted(self, text: str) -> None:
        """Wait until there is a note."""
        while text not in self.notes:
            await self._changed.wait()


@pytest.fixture
def probe() -> Probe:
    """The probe of a test, which its app gets."""
    return Probe()


class Crowd:
    """Handlers that wait until enough of them run at the same time."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = trio.Event()

    async def join(self) -> None:
        """Wait for the others."""
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
        await self._complete.wait()
