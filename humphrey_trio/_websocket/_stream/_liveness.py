"""Whether a peer is alive, for the heartbeat of an app: when it last sent a byte, and whether it was pinged since.

It only keeps times. It knows no stream and no clock: the connection sends the pings and cuts off the peer.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._heartbeat import Heartbeat

#: The payload of a heartbeat's Ping. The Pong with the same payload tells the latency (RFC 6455, section 5.5.3).
HEARTBEAT_PAYLOAD = b"heartbeat"


class Need(enum.Enum):
    """What a check may ask for."""

    PING = enum.auto()
    CUT = enum.auto()


class Liveness:
    """What is known of one peer; made at the first heartbeat check of its stream.

    Attributes:
        latency: seconds from the last ping to its pong; None before the first pong.
    """

    __slots__ = ("_asked_at", "_bytes_seen", "_pinged_at", "_silent_since", "latency")

    def __init__(self) -> None:
        self.latency: float | None = None
        self._bytes_seen = 0
        self._silent_since = -inf
        self._pinged_at: float | None = None  # until a byte arrives
        self._asked_at: float | None = None  # until the pong arrives

    def check(self, now: float, heartbeat: Heartbeat, *, bytes_received: int, reading: bool) -> Need | None:
        """Look for bytes since the last check.

        Args:
            now: seconds of the connection's clock.
            heartbeat: how long the peer may be silent.
            bytes_received: how many bytes the peer has sent so far.
            reading: whether a task waits for bytes. If not, silence means nothing.
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
        """A ping with ``HEARTBEAT_PAYLOAD`` is sent."""
        self._pinged_at = self._asked_at = now

    def note_pong(self, now: float) -> None:
        """A pong with ``HEARTBEAT_PAYLOAD`` has arrived."""
        if self._asked_at is not None:
            self.latency = now - self._asked_at
            self._asked_at = None
