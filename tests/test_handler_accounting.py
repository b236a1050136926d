"""Every received message is handled or counted, and only the app receives."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    WebsocketStream,
    WhenLeft,
    async_websocket_handler,
)
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from tests.support.apps import linked, staged
from tests.support.cancellation import BOTH, Handlers, cancel_at_every_step, name_all, serve_stream
from tests.support.clients import read_away
from tests.support.handler_recorder import HandlerRecorder, send_close, send_eof

# ------------------------------------------------------------------------------------------------ accounting


@pytest.mark.parametrize("seed", range(80))
async def test_every_message_is_accounted_for(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """However and whenever a stream ends, each received message was handled in order, or is counted."""
    rng = random.Random(seed)
    concurrency, limit = rng.choice([1, 2, 4]), rng.choice([1, 3, 16])
    when_left = rng.choice(list(WhenLeft))
    leave = rng.choice([send_close, send_eof, WebsocketClient.disconnect, "deadline", "http app", "websocket app"])
    count = rng.randrange(30)

    async def connect(stream: AsyncStream[Any]) -> None:
        if leave == "deadline":
            stream.set_deadline(rng.uniform(0.1, 5))
        await trio.sleep(rng.choice([0, 0.2, 1]))

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(rng.choice([0, 0, 0.1, 0.6, 3]))
        if rng.random() < 0.03:
            raise ValueError("bad luck")
        if rng.random() < 0.3:
            await stream.send(text)

    recorder = HandlerRecorder(work, connect)
    app = recorder.app(concurrency=concurrency, max_read_ahead=limit, when_left=when_left)
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        for number in range(count):
            if rng.random() < 0.2:
                await trio.sleep(rng.random())
            try:
                await client.send(f"{number}")
            except ConnectionClosed:
                break
        await trio.sleep(rng.choice([0, 0.1, 1, 10]))
        if leave == "deadline":
            await read_away(client)
        elif leave == "http app":
            stage.http.cancel()
        elif leave == "websocket app":
            stage.websocket.cancel()
        else:
            with trio.move_on_after(50):
                await leave(client)
        await trio.sleep(50)

        begun = [name for name in recorder.begun if name != "connect"]
        assert begun == [f"{number}" for number in range(len(begun))]
        assert recorder.most <= concurrency
        (record,) = recorder.records
        assert record.messages_received == len(begun) + record.unhandled
        if when_left is WhenLeft.FINISH and record.initiator == "client":
            assert recorder.cancelled == []
            assert record.unhandled == 0
            if leave in (send_close, send_eof):
                assert len(begun) == count
        statistics = app.statistics()
        assert statistics.unhandled == record.unhandled
        assert (statistics.connections, statistics.handlers_running, statistics.read_ahead) == (0, 0, 0)


@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
async def test_concurrent_handlers_cancelled_at_every_step(
    cancelled: set[str], autojump_clock: trio.testing.MockClock
) -> None:
    """Apps with concurrent handlers that are cancelled at any step leave no task, and disconnect once."""

    def in_memory(handlers: Handlers) -> Any:
        websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked(concurrency=2, max_read_ahead=2))
        app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
        ours, theirs = trio.testing.memory_stream_pair()

        async def connect() -> trio.abc.Stream:
            return ours

        return {"http": (serve_stream, (app, theirs)), "websocket": (websocket_app.run, ())}, lambda _: connect

    async def talk(client: WebsocketClient) -> None:
        for text in ("sleep", "1", "sleep", "2", "sleep"):
            await client.send(text)
        assert sorted([str((await client.receive()).text) for _ in range(4)]) == ["1", "2", "sleep", "sleep"]

    await cancel_at_every_step(in_memory, talk, cancelled)


# --------------------------------------------------------------------------------------------------- receive


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_receive_on_the_stream_of_an_app(
    concurrency: int, delay: float, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """``receive`` on a stream that an app reads raises an error, and does not affect the handlers."""

    async def work(stream: AsyncStream[WebsocketStream], text: str) -> None:
        if text == "receive":
            await trio.sleep(delay)
            await stream.state.receive()
        await stream.send(text)

    recorder = HandlerRecorder(work)
    app = recorder.app(concurrency=concurrency, stream_state=lambda websocket: websocket)
    async with linked(app) as http_app, websocket_client(http_app) as other:
        async with websocket_client(http_app) as client:
            await client.send("receive")
            await read_away(client)
            assert client.close_code == 1011
        assert "BusyResourceError" in caplog.text
        await other.send("are you there?")
        assert (await other.receive()).text == "are you there?"
