"""Lingering closes: read on behind the last bytes, so that the peer can receive them (RFC 9112, section 9.6).

A socket that is closed over unread input resets the connection, and the reset destroys what is still on its way
to the peer. So the outgoing side ends first, and input is discarded until the peer's end of file.

This module bounds how long and how many connections linger. It closes no transport: the connection task does.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from ._transport import Incoming

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._http._limits import Timeouts
    from ._pacing import Leash, SweepClock
    from ._transport import Transport

#: Connections that may linger at once on a server without ``max_connections``.
UNBOUNDED_SERVER_LIMIT = 1000

#: Seconds for what may be on its way: the peer of an idle connection when the server ends, and a peer that
#: cannot be shown our end of file.
SHORT_SECONDS = 1.0


class Lingering:
    """The lingering connections of one server, oldest first.

    Args:
        timeouts: ``linger`` and ``linger_idle`` bound one connection.
        clock: the server's.
        max_connections: the server's; half as many may linger, the oldest is cut for one more.
        changed: called when a connection has begun to linger, since a server without a free slot may cut it.

    Attributes:
        cuts: how many were cut to make room.
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
        self._transports: dict[Leash, Transport] = {}
        self.cuts = 0

    def __len__(self) -> int:
        return len(self._transports)

    async def linger(self, transport: Transport, leash: Leash, *, idle: bool = False) -> None:
        """End the outgoing side, then discard input until the peer's end of file or a deadline.

        Returns at once if the peer has ended, the connection broke, or half a message was sent that cannot be
        completed. The caller closes the transport.

        Args:
            transport: the connection.
            leash: its deadlines; this call takes them over.
            idle: whether the connection waited for a request, so that a graceful end need not wait for long.
        """
        if transport.incoming is not Incoming.OPEN or transport.torn:
            return
        visit = _Visit(transport, leash, self._clock, self._timeouts, idle=idle)
        self._add(leash, transport)
        try:
            with transport.interruptible():
                await transport.send_eof()
                while await transport.discard_some():
                    visit.extend()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone, or a deadline has passed
        finally:
            self._transports.pop(leash, None)
            leash.at = inf

    def cut_oldest(self) -> Leash | None:
        """Close the connection that has lingered for the longest time.

        Returns:
            What the server holds it by; None if no connection lingers.
        """
        if not self._transports:
            return None
        leash = next(iter(self._transports))
        transport = self._transports.pop(leash)
        transport.abort()
        # Over a foreign stream, aborting wakes only who sends. The server may not sweep this connection any more.
        transport.interrupt()
        self.cuts += 1
        return leash

    def _add(self, leash: Leash, transport: Transport) -> None:
        if len(self._transports) >= self._limit:
            self.cut_oldest()
        self._transports[leash] = transport
        self._changed()


class _Visit:
    """The deadlines of one lingering connection: one for all of it, one for the next sign of the peer.

    A byte is a sign; so is an acknowledgement, as long as more has to be acknowledged. A peer with a slow link may
    send nothing for a long time while it receives, and what it sends then must not meet a closed socket.
    """

    __slots__ = ("_clock", "_end", "_idle_seconds", "_leash", "_transport", "_unacknowledged")

    def __init__(
        self, transport: Transport, leash: Leash, clock: SweepClock, timeouts: Timeouts, *, idle: bool
    ) -> None:
        self._transport = transport
        self._leash = leash
        self._clock = clock
        self._idle_seconds = timeouts.linger_idle
        # As of the last look. The first is when the deadline passes, and what is on its way then has one period
        # more: most peers end at once, and a system call for each would make a new connection 2 % slower.
        self._unacknowledged = inf
        short = not transport.half_closes or (idle and leash.draining)
        now = clock.now()
        self._end = now + (min(SHORT_SECONDS, timeouts.linger) if short else timeouts.linger)
        leash.at = min(self._end, now + self._idle_seconds)
        leash.expire = self._expire
        leash.drain = self._shorten if idle else self._go_on

    def extend(self) -> None:
        """Wait for the next sign of the peer."""
        self._leash.at = min(self._end, self._clock.now() + self._idle_seconds)

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

    def _go_on(self) -> None:
        """A response may still be on its way: a graceful end waits for it within its own deadline."""
