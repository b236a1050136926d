"""Streams that have ended leave no task and no object."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._server._http_connection import HttpConnection
from humphrey_trio._websocket._app._session import Session
from humphrey_trio._websocket._app._stream_tasks import StreamTasks
from humphrey_trio._websocket._stream._connection import WebsocketConnection
from humphrey_trio._websocket._stream._inbox import Inbox
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio.testing import open_websocket
from tests.support.apps import staged
from tests.support.cancellation import BOTH, Handlers, cancel_at_every_step, echo, name_all, serve_stream
from tests.support.clients import RawClient
from tests.support.stream_ends import (
    ENDS,
    End,
    app_drains,
    http_app_is_cancelled,
    new_app,
    websocket_app_is_cancelled,
)
from tests.support.wire import request_bytes

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
