"""The deadlines of one open WebSocket, as a small table whose earliest entry the server's sweep looks at.

It keeps times and decides nothing: the connection is asked to expire, and looks which of them have passed.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..._http._limits import Timeouts
    from ..._server._clock import SweepClock
    from ..._server._control import ConnectionControl


class Deadline(enum.IntEnum):
    """What a stream may have to do in time."""

    TAKE = 0
    """An application takes the stream out of its hook."""
    WRITE = 1
    """The peer takes some of what is being written."""
    CLOSE = 2
    """The peer takes our Close, and what waits in front of it, and answers."""
    DRAIN = 3
    """The stream is closed because its server or its application ends."""
    USER = 4
    """The stream is closed because of ``set_deadline``."""


class Deadlines:
    """The deadlines of one stream.

    They are numbers, precise to one sweep: setting a ``CancelScope``'s deadline for every write would cost more
    than the write. An idle stream has none, and then no table either.

    Args:
        control: where the server's sweep finds the earliest deadline.
        clock: the server's.
        timeouts: how long peers may take; an application that takes the stream replaces them.

    Attributes:
        timeouts: as given.
    """

    __slots__ = ("_clock", "_control", "_times", "timeouts")

    def __init__(self, control: ConnectionControl, clock: SweepClock, timeouts: Timeouts) -> None:
        self._control = control
        self._clock = clock
        self._times: list[float] | None = None
        self.timeouts = timeouts

    def now(self) -> float:
        """The present time, for comparison with the deadlines."""
        return self._clock.now()

    def set(self, deadline: Deadline, seconds: float) -> None:
        """Expire in so many seconds, in place of what was set for the same deadline."""
        if self._times is None:
            self._times = [inf] * len(Deadline)
        self._times[deadline] = self._clock.now() + seconds
        self._apply()

    def set_earlier(self, deadline: Deadline, seconds: float) -> None:
        """Expire in so many seconds, or when it is set already if that is earlier."""
        if self._times is None or self._clock.now() + seconds < self._times[deadline]:
            self.set(deadline, seconds)

    def clear(self, deadline: Deadline) -> None:
        """Do not expire for this deadline."""
        if self._times is not None:
            self._times[deadline] = inf
            self._apply()

    def has_passed(self, deadline: Deadline) -> bool:
        """Whether it is set, and its time has come."""
        return self._times is not None and self._times[deadline] <= self._clock.now()

    def take_passed(self, deadline: Deadline) -> bool:
        """As ``has_passed``, and clear it if it has."""
        passed = self.has_passed(deadline)
        if passed:
            self.clear(deadline)
        return passed

    def _apply(self) -> None:
        """Tell the sweep of the earliest deadline."""
        earliest = inf if self._times is None else min(self._times)
        if earliest == inf:
            self._times = None
        self._control.expire_at(earliest)

    def use(self, timeouts: Timeouts) -> None:
        """Use other timeouts for what is set from now on."""
        self.timeouts = timeouts
