"""The deadlines of one open WebSocket. The sweep of the server checks the earliest of them.

When it has passed, the sweep calls ``WebsocketConnection.expire``, which checks each deadline.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..._http._limits import Timeouts
    from ..._server._clock import SweepClock
    from ..._server._control import ConnectionControl


class Deadline(enum.IntEnum):
    """The kinds of deadlines. The comments say what must happen, or what happens, by then."""

    TAKE = 0
    """An application must take the stream from its hook."""
    WRITE = 1
    """The peer must accept some bytes of what is being written."""
    CLOSE = 2
    """The peer must accept some bytes of what waits before our Close, and then answer our Close."""
    DRAIN = 3
    """The stream is closed by a graceful shutdown."""
    USER = 4
    """The stream is closed because of ``set_deadline``."""


class TakeWatch(Protocol):
    """The route of a stream that waits in a hook."""

    @property
    def take_timeout(self) -> float:
        """The seconds within which an application must take the stream."""
        ...

    def note_untaken(self, path: str, /) -> None:
        """Note that a stream has no reader after a second.

        Args:
            path: the path of its request.
        """
        ...


# One object for all streams without ``Deadline.USER``.
_NO_CLOSE = (0, "")


class DeadlineTable:
    """The deadlines of one stream.

    They are plain numbers, with the precision of the sweep. A ``CancelScope`` was rejected: setting its deadline
    for every write costs more than the write. An idle stream has no deadlines, and no table of them.

    Args:
        control: has the earliest deadline, which the sweep of the server checks.
        clock: the clock of the server.
        timeouts: the timeouts of the server. Those of an application replace them.

    Attributes:
        timeouts: the current timeouts.
        user_close: the code and the reason with which to close when ``Deadline.USER`` has passed.
    """

    __slots__ = ("_clock", "_control", "_take_watch", "_times", "timeouts", "user_close")

    def __init__(self, control: ConnectionControl, clock: SweepClock, timeouts: Timeouts) -> None:
        self._control = control
        self._clock = clock
        self._times: list[float] | None = None
        self.timeouts = timeouts
        self.user_close = _NO_CLOSE
        self._take_watch: TakeWatch | None = None

    def now(self) -> float:
        """Return the time of the clock in seconds."""
        return self._clock.now()

    def set(self, deadline: Deadline, seconds: float) -> None:
        """Set a deadline to some seconds from now. Replaces the earlier value."""
        if self._times is None:
            self._times = [inf] * len(Deadline)
        self._times[deadline] = self._clock.now() + seconds
        self._apply()

    def set_earlier(self, deadline: Deadline, seconds: float) -> None:
        """Set a deadline to some seconds from now, unless its value is earlier."""
        # For a graceful end that both the server and the application begin: neither delays the other.
        if self._times is None or self._clock.now() + seconds < self._times[deadline]:
            self.set(deadline, seconds)

    def set_take(self, seconds: float, watch: TakeWatch) -> None:
        """Set ``Deadline.TAKE``, and what ``pop_take_watch`` returns."""
        self._take_watch = watch
        self.set(Deadline.TAKE, seconds)

    def pop_take_watch(self) -> TakeWatch | None:
        """Return what is told when ``Deadline.TAKE`` passes for the first time. None afterwards."""
        watch, self._take_watch = self._take_watch, None
        return watch

    def set_user(self, seconds: float, code: int, reason: str) -> None:
        """Set ``Deadline.USER``, and the code and the reason with which to close then."""
        self.user_close = (code, reason)
        self.set(Deadline.USER, seconds)

    def clear(self, deadline: Deadline) -> None:
        """Remove a deadline. Does nothing if it is not set."""
        if self._times is not None:
            self._times[deadline] = inf
            self._apply()

    def has_passed(self, deadline: Deadline) -> bool:
        """Whether a deadline is set and has passed."""
        return self._times is not None and self._times[deadline] <= self._clock.now()

    def take_passed(self, deadline: Deadline) -> bool:
        """Return ``has_passed``, and clear the deadline if it has."""
        passed = self.has_passed(deadline)
        if passed:
            self.clear(deadline)
        return passed

    def _apply(self) -> None:
        """Set the deadline of the connection, which the sweep checks, to the earliest."""
        earliest = inf if self._times is None else min(self._times)
        if earliest == inf:
            self._times = None  # an idle stream keeps no table
        self._control.expire_at(earliest)

    def use(self, timeouts: Timeouts) -> None:
        """Set other timeouts. Deadlines that are set already do not change."""
        self.timeouts = timeouts
