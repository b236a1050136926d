"""Fairness between connections: work is counted, and a checkpoint is executed when a turn is used up.

A checkpoint for every message would cost more than handling the message.
"""

from __future__ import annotations

_MESSAGES_PER_TURN = 64
_BYTES_PER_TURN = 64 * 1024


class Fairness:
    """Counts the work since the last checkpoint, for all connections of a server.

    A task that handles buffered messages does not wait, so the others would not run. It executes a checkpoint when
    ``spent`` returns True.
    """

    __slots__ = ("__weakref__", "_bytes", "_messages")  # weakly referenced as the identity of its server

    def __init__(self) -> None:
        self._messages = 0
        self._bytes = 0

    def count(self, size: int) -> None:
        """Add bytes to the count.

        Args:
            size: bytes of work done.
        """
        self._bytes += size

    def spent(self, size: int) -> bool:
        """Count a message.

        Args:
            size: bytes of the message.

        Returns:
            Whether the task must execute a checkpoint now, so that other tasks can run.
        """
        self._messages += 1
        self._bytes += size
        if self._messages < _MESSAGES_PER_TURN and self._bytes < _BYTES_PER_TURN:
            return False
        self._messages = self._bytes = 0
        return True
