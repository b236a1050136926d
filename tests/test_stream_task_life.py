"""Stream tasks: when a task of ``start_soon`` starts and ends, and which stream it belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, ConnectionClosed, Message, WhenLeft
from humphrey_trio.testing import open_websocket, websocket_client
from tests.support.apps import linked, staged
from tests.support.clients import read_away
from tests.support.logs import errors
from tests.support.stream_ends import ENDS, End, new_app, starting

# --------------------------------------------------------------------------------------- start and end


async def test_task_runs_beside_handlers(autojump_clock: trio.testing.MockClock) -> None:
    """A task starts while its connect handler runs, and runs concurrently with message handlers."""

    async def tick(stream: AsyncStream) -> None:
        for number in range(6):
            await stream.send(f"tick {number} at {trio.current_time() - begun:g}")
            await trio.sleep(1)

    async def on_connect(stream: AsyncStream, state: None) -> None:
        stream.start_soon(tick, stream)
        await trio.sleep(1.5)
        await stream.send("connected")

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(2)
        await stream.send("handled")

    app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(on_message)
    async with linked(app) as http_app:
        begun = trio.current_time()
        async with websocket_client(http_app) as client:
            await client.send("work")
            received = [(await client.receive()).text for _ in range(8)]
    assert received == [
        "tick 0 at 0",
        "tick 1 at 1",
        "connected",
        "tick 2 at 2",
        "tick 3 at 3",
        "handled",
        "tick 4 at 4",
        "tick 5 at 5",
    ]


@pytest.mark.parametrize("end", ENDS)
async def test_tasks_end_before_the_disconnect_handler(end: End, autojump_clock: trio.testing.MockClock) -> None:
    """However a stream ends, its tasks are cancelled, and have ended when the disconnect handler begins."""
    entries: list[str] = []
    streams: list[AsyncStream] = []

    async def simple(stream: AsyncStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            entries.append("cancelled")

    async def thorough(stream: AsyncStream) -> None:
        streams.append(stream)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.3)
            entries.append("cleaned up")

    shutdown = trio.Event()
    app = new_app(starting(simple, thorough), lambda stream: entries.append("disconnect"))
    async with staged(app.with_shutdown(shutdown)) as stage:
        client = await open_websocket(stage.connect())
        await client.send("wait for the connect handler")
        await client.receive()
        assert app.statistics().tasks_running == 2

        await end(stage, client, streams[0], shutdown)
        await trio.sleep(2)

        assert entries == ["cancelled", "cleaned up", "disconnect"]
        assert app.statistics().tasks_running == 0


async def test_tasks_do_not_wait_for_handlers(autojump_clock: trio.testing.MockClock) -> None:
    """Tasks are cancelled when their stream ends, even if a handler of it may finish."""
    entries: list[tuple[str, float]] = []

    async def work(stream: AsyncStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            entries.append(("task", trio.current_time() - begun))

    async def on_connect(stream: AsyncStream) -> None:
        stream.start_soon(work, stream)
        await trio.sleep(5)
        entries.append(("handler", trio.current_time() - begun))

    app = new_app(on_connect, when_left=WhenLeft.FINISH)
    async with linked(app) as http_app:
        begun = trio.current_time()
        async with websocket_client(http_app):
            await trio.sleep(2)
        await trio.sleep(5)
    assert entries == [("task", pytest.approx(2)), ("handler", pytest.approx(5))]


async def test_task_that_returns(autojump_clock: trio.testing.MockClock) -> None:
    """A task may return before its client disconnects; the stream stays open."""

    async def short(stream: AsyncStream) -> None:
        await stream.send("done")

    app = new_app(starting(short))
    async with linked(app) as http_app, websocket_client(http_app) as client:
        assert (await client.receive()).text == "done"
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().tasks_running == 0
        await client.send("are you there?")
        assert (await client.receive()).text == "are you there?"


async def test_tasks_of_other_streams_go_on(autojump_clock: trio.testing.MockClock) -> None:
    """A disconnect cancels only the tasks of its own stream."""
    running: set[int] = set()

    async def work(stream: AsyncStream) -> None:
        running.add(stream.id)
        try:
            await trio.sleep_forever()
        finally:
            running.remove(stream.id)

    app = new_app(starting(work))
    async with linked(app) as http_app, websocket_client(http_app):
        async with websocket_client(http_app):
            await trio.testing.wait_all_tasks_blocked()
            assert len(running) == 2
        await trio.testing.wait_all_tasks_blocked()
        assert len(running) == app.statistics().tasks_running == 1
    assert running == set()


async def test_task_starts_tasks(autojump_clock: trio.testing.MockClock) -> None:
    """A task may start tasks; all of them end before the disconnect handler runs."""
    entries: list[str] = []

    async def work(generation: int, stream: AsyncStream) -> None:
        if generation < 3:
            stream.start_soon(work, generation + 1, stream)
            stream.start_soon(work, generation + 1, stream)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(generation)
            entries.append(f"ended {generation}")

    app = new_app(starting(partial(work, 0)), lambda stream: entries.append("disconnect"))
    async with linked(app) as http_app:
        async with websocket_client(http_app):
            await trio.testing.wait_all_tasks_blocked()
            assert app.statistics().tasks_running == 15
        await trio.sleep(5)
    assert entries == ["ended 0"] + 2 * ["ended 1"] + 4 * ["ended 2"] + 8 * ["ended 3"] + ["disconnect"]


@pytest.mark.parametrize("starter", ["message handler", "another client's handler", "a task without a stream"])
async def test_start_soon_from_any_task(starter: str, autojump_clock: trio.testing.MockClock) -> None:
    """A task belongs to the stream on which it was started, whichever task starts it."""
    streams: list[AsyncStream] = []
    entries: list[str] = []

    async def work() -> None:
        entries.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            entries.append("ended")

    async def on_connect(stream: AsyncStream, state: None) -> None:
        streams.append(stream)

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        streams[0].start_soon(work)

    app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(on_message)
    async with linked(app) as http_app:
        async with websocket_client(http_app) as owner:
            await trio.testing.wait_all_tasks_blocked()
            async with websocket_client(http_app) as other:
                if starter == "message handler":
                    await owner.send("go")
                elif starter == "another client's handler":
                    await other.send("go")
                else:
                    streams[0].start_soon(work)
            await trio.sleep(1)
            assert entries == ["begun"]
        await trio.sleep(1)
        assert entries == ["begun", "ended"]


async def test_start_soon_on_a_closed_stream(autojump_clock: trio.testing.MockClock) -> None:
    """``start_soon`` on a closed stream raises ConnectionClosed, even while other tasks are ending."""
    refused: list[tuple[str, int]] = []

    def try_to_start(where: str, stream: AsyncStream) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            stream.start_soon(trio.sleep_forever)
        refused.append((where, caught.value.code))

    async def work(stream: AsyncStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            try_to_start("task", stream)

    app = new_app(starting(work), partial(try_to_start, "disconnect"))
    async with linked(app) as http_app:
        async with websocket_client(http_app) as client:
            await client.close(4000)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == [("task", 4000), ("disconnect", 4000)]
        assert app.statistics().tasks_running == 0


async def test_start_soon_after_our_close(autojump_clock: trio.testing.MockClock) -> None:
    """A stream whose Close was sent takes no task; its tasks run until the client has answered."""
    entries: list[str] = []

    async def work(stream: AsyncStream) -> None:
        await stream.close(4000)
        with pytest.raises(ConnectionClosed):
            stream.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            entries.append(f"cancelled at {trio.current_time() - begun:g}")

    async with linked(new_app(starting(work))) as http_app:
        begun = trio.current_time()
        async with websocket_client(http_app) as client:
            await trio.sleep(2)
            assert entries == []
            await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert entries == ["cancelled at 2"]


# ------------------------------------------------------------------------------------------- trio's features

colour: ContextVar[str] = ContextVar("colour", default="none")


async def test_context_variables_of_a_task(autojump_clock: trio.testing.MockClock) -> None:
    """A task copies the context of the task that starts it, as in a nursery."""

    async def work(stream: AsyncStream) -> None:
        seen = colour.get()
        colour.set("changed in the task")
        await stream.send(f"task: {seen}")

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        before = colour.get()
        if message.text is not None:
            colour.set(message.text)
            stream.start_soon(work, stream)
        await trio.sleep(1)
        await stream.send(f"handler: {before} to {colour.get()}")

    app = AsyncWebsocketApp.new_unlinked().with_message_handler(on_message)
    async with linked(app) as http_app, websocket_client(http_app) as client:
        await client.send("red")
        assert [(await client.receive()).text for _ in range(2)] == ["task: red", "handler: none to red"]
        await client.send("green")
        assert [(await client.receive()).text for _ in range(2)] == ["task: green", "handler: red to green"]


async def test_task_has_the_name_of_its_function(autojump_clock: trio.testing.MockClock) -> None:
    """trio's debugging tools show a task with the name of its function."""
    names: list[str] = []

    async def feed(stream: AsyncStream) -> None:
        names.append(trio.lowlevel.current_task().name)

    async with linked(new_app(starting(feed, partial(feed)))) as http_app, websocket_client(http_app):
        await trio.testing.wait_all_tasks_blocked()
    assert names == 2 * [f"{__name__}.{feed.__qualname__}"]


async def test_task_can_be_interrupted(autojump_clock: trio.testing.MockClock) -> None:
    """Ctrl-C is raised in a task, so that it can end a busy one."""
    protected: list[bool] = []

    async def work(stream: AsyncStream) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())
        await trio.lowlevel.checkpoint()
        protected.append(trio.lowlevel.currently_ki_protected())

    async with linked(new_app(starting(work))) as http_app, websocket_client(http_app):
        await trio.testing.wait_all_tasks_blocked()
    assert protected == [False, False]


async def test_keyboard_interrupt_in_a_task_ends_the_app(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """KeyboardInterrupt in a task ends the app, after the disconnect handlers."""
    ended: list[int] = []

    async def work(stream: AsyncStream) -> None:
        await trio.sleep(1)
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  (the whole app is what raises)
        app = new_app(starting(work), lambda stream: ended.append(stream.id))
        async with linked(app) as http_app, websocket_client(http_app) as client:
            await read_away(client)
    interrupts, rest = caught.value.split(KeyboardInterrupt)
    assert interrupts is not None
    assert rest is None
    assert len(ended) == 1
    assert errors(caplog) == []


async def test_start_soon_refuses_invalid_arguments(autojump_clock: trio.testing.MockClock) -> None:
    """``start_soon`` refuses a coroutine object, and arguments that do not fit the function."""
    refused: list[str] = []

    async def work() -> None:
        pass

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        called: Any = work()
        try:
            stream.start_soon(called)
        except TypeError as exc:
            refused.append(str(exc))
        finally:
            called.close()

    app = AsyncWebsocketApp.new_unlinked().with_message_handler(on_message)
    async with linked(app) as http_app, websocket_client(http_app) as client:
        await client.send("text")
        await trio.testing.wait_all_tasks_blocked()
    assert len(refused) == 1
    assert refused[0].startswith("pass the async function and its arguments, start_soon(f, x), not <coroutine")
