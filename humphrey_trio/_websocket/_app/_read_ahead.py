"""A task that reads ahead while a handler of a session runs long.

So Pings are answered, and a disconnect of the peer is detected. The task runs no handlers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .._stream._connection import WebsocketConnection


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
                await connection.inbox.read_ahead(connection, look_for_peer=False)  # the session does that
        finally:
            self._done.set()

    async def stop(self) -> None:
        """Cancel the task, and wait until it no longer uses the transport."""
        self._scope.cancel()
        await self._done.wait()
