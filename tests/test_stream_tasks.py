"""Work that belongs to one client, and the time that it has: ``start_soon`` and ``set_deadline``."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import inf, nan
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Drain,
    Message,
    Response,
    Timeouts,
    WebsocketStream,
    WhenLeft,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._server._connection import HttpConnection
from humphrey_trio._websocket._app._session import Session
from humphrey_trio._websocket._app._stream_tasks import StreamTasks
from humphrey_trio._websocket._stream._connection import WebsocketConnection
from humphrey_trio._websocket._stream._inbox import Inbox
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio._websocket._stream._stream import connection_of
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from humphrey_trio.websocket import Upgrade
from tests.support.apps import Stage, linked, served_in_memory, staged
from tests.support.cancellation import BOTH, Handlers, cancel_at_every_step, echo, name_all, serve_stream
from tests.support.clients import RawClient, half_close, read_away
from tests.support.logs import errors
from tests.support.times import SWEEP, soon_after
from tests.support.wire import CLOSE, TEXT, request_bytes

End = Callable[[Stage, WebsocketClient, AsyncStream[Any], trio.Event], Awaitable[object]]


def new_app(
    on_connect: Callable[[AsyncStream[Any]], Awaitable[object]] | None = None,
    on_disconnect: Callable[[AsyncStream[Any]], object] | None = None,
    **options: Any,
) -> AsyncWebsocketApp[Any, Any]:
    """An app that echoes, with stateless handlers. Its disconnect handler is a plain function."""

    async def connect(stream: AsyncStream[Any], state: None) -> None:
        if on_connect is not None:
            await on_connect(stream)

    async def message(stream: AsyncStream[Any], message: Message, state: None) -> None:
        await stream.send(message)

    async def disconnect(stream: AsyncStream[Any], state: None) -> None:
        if on_disconnect is not None:
            on_disconnect(stream)

    return (
        AsyncWebsocketApp.new_unlinked(**options)
        .with_connect_handler(connect)
        .with_message_handler(message)
        .with_disconnect_handler(disconnect)
    )


def starting(*tasks: Callable[[AsyncStream[Any]], Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    """A connect handler that starts tasks."""

    async def on_connect(stream: AsyncStream[Any]) -> None:
        for task in tasks:
            stream.start_soon(task, stream)

    return on_connect


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


async def client_closes(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    await client.close(4000)


async def client_resets(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    await client.disconnect()


async def client_ends(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    await half_close(client.stream)


async def server_closes(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    await stream.close()
    await read_away(client)


async def client_is_silent(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    await stream.close()
    await trio.sleep(Timeouts().close + SWEEP)


async def deadline_passes(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    stream.set_deadline(1)
    await read_away(client)


async def app_drains(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    shutdown.set()
    await read_away(client)


async def websocket_app_is_cancelled(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    stage.websocket.cancel()
    await read_away(client)


async def http_app_is_cancelled(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    stage.http.cancel()
    await read_away(client)


ENDS: list[End] = [
    client_closes,
    client_resets,
    client_ends,
    client_is_silent,
    server_closes,
    deadline_passes,
    app_drains,
    websocket_app_is_cancelled,
    http_app_is_cancelled,
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


# ------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_task_that_fails(
    depth: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that raises closes its stream with 1011, is logged once with its traceback, and affects no other."""
    ended: list[tuple[int | None, str, object]] = []
    siblings: list[str] = []

    async def fail(depth: int) -> None:
        await trio.sleep(1)
        if depth == 0:
            raise ValueError("the feed has broken")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, depth - 1)
            nursery.start_soon(trio.sleep_forever)

    async def sibling(stream: AsyncStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            siblings.append("cancelled")

    async def on_connect(stream: AsyncStream) -> None:
        if stream.request.path == "/fail":
            stream.start_soon(sibling, stream)
            stream.start_soon(fail, depth)

    def on_disconnect(stream: AsyncStream) -> None:
        assert stream.close_record is not None
        ended.append((stream.close_code, stream.close_record.cause, stream.close_record.exception))

    app = new_app(on_connect, on_disconnect)
    async with linked(app, "/*") as http_app, websocket_client(http_app, "/other") as other:
        async with websocket_client(http_app, "/fail") as client:
            await read_away(client)
            assert client.close_code == 1011
        await trio.testing.wait_all_tasks_blocked()
        (logged,) = errors(caplog)
        assert "ValueError: the feed has broken" in caplog.text
        assert "in fail" in caplog.text
        assert logged.exc_info is not None
        assert ended == [(1011, "one of its tasks failed", logged.exc_info[1])]
        assert siblings == ["cancelled"]

        await other.send("are you there?")
        assert (await other.receive()).text == "are you there?"


async def test_task_that_raises_a_group(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception group of a task is logged whole and once."""

    async def fail(error: Exception) -> None:
        raise error

    async def work(stream: AsyncStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("first"))
            nursery.start_soon(fail, KeyError("second"))
            nursery.start_soon(fail, ConnectionClosed(1006))

    async with linked(new_app(starting(work))) as http_app, websocket_client(http_app) as client:
        await read_away(client)
        assert client.close_code == 1011
    assert len(errors(caplog)) == 1
    assert caplog.text.count("ValueError: first") == caplog.text.count("KeyError: 'second'") == 1


async def test_tasks_that_fail_one_after_the_other(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure of a stream's tasks is logged; the first one is the cause of the close."""
    ended: list[object] = []

    async def fail_at(seconds: float, stream: AsyncStream) -> None:
        await trio.sleep(seconds)
        raise ValueError(f"at {seconds}")

    def on_disconnect(stream: AsyncStream) -> None:
        assert stream.close_record is not None
        ended.append(str(stream.close_record.exception))

    app = new_app(starting(partial(fail_at, 2), partial(fail_at, 1)), on_disconnect)
    async with linked(app) as http_app, websocket_client(http_app) as client:
        await trio.sleep(3)
        await read_away(client)
        assert client.close_code == 1011
        await trio.testing.wait_all_tasks_blocked()
    assert ended == ["at 1"]
    assert len(errors(caplog)) == 2


@pytest.mark.parametrize("in_nursery", [False, True])
@pytest.mark.parametrize("end", [client_closes, client_resets, websocket_app_is_cancelled])
async def test_task_that_fails_while_it_is_cancelled(
    end: End, in_nursery: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What a task raises while it is cancelled is logged once, and ends neither the app nor other streams."""
    streams: list[AsyncStream] = []
    ended: list[int] = []

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async def work(stream: AsyncStream) -> None:
        streams.append(stream)
        if not in_nursery:
            await fail_at_the_end()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            await trio.sleep_forever()

    app = new_app(starting(work), lambda stream: ended.append(stream.id))
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        await trio.testing.wait_all_tasks_blocked()
        await end(stage, client, streams[0], trio.Event())
        await trio.sleep(1)
        assert ended == [streams[0].id]
        assert len(errors(caplog)) == 1
        assert "ValueError: cleaning up failed" in caplog.text

        if not stage.websocket.cancel_called:
            other = await open_websocket(stage.connect())
            await other.send("are you there?")
            assert (await other.receive()).text == "are you there?"


@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_task_that_raises_connection_closed(
    depth: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """ConnectionClosed of a task's own stream is no failure."""
    ended: list[tuple[int | None, str]] = []

    async def send_in(depth: int, stream: AsyncStream) -> None:
        if depth == 0:
            with trio.CancelScope(shield=True):
                while True:
                    await stream.send("tick")
                    await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_in, depth - 1, stream)

    def on_disconnect(stream: AsyncStream) -> None:
        assert stream.close_record is not None
        ended.append((stream.close_code, stream.close_record.cause))

    async with linked(new_app(starting(partial(send_in, depth)), on_disconnect)) as http_app:
        async with websocket_client(http_app) as client:
            await client.receive()
            await client.close(4000)
        await trio.sleep(2)
    assert ended == [(4000, "")]
    assert errors(caplog) == []


async def test_task_that_raises_connection_closed_of_another_stream(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """ConnectionClosed out of a task is a failure while its own stream is open."""

    async def work(stream: AsyncStream) -> None:
        raise ConnectionClosed(1006)

    async with linked(new_app(starting(work))) as http_app, websocket_client(http_app) as client:
        await read_away(client)
        assert client.close_code == 1011
    assert len(errors(caplog)) == 1


async def test_task_that_is_not_async(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A plain function instead of an async function is a failure of its stream."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.start_soon(lambda: None)  # type: ignore[arg-type,return-value]

    async with linked(new_app(on_connect)) as http_app, websocket_client(http_app) as client:
        await read_away(client)
        assert client.close_code == 1011
    assert "TypeError" in caplog.text


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


# --------------------------------------------------------------------------------------------------- leaks

#: The classes of the objects of one connection.
PARTS = (AsyncStream, Session, WebsocketStream, WebsocketConnection, Inbox, StreamTasks, Outbox, HttpConnection)


def find_parts() -> list[object]:
    return [found for found in gc.get_objects() if type(found) in PARTS]


@contextmanager
def without_collector() -> Generator[Callable[[], list[str]]]:
    """Disable the garbage collector. Yields a function that returns which parts were made and which remain."""
    gc.collect()
    gc.disable()
    older = find_parts()  # pytest keeps exceptions of other tests, which may refer to parts
    known = set(map(id, older))
    try:
        yield lambda: sorted(type(found).__name__ for found in find_parts() if id(found) not in known)
    finally:
        gc.enable()


#: The objects of a whole app may wait for the collector, like the exceptions that end it.
ENDS_OF_APPS = (app_drains, http_app_is_cancelled, websocket_app_is_cancelled)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("end", [end for end in ENDS if end not in ENDS_OF_APPS])
async def test_closed_stream_leaves_nothing(
    end: End, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream that has ended leaves no task, and no object that waits for the garbage collector."""
    streams: list[AsyncStream] = []

    async def work(stream: AsyncStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stream.close()

    async def on_connect(stream: AsyncStream) -> None:
        streams.append(stream)
        stream.start_soon(work, stream)
        stream.start_soon(trio.lowlevel.checkpoint)
        stream.set_deadline(1000)

    async with staged(new_app(on_connect, concurrency=concurrency)) as stage:
        await trio.testing.wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        with without_collector() as living_parts:
            client = await open_websocket(stage.connect())
            await client.send("hello")
            await client.receive()
            assert {"AsyncStream", "Session", "WebsocketConnection", "StreamTasks"} <= set(living_parts())
            await end(stage, client, streams.pop(), trio.Event())
            await trio.sleep(2)
            del client
            assert living_parts() == []
        if not stage.http.cancel_called:
            assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("path", ["/", "/own", "/plain"])
async def test_connection_without_tasks_leaves_nothing(path: str, autojump_clock: trio.testing.MockClock) -> None:
    """A stream without tasks, a ``websocket_handler`` and a plain HTTP connection leave nothing either."""

    async def own(stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await stream.send(message)

    app = App().with_stateless_route("/plain", lambda _: Response(200))
    async with staged(new_app(), app.with_websocket_route("/own", websocket_handler(own))) as stage:
        with without_collector() as living_parts:
            connection = stage.connect()
            if path == "/plain":
                client = RawClient(connection)
                await client.send(request_bytes("GET /plain HTTP/1.1", [("Host", "a")]))
                assert (await client.reply()).status == 200
            else:
                websocket = await open_websocket(connection, path)
                await websocket.send("hello")
                await websocket.receive()
                await websocket.close()
            await connection.aclose()
            await trio.sleep(1)
            assert living_parts() == []


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
async def test_tasks_cancelled_at_every_step(
    cancelled: set[str], concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Apps that are cancelled at any step leave no task of a stream, and disconnect once, after all tasks."""

    def in_memory(handlers: Handlers) -> Any:
        working: set[trio.lowlevel.Task] = set()

        async def work(stream: AsyncStream, more: int) -> None:
            task = trio.lowlevel.current_task()
            working.add(task)
            try:
                if more:
                    stream.start_soon(work, stream, more - 1)
                await trio.sleep(0.5)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                working.remove(task)

        async def on_connect(stream: AsyncStream, state: None) -> None:
            await handlers.connect(stream, state)
            stream.start_soon(work, stream, 1)

        async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
            stream.start_soon(work, stream, 0)
            await handlers.message(stream, message, state)

        async def on_disconnect(stream: AsyncStream, state: None) -> None:
            if not working:
                await handlers.disconnect(stream, state)

        websocket_app = (
            AsyncWebsocketApp.new_unlinked(concurrency=concurrency)
            .with_connect_handler(on_connect)
            .with_message_handler(on_message)
            .with_disconnect_handler(on_disconnect)
        )
        app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
        ours, theirs = trio.testing.memory_stream_pair()

        async def connect() -> trio.abc.Stream:
            return ours

        return {"http": (serve_stream, (app, theirs)), "websocket": (websocket_app.run, ())}, lambda _: connect

    await cancel_at_every_step(in_memory, echo, cancelled)


# ---------------------------------------------------------------------------------------------- deadlines


class Ends:
    """An app that records when its streams end, and why, in seconds since its construction."""

    def __init__(
        self, on_connect: Callable[[AsyncStream[Any]], Awaitable[object]] | None = None, **options: Any
    ) -> None:
        self._begun = trio.current_time()
        self.entries: list[tuple[float, int | None, str | None]] = []
        self.causes: list[str] = []
        self.app = new_app(on_connect, self._note, **options)

    def _note(self, stream: AsyncStream[Any]) -> None:
        assert stream.close_record is not None
        self.entries.append((trio.current_time() - self._begun, stream.close_code, stream.close_reason))
        self.causes.append(stream.close_record.cause)


@pytest.mark.parametrize("seconds", [0.001, 0.3, 1, 90.1])
async def test_deadline_closes_the_stream(seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline closes its stream with its code and reason, up to a quarter of a second late."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(seconds, 4003, "the token has expired")

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        with pytest.raises(ConnectionClosed) as caught, trio.fail_after(seconds + 1):
            await client.receive()
        assert (caught.value.code, caught.value.reason) == (4003, "the token has expired")
        await trio.testing.wait_all_tasks_blocked()
        assert ends.entries == [(soon_after(seconds), 4003, "the token has expired")]
        assert ends.causes == ["its deadline has passed"]


@pytest.mark.parametrize("path", ["/", "/own"])
async def test_deadline_without_a_code(path: str, autojump_clock: trio.testing.MockClock) -> None:
    """Without a code, a deadline closes with 1008."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(1)

    async def own(stream: WebsocketStream, state: None) -> None:
        stream.set_deadline(1)
        await stream.receive()

    async with linked(new_app(on_connect)) as http_app:
        http_app.with_websocket_route("/own", websocket_handler(own))
        async with websocket_client(http_app, path) as client:
            with trio.fail_after(2):
                await read_away(client)
            assert client.close_code == 1008


@pytest.mark.parametrize(
    ("again", "end"),
    [
        (5.0, (soon_after(7), 4002, "second")),
        (0.5, (soon_after(2.5), 4002, "second")),
        (inf, (soon_after(20), 4000, "")),
    ],
)
async def test_deadline_is_replaced(again: float, end: object, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline replaces the one before, whether it is later or earlier; ``inf`` removes it."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(3, 4001, "first")
        await trio.sleep(2)
        stream.set_deadline(again, 4002, "second")

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        with trio.move_on_after(20):
            await read_away(client)
        await client.close(4000)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [end]


async def test_queued_messages_precede_the_close_of_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """At the deadline of a slow client, all queued messages precede the Close frame."""
    count, size = 50, 20_000  # more than is written at once

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(1, 4003)
        for number in range(count):
            await stream.send(f"{number}".zfill(size))

    ends = Ends(on_connect)
    async with staged(ends.app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        client = await RawClient(stage.connect()).open()
        await trio.sleep(2)
        frames = [await client.frame() for _ in range(count + 1)]
    sent = [(TEXT, f"{number}".zfill(size).encode()) for number in range(count)]
    assert frames == [*sent, (CLOSE, (4003).to_bytes(2, "big"))]
    assert ends.causes == ["its deadline has passed"]


@pytest.mark.parametrize("where", ["connect", "message", "task", "outside"])
async def test_deadline_cancels_busy_handlers(where: str, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline holds whichever task sets it, and while a handler is busy, which is then cancelled."""
    streams: list[AsyncStream] = []
    cancelled: list[float] = []

    async def be_busy() -> None:
        try:
            await trio.sleep(100)
        finally:
            cancelled.append(trio.current_time() - begun)

    async def work(stream: AsyncStream) -> None:
        stream.set_deadline(2, 4003)

    async def on_connect(stream: AsyncStream, state: None) -> None:
        streams.append(stream)
        if where == "connect":
            stream.set_deadline(2, 4003)
            await be_busy()
        elif where == "task":
            stream.start_soon(work, stream)

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        if where == "message":
            stream.set_deadline(2, 4003)
        await be_busy()

    app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(on_message)
    async with linked(app) as http_app:
        begun = trio.current_time()
        async with websocket_client(http_app) as client:
            await client.send("work")
            await trio.testing.wait_all_tasks_blocked()
            if where == "outside":
                streams[0].set_deadline(2, 4003)
            await read_away(client)
            assert client.close_code == 4003
            await trio.testing.wait_all_tasks_blocked()
    assert cancelled == [soon_after(2)]


async def test_deadline_set_by_stream_state(autojump_clock: trio.testing.MockClock) -> None:
    """A ``stream_state`` factory may set a deadline from the value of the route's ``accept``."""

    def new_state(stream: WebsocketStream) -> None:
        stream.set_deadline(float(stream.request.query), 4003)

    ends = Ends(stream_state=new_state)
    async with linked(ends.app) as http_app, websocket_client(http_app, "/?3") as client:
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [(soon_after(3), 4003, "")]


@pytest.mark.parametrize("kind", ["websocket_handler", "Upgrade.accept", "channel"])
async def test_deadlines_without_an_app(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    """Streams without a WebSocket app have deadlines; the task that receives gets ConnectionClosed."""
    codes: list[int] = []
    received: list[str | None] = []

    async def converse(stream: WebsocketStream) -> None:
        stream.set_deadline(1, 4001)
        stream.set_deadline(2, 4003, "over")
        try:
            while True:
                received.append((await stream.receive()).text)
        except ConnectionClosed as exc:
            codes.append(exc.code)
        assert stream.close_record is not None
        assert stream.close_record.cause == "its deadline has passed"

    async def own(stream: WebsocketStream, state: None) -> None:
        await converse(stream)

    async def accept(upgrade: Upgrade, state: None) -> None:
        await converse(await upgrade.accept())

    hook, streams = trio.open_memory_channel[WebsocketStream](1)

    async def take() -> None:
        await converse(await streams.receive())

    routes: dict[str, Any] = {
        "websocket_handler": websocket_handler(own),
        "Upgrade.accept": accept,
        "channel": async_websocket_handler(hook),
    }
    async with trio.open_nursery() as nursery:
        if kind == "channel":
            nursery.start_soon(take)
        begun = trio.current_time()
        async with websocket_client(App().with_websocket_route("/", routes[kind])) as client:
            await client.send("hello")
            with pytest.raises(ConnectionClosed, match="4003: 'over'"):
                await client.receive()
            assert trio.current_time() - begun == soon_after(2)
            await trio.testing.wait_all_tasks_blocked()
    assert received == ["hello"]
    assert codes == [4003]


@pytest.mark.parametrize("seconds", [0, -1, nan, -inf])
async def test_deadline_refuses_invalid_times(seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that is not in the future is a ValueError, and keeps the one before."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(2, 4003)
        with pytest.raises(ValueError, match="seconds above zero"):
            stream.set_deadline(seconds)

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [(soon_after(2), 4003, "")]


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (2000, ""), (5000, ""), (1008, 124 * "x")]
)
async def test_deadline_refuses_invalid_codes_and_reasons(
    code: int, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    """An invalid code or reason is a ValueError of ``set_deadline``, not of the deadline."""

    async def on_connect(stream: AsyncStream) -> None:
        with pytest.raises(ValueError, match=r"may not be sent|at most 123 bytes"):
            stream.set_deadline(1, code, reason)
        await stream.send("refused")

    async with linked(new_app(on_connect)) as http_app, websocket_client(http_app) as client:
        assert (await client.receive()).text == "refused"
        with trio.move_on_after(3) as waited:
            await client.receive()
        assert waited.cancelled_caught


async def test_deadline_of_a_closed_stream(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline on a closed stream changes neither its close nor its record."""
    streams: list[AsyncStream] = []

    async def on_connect(stream: AsyncStream) -> None:
        streams.append(stream)
        await stream.close(4000, "first")
        stream.set_deadline(1, 4003)

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app:
        async with websocket_client(http_app) as client:
            await trio.sleep(3)
            with pytest.raises(ConnectionClosed, match="4000: 'first'"):
                await client.receive()
            await trio.testing.wait_all_tasks_blocked()
        streams[0].set_deadline(1, 4003)
        await trio.sleep(3)
    assert ends.entries == [(pytest.approx(3), 4000, "first")]
    assert ends.causes == [""]


@pytest.mark.parametrize("waiting", [True, False])
async def test_deadline_of_a_refused_stream(waiting: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline on a stream that was closed before its 101 does not affect the next requests."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with served_in_memory(app) as connect:
        client = RawClient(connect())
        await client.send(request_bytes("GET / HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        stream = streams.receive_nowait()
        connection_of(stream).close(1000, "")  # before the route runs again
        if waiting:
            with pytest.raises(ConnectionClosed), trio.fail_after(1):
                await stream.receive()
        assert (await client.reply()).status == 503
        with pytest.raises(ConnectionClosed), trio.fail_after(1):
            await stream.receive()

        stream.set_deadline(1)
        await trio.sleep(3)
        await client.send(request_bytes("GET /elsewhere HTTP/1.1", [("Host", "a")]))
        assert (await client.reply()).status == 404


async def test_deadline_renewed_in_a_drain(autojump_clock: trio.testing.MockClock) -> None:
    """A client that renews its deadline does not delay a drain."""
    shutdown = trio.Event()

    async def renew(stream: AsyncStream) -> None:
        while True:
            stream.set_deadline(60, 4003)
            await trio.sleep(0.1)

    async def on_connect(stream: AsyncStream) -> None:
        await renew(stream)

    ends = Ends(on_connect)
    ends.app.with_shutdown(shutdown, Drain(patience=2))
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        await trio.sleep(1)
        shutdown.set()
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [(soon_after(3), 1001, "")]
    assert ends.causes == ["the server ends"]


async def test_deadline_that_passes_in_a_drain(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that passes during the patience of a drain closes the stream."""
    shutdown = trio.Event()

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(2, 4003)
        await trio.sleep(100)

    ends = Ends(on_connect)
    ends.app.with_shutdown(shutdown, Drain(patience=10))
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        await trio.sleep(1)
        shutdown.set()
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [(soon_after(2), 4003, "")]


async def test_a_deadline_behind_a_spread_drain(autojump_clock: trio.testing.MockClock) -> None:
    """Neither does a coroutine of its own put off the end of its HTTP app."""
    shutdown = trio.Event()

    async def own(stream: WebsocketStream, state: None) -> None:
        while not stream.closed:
            stream.set_deadline(60, 4003)
            await trio.sleep(0.1)

    app = App().with_websocket_route("/", websocket_handler(own)).with_shutdown(shutdown, Drain(spread=2))
    async with websocket_client(app) as client:
        shutdown.set()
        with trio.fail_after(2 + SWEEP):
            await read_away(client)
        assert client.close_code == 1001
