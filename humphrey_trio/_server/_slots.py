"""The slots of one server: one for each open connection, and the limit of their number.

A connection has a slot from its accept until its task closes it, or until it is cut off while it lingers. This
module closes no other transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._http._events import EventType
from ._control import ConnectionControl
from ._lingering import Lingering
from ._overload import Overload

if TYPE_CHECKING:
    from .._http._address import Address
    from ._interface import ServerSettings


class Slots:
    """The slots of one server.

    Args:
        settings: the objects that the connections of the server share.
        maximum: the number of slots; None for no limit. Lingering connections have slots, too.

    Attributes:
        lingering: the lingering connections. If no slot is free, the oldest of them is cut off for a new one.
        draining: whether a graceful shutdown has begun.
        overload: reports that no slot is free.
    """

    __slots__ = (
        "_controls",
        "_emptied",
        "_freed",
        "_maximum",
        "_observers",
        "draining",
        "lingering",
        "overload",
    )

    def __init__(self, settings: ServerSettings, maximum: int | None) -> None:
        self._maximum = maximum
        self._observers = settings.observers
        self._controls: set[ConnectionControl] = set()
        self._freed = trio.Event()
        self._emptied = trio.Event()
        self.overload = Overload(settings.observers)
        self.lingering = Lingering(settings.timeouts, settings.clock, maximum, self._wake)
        self.draining = False

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._controls)

    def has_room(self) -> bool:
        """Whether a slot is free, or can be freed by cutting off a lingering connection."""
        return self._maximum is None or len(self._controls) < self._maximum or bool(self.lingering)

    async def wait_for_room(self) -> None:
        """Wait until ``has_room``. Not a checkpoint if there is room already."""
        while not self.has_room():
            self.overload.note_full(len(self._controls))
            # All accept loops wait for the same event. A new one for each would wake only the last of them.
            if self._freed.is_set():
                self._freed = trio.Event()
            await self._freed.wait()

    def take(self, peer: Address) -> ConnectionControl:
        """Give a new connection a slot, and count it. The caller must check ``has_room`` before.

        Args:
            peer: the address of the peer.
        """
        if self._maximum is not None and len(self._controls) >= self._maximum:
            self.cut_lingering()
        control = ConnectionControl(self.draining)
        self._controls.add(control)
        self._observers.counters.count_accepted()
        self._observers.report(EventType.CONNECTION_SUCCESS, peer)
        return control

    def free(self, control: ConnectionControl) -> None:
        """Free the slot of a connection. Does nothing if it is free already."""
        self._controls.discard(control)
        self._wake()
        if not self._controls:
            self._emptied.set()

    def cut_lingering(self) -> bool:
        """Cut off the oldest lingering connection. Returns whether there was one."""
        cut = self.lingering.cut_oldest()
        if cut is not None:
            self.free(cut)
        return cut is not None

    def begin_drain(self) -> None:
        """Note that a graceful shutdown has begun. Connections that get a slot from now on know it."""
        self.draining = True

    def drain_all(self) -> None:
        """Tell all connections that a graceful shutdown has begun."""
        for control in tuple(self._controls):
            control.begin_drain()

    async def wait_until_empty(self) -> None:
        """Wait until no connection is open."""
        while self._controls:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def expire(self, now: float) -> None:
        """Call ``expire`` of the connections whose deadline has passed.

        Args:
            now: the time, from ``SweepClock.wait_for_sweep``.
        """
        for control in tuple(self._controls):  # a copy, because ``expire`` may free slots
            if control.at <= now:
                control.expire()

    def _wake(self) -> None:
        self._freed.set()
