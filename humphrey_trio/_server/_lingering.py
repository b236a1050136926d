"""Lingering close: keep reading after the last bytes were sent, so that the peer receives them.

Closing a socket with unread input resets the connection, and the reset destroys data in transit to the peer
(RFC 9112, section 9.6). So the server first sends an end of file, and discards input until the peer's end of file.

This module limits how long connections linger, and how many. The connection task closes the transport.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from ._transport import Incoming

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._http._limits import Timeouts
    from ._clock import SweepClock
    from ._control import ConnectionControl
    from ._transport import Transport

#: Connections that may linger at once on a server without ``max_connections``.
UNBOUNDED_SERVER_LIMIT = 1000

#: Seconds that a connection lingers at most, if it is idle during a graceful shutdown or cannot half-close. Then
#: only a request that is in transit is waited for.
SHORT_SECONDS = 1.0


class Lingering:
    """The lingering connections of one server, oldest first.

    Args:
        timeouts: ``linger`` and ``linger_idle`` apply to each connection.
        clock: the clock of the server.
        max_connections: the limit of the server; None for none. Half as many may linger. Beyond that, the oldest
            lingering connection is cut.
        changed: called when a connection begins to linger. A server that waits for a free slot can cut it then.

    Attributes:
        cuts: the number of connections that were cut to make room.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        clock: SweepClock,
        max_connections: int | None,
        changed: Callable[[], None],
    ) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._limit = UNBOUNDED_SERVER_LIMIT if max_connections is None else max(1, max_connections // 2)
        self._changed = changed
        self._transports: dict[ConnectionControl, Transport] = {}
        self.cuts = 0

    def __len__(self) -> int:
        return len(self._transports)

    async def linger(self, transport: Transport, control: ConnectionControl, *, idle: bool = False) -> None:
        """Send an end of file, then discard input until the peer's end of file or a deadline.

        Returns immediately if the peer has sent an end of file, if the connection has broken, or if an incomplete
        message was sent that cannot be completed. The caller closes the transport.

        Args:
            transport: the transport of the connection.
            control: the control of the connection. This call replaces its deadline and callbacks.
            idle: whether the connection was waiting for a request. A graceful shutdown then waits for
                ``SHORT_SECONDS`` at most.
        """
        if transport.incoming is not Incoming.OPEN or transport.torn:
            return
        deadlines = _LingerDeadlines(transport, control, self._clock, self._timeouts, idle=idle)
        self._add(control, transport)
        try:
            with transport.interruptible():
                await transport.send_eof()
                while await transport.discard_some():
                    deadlines.extend()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer has disconnected, or a deadline has passed
        finally:
            self._transports.pop(control, None)  # removed already if it was cut
            control.expire_at(inf)

    def cut_oldest(self) -> ConnectionControl | None:
        """Close the connection that has lingered for the longest time.

        Returns:
            Its control; None if no connection lingers.
        """
        if not self._transports:
            return None
        control = next(iter(self._transports))
        transport = self._transports.pop(control)
        transport.abort()
        # abort wakes only a sender over a trio stream, so wake the receiver as well. The sweep cannot do that: the
        # server may drop the control of this connection now.
        transport.interrupt()
        self.cuts += 1
        return control

    def _add(self, control: ConnectionControl, transport: Transport) -> None:
        # The oldest: its peer has had the most time to read. To refuse the new one would reset a connection whose
        # last bytes were sent just now.
        if len(self._transports) >= self._limit:
            self.cut_oldest()
        self._transports[control] = transport
        self._changed()


class _LingerDeadlines:
    """The deadlines of one lingering connection: one for the whole time, and one for the next sign of activity.

    Activity is a byte from the peer, or an acknowledgement that leaves more to acknowledge. A peer with a slow
    link may send nothing for a long time while it receives, and must not be reset when it sends again.
    """

    __slots__ = ("_clock", "_control", "_end", "_idle_seconds", "_transport", "_unacknowledged")

    def __init__(
        self,
        transport: Transport,
        control: ConnectionControl,
        clock: SweepClock,
        timeouts: Timeouts,
        *,
        idle: bool,
    ) -> None:
        self._transport = transport
        self._control = control
        self._clock = clock
        self._idle_seconds = timeouts.linger_idle
        # Bytes, at the previous expiry of the deadline. There is no system call before the first expiry, because
        # most peers close immediately and it would make a connection 2 % slower. So the first expiry always grants
        # a second period if anything is unacknowledged.
        self._unacknowledged = inf
        short = not transport.half_closes or (idle and control.draining)
        now = clock.now()
        self._end = now + (min(SHORT_SECONDS, timeouts.linger) if short else timeouts.linger)
        control.hand_to(self._expire, self._shorten if idle else self._keep)
        control.expire_at(min(self._end, now + self._idle_seconds))

    def extend(self) -> None:
        """Restart the deadline for the next sign of activity."""
        self._control.expire_at(min(self._end, self._clock.now() + self._idle_seconds))

    def _expire(self) -> None:
        left = self._transport.unacknowledged()
        if 0 < left < self._unacknowledged and self._clock.now() < self._end:
            self._unacknowledged = left
            self.extend()
        else:
            self._transport.interrupt()

    def _shorten(self) -> None:
        self._end = min(self._end, self._clock.now() + SHORT_SECONDS)
        self.extend()

    def _keep(self) -> None:
        """Do nothing: a response may be in transit, and the deadline of the graceful shutdown limits this one."""
