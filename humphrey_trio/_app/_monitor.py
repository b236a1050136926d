"""The monitor: sends events of a server into a channel of the application, for its own logs and alarms.

It must never make the server wait or fail. What the channel has no room for is counted and dropped.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from math import isinf
from typing import TYPE_CHECKING

import trio

from .._http._events import Event, EventLevel, EventType
from .._http._status import reason_phrase
from .._quoting import escaped

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._exchange import Exchange

logger = logging.getLogger("humphrey_trio.http")

_NOTHING = EventType(0)
_REQUESTS = EventType.REQUEST_SERVED_SUCCESS | EventType.REQUEST_SERVED_ERROR | EventType.REQUEST_TIMEOUT


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """The channel and the event types of a monitor, for ``App.with_monitor``.

    Attributes:
        channel: the sending side of a channel from ``trio.open_memory_channel``, with a buffer of at least 1 and
            not unlimited. Events that do not fit in the buffer are dropped. The application closes the channel.
        events: the event types that are sent; none at first. See ``with_subscription_to``.

    Raises:
        TypeError: the channel is not a ``trio.MemorySendChannel``.
        ValueError: its buffer has no place, or has no limit.

    Example:
        >>> send_channel, receive_channel = trio.open_memory_channel[Event](1000)
        >>> config = MonitorConfig(send_channel).with_subscription_to(EventLevel.WARNING)
    """

    channel: trio.MemorySendChannel[Event]
    events: EventType = _NOTHING

    def __post_init__(self) -> None:
        if not isinstance(self.channel, trio.MemorySendChannel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "a monitor takes the sending side of trio.open_memory_channel(1000),"
                f" not {type(self.channel).__name__}"
            )
        places = self.channel.statistics().max_buffer_size
        if places < 1 or isinf(places):
            raise ValueError(f"a monitor needs a channel with a limit of at least 1, such as 1000, not {places}")

    def with_subscription_to(self, *events: EventType | EventLevel) -> MonitorConfig:
        """Return a copy that sends more event types.

        Args:
            events: event types, or levels. They are added to those of previous calls.

        Raises:
            TypeError: an argument is neither an ``EventType`` nor an ``EventLevel``.
        """
        wanted = self.events
        for one in events:
            wanted |= _types_of(one)
        return replace(self, events=wanted)


def _types_of(events: EventType | EventLevel) -> EventType:
    if isinstance(events, EventLevel):
        return events.events
    if isinstance(events, EventType):  # pyright: ignore[reportUnnecessaryIsInstance]
        return events
    raise TypeError(f"subscribe to an EventType or an EventLevel, not to {type(events).__name__}")


class Monitor:
    """A ``Reporter`` that sends events into the channel of a config.

    If the channel is closed at either end, a WARNING is logged and no more events are sent.

    Args:
        config: the channel and the event types.

    Attributes:
        dropped: the number of events that were dropped because the channel was full.

    Raises:
        TypeError: the argument is not a ``MonitorConfig``.
        ValueError: the config has no event types.
    """

    __slots__ = ("_channel", "_dropped_since", "_wanted", "dropped")

    def __init__(self, config: MonitorConfig) -> None:
        if not isinstance(config, MonitorConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"with_monitor takes a MonitorConfig, not {type(config).__name__}")
        if not config.events:
            raise ValueError("subscribe to events: MonitorConfig(channel).with_subscription_to(EventLevel.INFO)")
        self._channel = config.channel
        self._wanted = frozenset(config.events)
        self.dropped = 0
        self._dropped_since = 0

    @property
    def enabled(self) -> bool:
        """Whether events about responses are sent."""
        return not self._wanted.isdisjoint(_REQUESTS)

    def record(self, exchange: Exchange) -> None:
        """Report that a response was sent."""
        kind = _kind_of(exchange.status)
        if kind in self._wanted:
            self._send(kind, exchange.client, _line_of(exchange), exchange.status)

    def report(self, kind: EventType, peer: Address | None = None, info: str = "") -> None:
        """Report an event. See ``Reporter.report``."""
        if kind in self._wanted:
            self._send(kind, peer, info)

    def _send(self, kind: EventType, peer: Address | None, info: str, status: int | None = None) -> None:
        try:
            self._channel.send_nowait(Event(kind, peer, info, time.time(), status, self._dropped_since))
            self._dropped_since = 0
        except trio.WouldBlock:
            self.dropped += 1
            self._dropped_since += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._wanted = frozenset[EventType]()
            logger.warning("the channel of the monitor was closed: no more events are sent")


def _kind_of(status: int) -> EventType:
    if status < 400:
        return EventType.REQUEST_SERVED_SUCCESS
    return EventType.REQUEST_TIMEOUT if status == 408 else EventType.REQUEST_SERVED_ERROR


def _line_of(exchange: Exchange) -> str:
    """Return the status and the path, such as ``200 OK /path``."""
    parts = [str(exchange.status), reason_phrase(exchange.status)]
    if exchange.head is not None:
        parts.append(escaped(exchange.head.path))
    return " ".join(filter(None, parts))
