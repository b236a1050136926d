"""The state of the heartbeat of one peer: when it last sent a byte, and whether it was pinged since.

This module contains no stream and no clock. The connection sends the Pings and cuts off the peer.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._heartbeat_settings import Heartbeat

#: The payload of a heartbeat's Ping. The Pong with the same payload tells the latency (RFC 6455, section 5.5.3).
HEARTBEAT_PAYLOAD = b"heartbeat"


class Need(enum.Enum):
    """An action that a check requires."""

    PING = enum.auto()
    CUT = enum.auto()


class Liveness:
    """The heartbeat of one peer, created at the first check of its stream.

    Attributes:
        latency: seconds from the last answered Ping to its Pong; None before the first Pong.
    """

    __slots__ = ("_asked_at", "_bytes_seen", "_pinged_at", "_silent_since", "latency")

    def __init__(self) -> None:
        self.latency: float | None = None
        self._bytes_seen = 0
        self._silent_since = -inf
        self._pinged_at: float | None = None  # until a byte arrives
        self._asked_at: float | None = None  # until the pong arrives

    def check(self, now: float, heartbeat: Heartbeat, *, bytes_received: int, reading: bool) -> Need | None:
        """Compare the received bytes with those at the last check.

        Args:
            now: the time of the clock of the connection, in seconds.
            heartbeat: the times of the heartbeat.
            bytes_received: the number of bytes that were received so far.
            reading: whether a task waits for bytes. If not, the peer is not regarded as silent.

        Returns:
            The required action, or None.
        """
        if bytes_received != self._bytes_seen or not reading or self._silent_since == -inf:
            self._bytes_seen, self._silent_since = bytes_received, now
            self._pinged_at = None
        elif self._pinged_at is not None:
            if now - self._pinged_at >= heartbeat.timeout:
                return Need.CUT
        elif now - self._silent_since >= heartbeat.interval:
            return Need.PING
        return None

    def note_ping(self, now: float) -> None:
        """Note that a Ping with ``HEARTBEAT_PAYLOAD`` is sent."""
        self._pinged_at = self._asked_at = now

    def note_pong(self, now: float) -> None:
        """Note that a Pong with ``HEARTBEAT_PAYLOAD`` was received."""
        if self._asked_at is not None:
            self.latency = now - self._asked_at
            self._asked_at = None
