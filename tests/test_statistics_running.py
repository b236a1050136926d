"""Statistics of apps: connections, the hook, handlers and tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, async_websocket_handler
from humphrey_trio.websocket import WhenFull, WhenLeft
from tests.support import PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.held_app import A_WHILE, HOOK_SIZE, LOCKSTEP, NEW, NOTHING, HeldApp
from tests.support.wire import TEXT, client_frame, close_frame, request_bytes

# ----------------------------------------------------------------------------------------------- values


def test_statistics_are_values() -> None:
    """Statistics are frozen, have only their fields, and are equal by value."""
    for value in (NOTHING, NEW):
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, 1)
        assert not hasattr(value, "__dict__")
        assert dataclasses.replace(value) == value
        assert dataclasses.replace(value, dropped=1) != value


async def test_statistics_are_a_snapshot() -> None:
    """Statistics do not change later, and changing a value in them does not change the app."""
    async with HeldApp().open() as held_app:
        await held_app.join()
        (stream,) = held_app.streams
        stream.subscribe("news")
        before, of_stream = held_app.app.statistics(), stream.statistics()
        stream.subscribe("weather")
        await stream.send("hello")
        assert before == dataclasses.replace(NOTHING, connections=1, subscribers={"news": 1})
        assert of_stream == NEW
        assert isinstance(before.subscribers, dict)
        before.subscribers.clear()
        assert held_app.app.statistics().subscribers == {"news": 1, "weather": 1}


# ----------------------------------------------------------------------------------------- connections and hook


async def test_statistics_before_and_after_the_run(autojump_clock: trio.testing.MockClock) -> None:
    """Before the run an app counts its hook, during the run its streams, and afterwards the totals remain."""
    held_app = HeldApp(max_outbox_messages=1)
    held_app.check()
    app = App().with_websocket_route("/", async_websocket_handler(held_app.app.connect_hook()))
    async with served_in_memory(app, LOCKSTEP) as connect, trio.open_nursery() as nursery:
        clients = [await RawClient(connect()).open() for _ in range(3)]
        held_app.check(waiting_in_hook=3)
        nursery.start_soon(held_app.app.run)
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=3)
        for _ in range(3):
            await held_app.app.sender().broadcast("hello", when_full=WhenFull.DROP_NEWEST)
            await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=3, dropped=3, queued_messages=6, queued_bytes=6 * 7)
        await clients[0].send(close_frame(1000))
        assert [frame[1] for frame in await clients[0].rest()][:2] == [b"hello"] * 2
        held_app.check(connections=2, dropped=3, queued_messages=4, queued_bytes=4 * 7)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        held_app.check(dropped=3)
    held_app.check(dropped=5)  # two messages waited when the HTTP app ended


@pytest.mark.parametrize("options", [{}, {"max_connections": 2}], ids=["before it runs", "while it is full"])
async def test_statistics_of_the_hook(options: dict[str, Any], autojump_clock: trio.testing.MockClock) -> None:
    """Streams in the hook and upgrades that wait for a place in it are counted."""
    held_app = HeldApp(**options)
    served = options.get("max_connections", 0)
    app = App().with_websocket_route("/", async_websocket_handler(held_app.app.connect_hook()))
    async with served_in_memory(app) as connect, trio.open_nursery() as nursery:
        if served:
            nursery.start_soon(held_app.app.run)
        clients = [await RawClient(connect()).open() for _ in range(served)]
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=served)
        clients += [RawClient(connect()) for _ in range(HOOK_SIZE + 3)]
        for number, client in enumerate(clients[served:], 1):
            await client.send(request_bytes("GET / HTTP/1.1"))
            await trio.testing.wait_all_tasks_blocked()
            waiting = {"waiting_in_hook": min(number, HOOK_SIZE), "waiting_for_hook": max(number - HOOK_SIZE, 0)}
            held_app.check(connections=served, **waiting)
        await trio.sleep(2)
        held_app.check(connections=served, waiting_in_hook=HOOK_SIZE)
        assert [(await client.reply()).status for client in clients[served:]] == [101] * HOOK_SIZE + [503] * 3
        if served:
            await clients[0].send(close_frame(1000))
            await trio.testing.wait_all_tasks_blocked()
            held_app.check(connections=served, waiting_in_hook=HOOK_SIZE - 1)
        else:
            nursery.start_soon(held_app.app.run)
            await trio.testing.wait_all_tasks_blocked()
            held_app.check(connections=HOOK_SIZE)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
    held_app.check()


async def test_connections_count_served_streams(autojump_clock: trio.testing.MockClock) -> None:
    """A stream counts from when the app takes it until its disconnect handler has returned."""
    async with HeldApp().open() as held_app:
        clients = [await held_app.join() for _ in range(4)]
        held_app.check(connections=4)
        await clients[0].send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=3)
        await trio.aclose_forcefully(clients[1].stream)
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2)
        await held_app.streams[2].close()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2)  # the client has not answered yet
        await clients[2].send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=1)


async def test_statistics_of_subscribers() -> None:
    """The subscribers of each topic are counted; a topic without subscribers is not listed."""
    async with HeldApp().open() as held_app:
        client, *_ = [await held_app.join() for _ in range(3)]
        one, two, three = held_app.streams
        for stream in (one, two, three):
            stream.subscribe("all")
        one.subscribe(("of", "one"))
        two.subscribe(None)
        two.unsubscribe(None)
        held_app.check(connections=3, subscribers={"all": 3, ("of", "one"): 1})
        await client.send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2, subscribers={"all": 2})


# ------------------------------------------------------------------------------------------ handlers and tasks


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_message_handlers_running(concurrency: int, autojump_clock: trio.testing.MockClock) -> None:
    """Running message handlers are counted; waiting messages count as read ahead."""
    async with HeldApp(concurrency=concurrency).open() as held_app:
        clients = [await held_app.join() for _ in range(2)]
        for number in range(1, 6):
            await clients[0].send(client_frame(TEXT, b"work"))
            await trio.sleep(A_WHILE)
            running = min(number, concurrency)
            held_app.check(connections=2, handlers_running=running, read_ahead=number - running)
        assert held_app.streams[0].statistics() == dataclasses.replace(
            NEW, messages_received=5, bytes_received=5 * 10, read_ahead=5 - concurrency
        )
        await clients[1].send(client_frame(TEXT, b"work"))
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2, handlers_running=concurrency + 1, read_ahead=5 - concurrency)
        held_app.go.set()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2)
        assert held_app.handled == 6


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_connect_and_disconnect_handlers_running(
    concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Connect and disconnect handlers count as running; a stream counts until the latter has returned."""
    go = trio.Event()

    async def wait(stream: AsyncStream[None], state: None) -> None:
        await go.wait()

    held_app = HeldApp(concurrency=concurrency)
    held_app.app.with_connect_handler(wait).with_disconnect_handler(wait)
    async with held_app.open():
        clients = [await held_app.join() for _ in range(2)]
        held_app.check(connections=2, handlers_running=2)
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2)
        go = trio.Event()
        for number, client in enumerate(clients, 1):
            await client.send(close_frame(1000))
            await trio.testing.wait_all_tasks_blocked()
            held_app.check(connections=2, handlers_running=number)
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check()


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("how", ["fails", "is cancelled", "finishes"])
async def test_handlers_that_fail_or_are_cancelled(
    how: str, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler that has failed or was cancelled no longer counts; one that may finish counts until it returns."""
    when_left = WhenLeft.FINISH if how == "finishes" else WhenLeft.CANCEL
    async with HeldApp(concurrency=concurrency, when_left=when_left).open() as held_app:
        client = await held_app.join()
        await client.send(client_frame(TEXT, b"fail" if how == "fails" else b"work"))
        await trio.sleep(A_WHILE)
        held_app.check(connections=1, handlers_running=1)
        if how == "fails":
            held_app.go.set()
            await trio.testing.wait_all_tasks_blocked()
            held_app.check(connections=1)  # the client has not answered yet
        await client.send(close_frame(1000))
        await trio.sleep(A_WHILE)
        if how == "finishes":
            held_app.check(connections=1, handlers_running=1)
            held_app.go.set()
            await trio.testing.wait_all_tasks_blocked()
        held_app.check()


async def test_tasks_running(autojump_clock: trio.testing.MockClock) -> None:
    """The tasks of streams count until they have ended, also after the client has disconnected."""
    ends = [trio.Event() for _ in range(3)]

    async def work(end: trio.Event, stubborn: bool) -> None:
        with trio.move_on_after(PATIENCE, shield=stubborn):
            await end.wait()

    async with HeldApp().open() as held_app:
        client, _ = [await held_app.join() for _ in range(2)]
        leaver, stayer = held_app.streams
        for stream, end, stubborn in ((leaver, ends[0], False), (leaver, ends[1], True), (stayer, ends[2], False)):
            stream.start_soon(work, end, stubborn)
        held_app.check(connections=2, tasks_running=3)
        await client.send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2, tasks_running=2)
        ends[1].set()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=1, tasks_running=1)
        ends[2].set()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=1)
