"""What the connections of an application report to: its counters, its access log and its monitor.

Connections know only these interfaces. No method waits, or raises an ``Exception``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._events import EventType
    from .._http._exchange import Exchange
    from ._http_counters import HttpCounters


class Recorder(Protocol):
    """Records each response of a connection."""

    @property
    def enabled(self) -> bool:
        """Whether responses are recorded. Asked once for each connection."""
        ...

    def record(self, exchange: Exchange, /) -> None:
        """Record a response."""
        ...


class Reporter(Recorder, Protocol):
    """Records responses, and other events of connections."""

    @property
    def dropped(self) -> int:
        """The number of events that were dropped."""
        ...

    def report(self, kind: EventType, peer: Address | None = None, info: str = "") -> None:
        """Report an event.

        Args:
            kind: the type of the event, exactly one.
            peer: the address of the client; None if the event concerns no client.
            info: a description, in which text from a client is escaped.
        """
        ...


@dataclass(slots=True)
class Observers:
    """Everything that the connections of an application report to.

    Attributes:
        counters: the counters of the application.
        access_log: the access log.
        monitor: the monitor; None if the application has none.
    """

    counters: HttpCounters
    access_log: Recorder
    monitor: Reporter | None = None

    def use_monitor(self, monitor: Reporter) -> None:
        """Set the monitor. It may be replaced while connections are open."""
        self.monitor = monitor

    def report(self, kind: EventType, peer: Address | None = None, info: str = "") -> None:
        """Report an event to the monitor. See ``Reporter.report``."""
        if self.monitor is not None:
            self.monitor.report(kind, peer, info)

    def recorders(self) -> tuple[Recorder, ...]:
        """Return what records the responses of a new connection. Empty if nothing does: then nothing is timed."""
        log, monitor = self.access_log, self.monitor
        if monitor is None or not monitor.enabled:
            return (log,) if log.enabled else ()
        return (log, monitor) if log.enabled else (monitor,)
