"""Close records of streams without a WebSocket app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncWebsocketApp,
    ConnectionClosed,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import Upgrade
from tests.support.apps import served_in_memory, staged
from tests.support.close_records import AGE, CountingClient, Log
from tests.support.times import SWEEP
from tests.support.wire import close_frame


async def client_leaves(stream: WebsocketStream) -> None:
    async for _ in stream:
        pass


async def returns(stream: WebsocketStream) -> None:
    await trio.sleep(AGE)


async def raises(stream: WebsocketStream) -> None:
    await trio.sleep(AGE)
    raise ValueError("in the route")


async def raises_a_group(stream: WebsocketStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, stream)
        nursery.start_soon(trio.sleep_forever)


async def closes(stream: WebsocketStream) -> None:
    await trio.sleep(AGE)
    assert stream.close_record is None
    await stream.close(4000, "bye")
    assert stream.close_record is not None


async def has_a_deadline(stream: WebsocketStream) -> None:
    stream.set_deadline(AGE - 0.01, 4003)
    with pytest.raises(ConnectionClosed):
        await stream.receive()


@pytest.mark.parametrize("accepting", [False, True])
@pytest.mark.parametrize(
    ("converse", "initiator", "code", "cause", "error"),
    [
        (client_leaves, "client", 4001, "", ""),
        (returns, "server", 1000, "its handler has ended", ""),
        (raises, "server", 1011, "its handler failed", "in the route"),
        (raises_a_group, "server", 1011, "its handler failed", "in the route"),
        (closes, "server", 4000, "", ""),
        (has_a_deadline, "server", 4003, "its deadline has passed", ""),
    ],
)
async def test_close_record_of_a_route(
    converse: Callable[[WebsocketStream], Awaitable[None]],
    initiator: str,
    code: int,
    cause: str,
    error: str,
    accepting: bool,
    autojump_clock: trio.testing.MockClock,
    log: Log,
) -> None:
    """A stream of a coroutine or a route has the same record, as an attribute and in the log."""
    streams: list[WebsocketStream] = []

    async def own(stream: WebsocketStream, state: None) -> None:
        assert stream.close_record is None
        streams.append(stream)
        await converse(stream)

    async def accept(upgrade: Upgrade, state: None) -> None:
        await own(await upgrade.accept(), state)

    route: Any = accept if accepting else websocket_handler(own)
    async with served_in_memory(App().with_websocket_route("/", route)) as connect:
        client = CountingClient(connect())
        await client.open()
        if initiator == "client":
            await client.send_text("one")
            await client.send_text("two")
            await trio.sleep(AGE)
            await client.send_frame(close_frame(4001))
            await client.rest()
        else:
            await client.answer_and_close()
        await trio.sleep(1)
    record = log.record
    assert streams[0].close_record == record
    assert (record.initiator, record.code, record.cause) == (initiator, code, cause)
    assert error in repr(record.exception) if error else record.exception is None
    assert record.age == pytest.approx(AGE, abs=SWEEP)
    assert (record.messages_received, record.bytes_received) == (client.messages, client.sent)
    assert (record.messages_sent, record.bytes_sent) == (0, client.received)


async def test_close_record_of_a_stream_that_is_not_taken(
    autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """A stream that was never received from its channel has a record in the log."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook, take_timeout=AGE))
    async with served_in_memory(app) as connect:
        client = CountingClient(connect())
        await client.open()
        await client.send_text("hello?")
        assert await client.close_code() == 1013
        await client.rest()
    assert (log.record.initiator, log.record.code) == ("server", 1013)
    assert log.record.reason == "no application took this connection"
    assert log.record.age == pytest.approx(AGE, abs=SWEEP)
    assert log.record.messages_received == 0  # the message was not read
    assert streams.receive_nowait().close_record == log.record


async def test_close_record_of_a_stream_in_the_hook(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """A stream that waits in the hook when its app is cancelled ends with the cause of that."""
    app = AsyncWebsocketApp.new_unlinked(max_connections=1)
    async with staged(app) as stage:
        await open_websocket(stage.connect())
        client = await CountingClient(stage.connect()).open()
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().waiting_in_hook == 1
        stage.websocket.cancel()
        assert await client.close_code() == 1001
        stage.http.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert [(record.code, record.cause) for record in log.records] == 2 * [(1001, "the application was cancelled")]
