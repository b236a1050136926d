"""Message handlers, connect handlers and stream tasks in a drain."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, Message, WebsocketStream, websocket_handler
from humphrey_trio.http import Drain
from humphrey_trio.websocket import WhenLeft
from tests.support.clients import RawClient
from tests.support.drain_clients import answer_close, receive_until_closed
from tests.support.drain_handlers import DisconnectRecorder, Slow, attach
from tests.support.draining import Clock, in_memory, linked_pair
from tests.support.times import SWEEP
from tests.support.wire import TEXT, client_frame, close_frame


@pytest.mark.parametrize("when_left", list(WhenLeft))
async def test_no_handler_begins_for_a_disconnected_client(when_left: WhenLeft, autojump_clock: Clock) -> None:
    """The queued messages of a client that closed are not handled after the drain has begun."""
    shutdown, handler = trio.Event(), Slow(3)
    app, websocket_app = linked_pair(shutdown, when_left=when_left)
    websocket_app.with_message_handler(handler)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        for number in range(12):
            await client.send(str(number))
        await trio.sleep(1)
        await client.close()
        began = trio.current_time()
        stage.drain()
        await stage.websockets[0].returned.wait()
        assert trio.current_time() - began < 3


async def send_one_by_one(client: RawClient, messages: Sequence[str]) -> None:
    for message in messages:
        await client.send(client_frame(TEXT, message.encode()))
        await trio.testing.wait_all_tasks_blocked()


HANDLERS: Any = pytest.mark.parametrize(
    ("messages", "concurrency"),
    [(["a"], 1), (["a"], 3), (["a", "b"], 3), ([], 1), ([], 3)],
    ids=["one", "one of three", "two of three", "connect", "connect of three"],
)


@HANDLERS
async def test_running_handlers_may_answer(messages: list[str], concurrency: int, autojump_clock: Clock) -> None:
    """A running handler may answer for ``Drain.patience`` seconds; its stream is closed when it returns."""
    shutdown, handler, disconnected = trio.Event(), Slow(2), DisconnectRecorder()
    app, websocket_app = linked_pair(shutdown, Drain(patience=4), concurrency=concurrency)
    attach(websocket_app.with_disconnect_handler(disconnected), handler, messages)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await (await stage.raw()).open("/ws")
        await send_one_by_one(client, messages)
        stage.drain()
        answers = sorted([await client.frame() for _ in messages or [None]])
        assert answers == [(TEXT, f"{message} is answered".encode()) for message in messages or [None]]
        assert await answer_close(client) == 1001
        assert stage.now == pytest.approx(2)
    assert disconnected.codes == [1001]


@HANDLERS
@pytest.mark.parametrize("patience", [4, 0])
async def test_patience_ends(
    messages: list[str], concurrency: int, patience: float, autojump_clock: Clock
) -> None:
    """After ``Drain.patience`` the stream is closed; its handlers are cancelled when the client has answered."""
    shutdown, handler, disconnected = trio.Event(), Slow(inf), DisconnectRecorder()
    app, websocket_app = linked_pair(shutdown, Drain(patience=patience), concurrency=concurrency)
    attach(websocket_app.with_disconnect_handler(disconnected), handler, messages)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await (await stage.raw()).open("/ws")
        await send_one_by_one(client, messages)
        stage.drain()
        assert await client.close_code() == 1001
        assert patience <= stage.now <= patience + SWEEP
        await trio.sleep(2)
        assert not handler.cancelled_at
        await client.send(close_frame(1001))
        assert await client.at_end()
        await stage.http.returned.wait()
        # Immediately, except that the reader waits for the client's Close frame.
        assert stage.now <= patience + SWEEP + 2
        assert [stage.since(moment) for moment in handler.cancelled_at] == [stage.now] * len(handler.began)
        assert len(handler.began) == len(messages or [None])
    assert disconnected.codes == [1001]


async def test_handlers_finish_in_a_drain_with_finish(autojump_clock: Clock) -> None:
    """With ``WhenLeft.FINISH`` handlers finish after the Close frame, and the app waits; tasks are cancelled."""
    shutdown, handler, disconnected = trio.Event(), Slow(20), DisconnectRecorder()
    app, websocket_app = linked_pair(shutdown, Drain(patience=1), when_left=WhenLeft.FINISH)
    attach(websocket_app.with_disconnect_handler(disconnected), handler, ["a"])
    cancelled_at: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    async def start(stream: AsyncStream, state: None) -> None:
        stream.start_soon(work)

    websocket_app.with_connect_handler(start)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open_busy()
        stage.drain()
        assert stage.since((await receive_until_closed(client)).at) <= 1 + SWEEP
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(20)
        assert [stage.since(moment) <= 1 + SWEEP for moment in cancelled_at] == [True]
    assert (handler.ended, disconnected.codes) == (1, [1001])


@pytest.mark.parametrize(("concurrency", "begun"), [(1, 1), (2, 2)])
async def test_no_handler_begins_in_a_drain(concurrency: int, begun: int, autojump_clock: Clock) -> None:
    """Messages that were read ahead or arrive in a drain are not handled, and count as unhandled."""
    shutdown, handler, disconnected = trio.Event(), Slow(2), DisconnectRecorder()
    app, websocket_app = linked_pair(shutdown, concurrency=concurrency)
    attach(websocket_app.with_disconnect_handler(disconnected), handler, "abcdef")
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await (await stage.raw()).open("/ws")
        await send_one_by_one(client, "a")
        await trio.sleep(1)
        await send_one_by_one(client, "bcde")
        stage.drain()
        await send_one_by_one(client, "f")
        assert await answer_close(client) == 1001
        assert stage.now == pytest.approx(1 if concurrency == 1 else 2)
    assert handler.began == list("abcdef")[:begun]
    assert handler.ended == begun
    (record,) = disconnected.records.values()
    assert record is not None
    assert (record.messages_received, record.unhandled) == (6, 6 - begun)


async def test_stream_tasks_are_cancelled_in_a_drain(autojump_clock: Clock) -> None:
    """``start_soon`` tasks are cancelled when the client has answered, and end before the disconnect handler."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, Drain(patience=4))
    steps: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            steps.append("worked")

    async def start(stream: AsyncStream, state: None) -> None:
        stream.start_soon(work)
        stream.start_soon(work)

    async def disconnect(stream: AsyncStream, state: None) -> None:
        steps.append("disconnected")

    websocket_app.with_connect_handler(start).with_disconnect_handler(disconnect)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        stage.drain()
        closing = await receive_until_closed(client)
        assert (closing.code, stage.since(closing.at)) == (1001, 0)
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(1)
    assert steps == ["worked", "worked", "disconnected"]


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize(
    ("deadline", "code", "at"), [(1, 4001, 1), (60, 1001, 6)], ids=["an earlier one", "a later one"]
)
async def test_stream_deadlines_and_drain(
    path: str, deadline: float, code: int, at: float, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """A drain postpones no deadline of a stream, and a stream deadline postpones no drain."""
    shutdown = trio.Event()

    async def message(stream: AsyncStream, message: Message, state: None) -> None:
        await hold(stream)

    async def own(stream: WebsocketStream, state: None) -> None:
        await hold(stream)

    async def hold(stream: AsyncStream | WebsocketStream) -> None:
        stream.set_deadline(deadline, 4001)
        await shutdown.wait()
        await trio.testing.wait_all_tasks_blocked()
        if deadline > at:
            stream.set_deadline(deadline, 4001)
        await trio.sleep_forever()

    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    app, websocket_app = linked_pair(shutdown, Drain(spread=6, patience=6))
    app.with_websocket_route("/own", websocket_handler(own))
    websocket_app.with_message_handler(message)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open_busy("hold", path=path)
        stage.drain()
        closing = await receive_until_closed(client)
        assert closing.code == code
        assert at <= stage.since(closing.at) <= at + SWEEP


@pytest.mark.parametrize("call", ["close", "raise"])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_handler_that_closes_or_fails_in_a_drain(call: str, concurrency: int, autojump_clock: Clock) -> None:
    """A handler that closes its stream, or raises, during the patience decides the close code."""
    shutdown = trio.Event()

    async def close_later(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(1)
        if call == "raise":
            raise ValueError("as planned")
        await stream.close(4000)

    app, websocket_app = linked_pair(shutdown, concurrency=concurrency)
    websocket_app.with_message_handler(close_later)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open_busy("text")
        stage.drain()
        closing = await receive_until_closed(client)
        assert (closing.code, stage.since(closing.at)) == (4000 if call == "close" else 1011, pytest.approx(1))
