"""Whether a peer is alive, for the heartbeat of an app: when it was last heard, and whether it was pinged since.

It only watches, and knows neither streams nor clocks: whoever owns it pings, and cuts off.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._heartbeat import Heartbeat

#: The payload of a heartbeat's ping: its answer tells the latency.
BEAT = b"heartbeat"


class Need(enum.Enum):
    """What a look at a pulse may ask for."""

    PING = enum.auto()
    CUT = enum.auto()


class Pulse:
    """The signs of life of one peer.

    Attributes:
        heard: whether a byte has come since the last look; set by whoever reads.
        latency: seconds from the last ping to its answer; None before the first.
    """

    __slots__ = ("_asked_at", "_pinged_at", "_silent_since", "heard", "latency")

    def __init__(self) -> None:
        self.heard = False
        self.latency: float | None = None
        self._silent_since = -inf
        self._pinged_at: float | None = None  # while no byte has come since
        self._asked_at: float | None = None  # while its own answer has not come

    def look(self, now: float, heartbeat: Heartbeat, *, deaf: bool) -> Need | None:
        """Look for a sign of life since the last look.

        Args:
            now: seconds of trio's clock.
            heartbeat: how long it may be silent.
            deaf: whether nobody reads, so that silence means nothing.
        """
        if self.heard or deaf or self._silent_since == -inf:
            self.heard, self._silent_since = False, now
            self._pinged_at = None
        elif self._pinged_at is not None:
            if now - self._pinged_at >= heartbeat.timeout:
                return Need.CUT
        elif now - self._silent_since >= heartbeat.interval:
            return Need.PING
        return None

    def pinged(self, now: float) -> None:
        """A ping with ``BEAT`` goes out."""
        self._pinged_at = self._asked_at = now

    def answered(self, now: float) -> None:
        """A pong with ``BEAT`` has come."""
        if self._asked_at is not None:
            self.latency = now - self._asked_at
            self._asked_at = None
