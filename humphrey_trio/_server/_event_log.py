"""A bounded log of server-sent events, from which clients that reconnect continue.

It knows no client. Each reader has its own position, and the log never waits for one.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from .._http._event_encoding import ServerSentEvent, encode_event

if TYPE_CHECKING:
    from .._http._body import EventSender


class EventLog:
    """The last events of a source, for any number of clients of ``Response.events``.

    ``append`` adds an event and gives it an id. ``Response.events(log.follow(request.last_event_id))`` sends the
    events that a client has missed, and then each new one. ``last_event_id in log`` tells whether the log still
    has all events after an id. Use a log in one run of trio; in a worker thread, call
    ``trio.from_thread.run_sync(log.append, "text")``.

    The ids contain a random number, so an id of another log, such as one from before a restart, is unknown.

    Args:
        size: the number of events that are kept.

    Raises:
        ValueError: ``size`` is below 1.
        TypeError: ``size`` is not an int.
    """

    __slots__ = ("_id", "_name", "_ring")

    def __init__(self, size: int = 1000) -> None:
        if not isinstance(size, int) or isinstance(size, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the size of an EventLog is a number of events, not {type(size).__name__}")
        if size < 1:
            raise ValueError("the size of an EventLog must be at least 1")
        self._name = secrets.token_hex(4)
        self._id = re.compile(rf"{self._name}-([0-9]{{1,18}})")
        self._ring = _Ring(size)

    @property
    def last_id(self) -> str:
        """The id of the last event. Before the first event, an id after which all events follow."""
        return self._id_of(self._ring.last)

    def append(self, data: str, *, event: str = "message") -> str:
        """Add an event, and wake the clients that wait for it. If the log is full, the oldest event is removed.

        Args:
            data, event: as for ``EventSender.send``.

        Returns:
            The id of the event.

        Raises:
            TypeError, ValueError: as for ``EventSender.send``.
        """
        encode_event(data, event, None, None)  # checks them here, and not in each client
        new_id = self._id_of(self._ring.last + 1)
        self._ring.append(ServerSentEvent(data, event, new_id))
        return new_id

    def follow(self, last_event_id: str) -> Callable[[EventSender], Awaitable[None]]:
        """Make a producer of ``Response.events`` that sends the events after an id, and then each new one.

        It first sends the id after which it begins. So a client that loses its connection before the first event
        misses nothing when it reconnects.

        Args:
            last_event_id: as for ``after``.

        Returns:
            The producer. It ends when the iterator of ``after`` ends.
        """
        start = self._start(last_event_id)

        async def produce(events: EventSender) -> None:
            await events.send_id(self._id_of(start))
            async for event in _Reader(self._ring, start):
                await events.send(event.data, event=event.event, id=event.id)

        return produce

    def after(self, last_event_id: str) -> AsyncIterator[ServerSentEvent]:
        """Iterate over the events after an id, and wait for new ones.

        Args:
            last_event_id: the id of the last event that the client has. With an empty one, only new events follow.
                If it is unknown, or if events after it were removed, all events that the log has follow.

        Returns:
            An async iterator. It ends if its client is so slow that an event was removed before it was yielded.
            Then the response ends, and the client reconnects with the id of the last event that it got.
        """
        return _Reader(self._ring, self._start(last_event_id))

    def __contains__(self, last_event_id: object) -> bool:
        return isinstance(last_event_id, str) and self._number_of(last_event_id) >= self._ring.oldest - 1

    def __len__(self) -> int:
        return len(self._ring.events)

    def __repr__(self) -> str:
        return f"<EventLog, {len(self)} events, the last is {self.last_id}>"

    def _id_of(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _start(self, last_event_id: str) -> int:
        """Return the number of the event after which a client continues."""
        if not last_event_id:
            return self._ring.last
        return max(self._number_of(last_event_id), self._ring.oldest - 1)

    def _number_of(self, last_event_id: str) -> int:
        """Return the number of an event of this log; -1 for an id that it has not given."""
        found = self._id.fullmatch(last_event_id)
        number = int(found[1]) if found else -1
        return number if number <= self._ring.last else -1


class _Ring:
    """The events of a log, which are numbered from 1.

    Attributes:
        events: the events that were not removed, oldest first.
        last: the number of the last event; 0 before the first.
    """

    __slots__ = ("_waiting", "events", "last")

    def __init__(self, size: int) -> None:
        self.events: deque[ServerSentEvent] = deque(maxlen=size)
        self.last = 0
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def oldest(self) -> int:
        """The number of the oldest event that was not removed; that of the next one if there is none."""
        return self.last - len(self.events) + 1

    def append(self, event: ServerSentEvent) -> None:
        self.events.append(event)
        self.last += 1
        self._waiting.unpark_all()

    async def wait_for(self, number: int) -> ServerSentEvent | None:
        """Return an event, waiting until it was added; None if it was removed."""
        await trio.lowlevel.checkpoint()
        while number > self.last:
            await self._waiting.park()
        return None if number < self.oldest else self.events[number - self.oldest]


class _Reader:
    """Iterates over the events after a number. Not a generator, because there is nothing that must be closed."""

    __slots__ = ("_number", "_ring")

    def __init__(self, ring: _Ring, number: int) -> None:
        self._ring = ring
        self._number = number

    def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        return self

    async def __anext__(self) -> ServerSentEvent:
        event = await self._ring.wait_for(self._number + 1)
        if event is None:
            raise StopAsyncIteration
        self._number += 1
        return event
