"""Reports that a server does not accept connections for now: at most once a second for each reason."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from .._http._events import EventType

if TYPE_CHECKING:
    from ._observers import Observers

logger = logging.getLogger("humphrey_trio.http")

_INTERVAL = 1.0


class Overload:
    """The reports of one server.

    Args:
        observers: what the connections of the application report to.
    """

    __slots__ = ("_full", "_observers", "_pauses", "_shortage")

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._full = _Interval()
        self._shortage = _Interval()
        self._pauses = 0

    def note_full(self, connections: int) -> None:
        """The maximum number of connections is open. It is the choice of the application, so it is not logged."""
        if self._full.passed():
            self._observers.report(EventType.OVERLOAD, info=f"{connections} connections are open")

    def note_shortage(self, exc: OSError) -> None:
        """The process or the system has no resources for another connection."""
        self._pauses += 1
        if self._shortage.passed():
            logger.warning("accepting pauses: %s (pauses since the last warning: %d)", exc.strerror, self._pauses)
            self._pauses = 0
            self._observers.report(EventType.OVERLOAD, info=str(exc.strerror))


class _Interval:
    """Whether a second has passed since the last report."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = -inf

    def passed(self) -> bool:
        now = trio.current_time()
        if now < self._next:
            return False
        self._next = now + _INTERVAL
        return True
