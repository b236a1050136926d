"""A task that reads ahead for a session whose handler takes long.

It answers pings, and notices that the peer has left. It runs no handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .._stream._connection import WebsocketConnection


class ReadAheadTask:
    """Reads ahead on one stream, until it is stopped or the stream has ended.

    Two tasks never read at once: the session stops this one before it reads itself.
    """

    __slots__ = ("_connection", "_done", "_scope")

    def __init__(self, connection: WebsocketConnection) -> None:
        self._connection = connection
        self._scope = trio.CancelScope()
        self._done = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """The task."""
        connection = self._connection
        try:
            with self._scope:
                await connection.inbox.read_ahead(connection, look_for_peer=False)  # the session does that
        finally:
            self._done.set()

    async def stop(self) -> None:
        """End the task, and wait until it has left the transport."""
        self._scope.cancel()
        await self._done.wait()
