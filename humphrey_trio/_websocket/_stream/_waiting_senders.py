"""The senders of one WebSocket that wait for room in its outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class WaitingSenders:
    """A queue of senders. Created when a sender waits for the first time, because most streams need none."""

    __slots__ = ("_order", "_progress")

    def __init__(self) -> None:
        # Held by the first sender. Only it looks for room: otherwise a small frame could overtake a large one, and
        # the large one might wait forever.
        self._order = trio.StrictFIFOLock()
        self._progress: trio.Event | None = None

    @property
    def waiting(self) -> bool:
        """Whether a sender waits."""
        return self._order.locked()

    async def wait(self, may_go: Callable[[], bool]) -> None:
        """Wait until it is the turn of the caller and a condition is met. A checkpoint.

        Args:
            may_go: the condition. It is checked at once, and after each ``tell_progress``.
        """
        async with self._order:
            while not may_go():
                if self._progress is None:
                    self._progress = trio.Event()
                await self._progress.wait()

    def tell_progress(self) -> None:
        """Let the first sender check its condition."""
        if self._progress is not None:
            self._progress.set()
            self._progress = None
