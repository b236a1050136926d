"""Reading ahead in place of a reader task that is busy with handlers.

So Pings are answered, and a disconnect of the peer is detected. The task that reads ahead runs no handlers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .._stream._connection import WebsocketConnection

# The number of consecutive checks that find the reader busy before a task reads ahead. A shorter handler needs no
# such task.
_BUSY_CHECKS = 2


class BusyReader:
    """A reader task that a check has found busy: for how many checks, and the task that reads ahead for it.

    Args:
        connection: the connection of the stream.
        nursery: the nursery for the task.
    """

    __slots__ = ("_checks", "_connection", "_nursery", "_task")

    def __init__(self, connection: WebsocketConnection, nursery: trio.Nursery) -> None:
        self._connection = connection
        self._nursery = nursery
        self._checks = 0
        self._task: ReadAheadTask | None = None

    @property
    def reads_ahead(self) -> bool:
        """Whether there is a task that reads ahead."""
        return self._task is not None

    def count(self, *, detect_disconnect: bool) -> None:
        """Count a check that has found the reader busy, and start to read ahead at the second one.

        Args:
            detect_disconnect: whether to detect a disconnect while reading ahead has paused.
        """
        # One check more before a disconnect is looked for: by then the new task has read what had arrived.
        self._checks += 1
        if self._checks >= _BUSY_CHECKS and self._task is None:
            self._task = ReadAheadTask(self._connection)
            self._nursery.start_soon(self._task.run)
        if self._checks > _BUSY_CHECKS and detect_disconnect:
            self._connection.detect_disconnect()

    def reset(self) -> None:
        """Count from zero again, because a check has found that the stream is read."""
        self._checks = 0

    async def stop(self) -> None:
        """Stop the task that reads ahead, if there is one.

        Shielded from cancellation: afterwards no other task uses the inbox, so its messages can be counted. The
        checks stay counted: many short handlers in a row keep a reader as busy as a long one.
        """
        if self._task is not None:
            with trio.CancelScope(shield=True):
                await self._task.stop()
            self._task = None


class ReadAheadTask:
    """Reads ahead on one stream until it is stopped, or until the stream has ended.

    The session stops it before it reads itself, so two tasks never read at once.
    """

    __slots__ = ("_connection", "_done", "_scope")

    def __init__(self, connection: WebsocketConnection) -> None:
        self._connection = connection
        self._scope = trio.CancelScope()
        self._done = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Read ahead. Run this in a task of its own."""
        connection = self._connection
        try:
            with self._scope:
                await connection.inbox.read_ahead(connection, detect_disconnect=False)  # the session does that
        finally:
            self._done.set()  # also if the app is cancelled: ``stop`` is shielded, and would wait forever

    async def stop(self) -> None:
        """Cancel the task, and wait until it no longer uses the transport."""
        self._scope.cancel()
        await self._done.wait()
