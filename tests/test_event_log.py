"""``EventLog``: what a client gets that continues after an id, slow clients, and unknown ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response
from humphrey_trio.http import EventLog, ServerSentEvent
from humphrey_trio.testing import http_client


def filled(count: int, size: int = 3) -> tuple[EventLog, list[str]]:
    """A log to which ``count`` events were added, and all ids."""
    log = EventLog(size)
    return log, [log.append(str(number)) for number in range(1, count + 1)]


async def available(events: AsyncIterator[ServerSentEvent]) -> list[str]:
    """The data of the events that an iterator yields without waiting."""
    found: list[str] = []
    with trio.move_on_after(1):
        async for event in events:
            found.append(event.data)
    return found


async def test_events_after_an_id(autojump_clock: trio.testing.MockClock) -> None:
    """After an id follow the events that were added later; without an id, only new ones."""
    log, ids = filled(3)
    assert await available(log.after(ids[0])) == ["2", "3"]
    assert await available(log.after(ids[2])) == []
    new = log.after("")
    log.append("4", event="tick")
    assert await anext(new) == ServerSentEvent("4", "tick", log.last_id)


async def test_all_readers_get_new_events() -> None:
    """Every reader that waits gets each new event once, in order."""
    log, received = EventLog(), list[list[str]]()

    async def read() -> None:
        mine: list[str] = []
        received.append(mine)
        async for event in log.after(""):
            mine.append(event.data)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for text in ("a", "b", "c"):
            log.append(text)
        await trio.testing.wait_all_tasks_blocked()
        assert received == [["a", "b", "c"]] * 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("unknown", ["7", "no id", "x" * 100_000, "\u0661", "-1"])
async def test_unknown_ids(unknown: str, autojump_clock: trio.testing.MockClock) -> None:
    """After an unknown id, such as one of another log or of the future, follow all events that are kept."""
    log, ids = filled(5)
    other, _ = filled(5)
    for last_id in (unknown, other.last_id, f"{ids[0][:-1]}99", ids[0]):
        assert last_id not in log
        assert await available(log.after(last_id)) == ["3", "4", "5"]


def test_which_ids_are_known() -> None:
    """An id is in the log exactly if all events after it are."""
    log, ids = filled(5)
    assert [last_id in log for last_id in ids] == [False, True, True, True, True]
    assert "" not in log
    assert None not in log
    empty = EventLog()
    assert empty.last_id in empty
    first = empty.last_id
    empty.append("x")
    assert first in empty
    assert (len(log), len(empty)) == (3, 1)
    assert repr(empty) == f"<EventLog, 1 events, the last is {empty.last_id}>"


async def test_a_slow_reader() -> None:
    """A reader ends when an event was removed before it was read. Then it can continue with its last id."""
    log, ids = filled(3)
    reader = log.after(ids[0])
    assert (await anext(reader)).data == "2"
    log.append("4")
    log.append("5")
    assert (await anext(reader)).data == "3"
    for text in ("6", "7", "8"):
        log.append(text)
    assert [event async for event in reader] == []
    assert [event.data async for event in _first(3, log.after(ids[2]))] == ["6", "7", "8"]


async def _first(count: int, events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    for _ in range(count):
        yield await anext(events)


async def test_a_cancelled_reader_loses_nothing() -> None:
    """A reader that was cancelled while it waited, or before, continues where it was."""
    log = EventLog()
    reader = log.after("")
    for text in ("a", "b"):
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(reader)
        log.append(text)
    assert [(await anext(reader)).data for _ in range(2)] == ["a", "b"]


async def test_reading_executes_checkpoints() -> None:
    """Each step of a reader is a checkpoint, also if the event is there."""
    log, ids = filled(2)
    with trio.testing.assert_checkpoints():
        await anext(log.after(ids[0]))


async def test_append_from_a_thread() -> None:
    """A worker thread adds events through ``trio.from_thread``."""
    log = EventLog()
    reader = log.after("")
    await trio.to_thread.run_sync(trio.from_thread.run_sync, log.append, "from a thread")
    assert (await anext(reader)).data == "from a thread"


@pytest.mark.parametrize(
    ("arguments", "error"), [({"data": b"x"}, TypeError), ({"data": "x", "event": "a\nb"}, ValueError)]
)
def test_invalid_events(arguments: dict[str, Any], error: type[Exception]) -> None:
    """An event that cannot be sent is refused when it is added, and is not in the log."""
    log = EventLog()
    with pytest.raises(error):
        log.append(**arguments)
    assert len(log) == 0


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError), ("9", TypeError)]
)
def test_invalid_sizes(size: Any, error: type[Exception]) -> None:
    """The size is a number of at least 1."""
    with pytest.raises(error, match="size of an EventLog"):
        EventLog(size)


async def test_clients_that_reconnect(autojump_clock: trio.testing.MockClock) -> None:
    """A client that reconnects gets the events that it has missed, and then new ones."""
    log = EventLog()

    def events(request: Request) -> Response:
        return Response.events(log.follow(request.last_event_id))

    async with http_client(App().with_stateless_route("/events", events)) as client:
        async with client.events("/events") as first:
            await trio.testing.wait_all_tasks_blocked()
            log.append("1")
            assert await anext(first) == ServerSentEvent("1", id=log.last_id)
            last_id = first.last_event_id
        missed = [log.append(text) for text in ("2", "3")]
        async with client.events("/events", last_event_id=last_id) as second:
            assert [(await anext(second)).id for _ in missed] == missed
            log.append("4", event="tick")
            assert (await anext(second)).event == "tick"


async def test_a_connection_that_is_lost_before_the_first_event(autojump_clock: trio.testing.MockClock) -> None:
    """A new client gets the current id at once, and with it the events that it misses before it reconnects."""
    log = EventLog()
    log.append("before")

    def events(request: Request) -> Response:
        return Response.events(log.follow(request.last_event_id))

    async with http_client(App().with_stateless_route("/events", events)) as client:
        async with client.events("/events") as first:
            with trio.move_on_after(1):
                await anext(first)
            assert first.last_event_id == log.last_id
        log.append("missed")
        async with client.events("/events", last_event_id=first.last_event_id) as second:
            assert (await anext(second)).data == "missed"


async def test_events_between_the_handler_and_the_producer() -> None:
    """``follow`` begins where the log was when it was called."""
    log, received = EventLog(), list[str]()

    class Client:
        async def send(self, data: str, **_: Any) -> None:
            received.append(data)
            scope.cancel()

        async def send_id(self, id: str) -> None:
            received.append(id)

    begin = log.last_id
    produce = log.follow("")
    log.append("new")
    with trio.CancelScope() as scope:
        await produce(Client())
    assert received == [begin, "new"]
