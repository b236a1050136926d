"""Concurrent message handlers of one stream: ``concurrency``."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message, Timeouts
from humphrey_trio.testing import open_websocket
from tests.support.apps import staged
from tests.support.clients import RawClient, read_away
from tests.support.handler_recorder import HandlerRecorder, fail_late, send_numbers, work_long
from tests.support.logs import errors
from tests.support.times import SWEEP
from tests.support.wire import PONG, TEXT, client_frame


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("concurrency", [2, 5])
async def test_concurrency_bounds_the_handlers(
    concurrency: int, seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """At most ``concurrency`` message handlers run, in the order of the messages, after the connect handler."""
    rng = random.Random(seed)

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(rng.random())
        assert recorder.begun == ["connect"]

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(rng.choice([0, 0.1, 0.3, 2]))

    recorder = HandlerRecorder(work, connect)
    async with staged(recorder.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 40)
        await trio.sleep(60)
        assert recorder.begun == ["connect", *texts]
        assert recorder.ended != recorder.begun
        assert sorted(recorder.ended) == sorted(recorder.begun)
        assert recorder.most == concurrency
        await client.close()
        await trio.sleep(1)
    assert [record.unhandled for record in recorder.records] == [0]


async def test_concurrent_handler_waits_for_the_next_message(autojump_clock: trio.testing.MockClock) -> None:
    """With concurrency, a handler can wait for the effect of a later message."""
    event = trio.Event()

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text == "wait":
            await event.wait()
        else:
            event.set()
        await stream.send(text)

    recorder = HandlerRecorder(work)
    async with staged(recorder.app(concurrency=2)) as stage:
        client = await open_websocket(stage.connect())
        await client.send("wait")
        await client.send("set")
        with trio.fail_after(1):
            assert {(await client.receive()).text for _ in range(2)} == {"wait", "set"}


async def test_concurrency_is_a_bound_for_each_client(autojump_clock: trio.testing.MockClock) -> None:
    """The handlers of one client do not delay those of another."""
    recorder = HandlerRecorder(work_long)
    app = recorder.app(concurrency=2)
    async with staged(app) as stage:
        clients = [await open_websocket(stage.connect()) for _ in range(3)]
        for client in clients:
            await send_numbers(client, 3)
        await trio.sleep(1)
        assert app.statistics().handlers_running == recorder.running == 6
        await trio.sleep(10)
        assert len(recorder.ended) == 9


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("limit", [1, 4])
async def test_busy_handlers_pause_reading(
    limit: int, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """While handlers are busy, ``max_read_ahead`` more messages are read, and then nothing of the client."""
    sent = 0
    pause = 30.0

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(pause)

    recorder = HandlerRecorder(work)
    app = recorder.app(concurrency=concurrency, max_read_ahead=limit)
    async with staged(app, stream_pair=trio.testing.lockstep_stream_pair) as stage, trio.open_nursery() as nursery:
        client = await RawClient(stage.connect()).open()

        @nursery.start_soon
        async def flood() -> None:
            nonlocal sent
            for number in range(20):
                await client.send(client_frame(TEXT, b"%d" % number))
                sent += 1

        await trio.sleep(5)
        statistics = app.statistics()
        assert (statistics.handlers_running, statistics.read_ahead) == (concurrency, limit)
        assert sent == concurrency + limit
        await trio.sleep(20)
        assert sent == concurrency + limit
        pause = 0.1
        await trio.sleep(30)
        assert sent == 20
        assert recorder.begun == [f"{number}" for number in range(20)]
        assert app.statistics().handlers_running == app.statistics().read_ahead == 0
        assert app.statistics().read_pauses > 0


@pytest.mark.parametrize("messages", [3, 4])
async def test_pings_are_answered_while_handlers_are_busy(
    messages: int, autojump_clock: trio.testing.MockClock
) -> None:
    """While all handlers are busy, pings are answered until ``max_read_ahead`` is reached."""
    recorder = HandlerRecorder(work_long)
    async with staged(recorder.app(concurrency=3)) as stage:
        client = await RawClient(stage.connect()).open()
        await client.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(messages)))
        await client.send(client_frame(0x9, b"there?"))
        with trio.fail_after(3 * SWEEP):
            assert await client.frame() == (PONG, b"there?")
        assert recorder.running == 3


@pytest.mark.parametrize("grouped", [False, True])
async def test_concurrent_handler_that_fails(
    grouped: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails closes with 1011; the others are cancelled when the client has answered."""

    async def fail() -> None:
        raise ValueError("failed")

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text != "fail":
            await trio.sleep(100)
        await trio.sleep(1)
        if not grouped:
            await fail()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    recorder = HandlerRecorder(work)
    async with staged(recorder.app(concurrency=3)) as stage:
        other = await open_websocket(stage.connect())
        await other.send("other")
        client = await open_websocket(stage.connect())
        for text in ("one", "fail", "two", "unhandled"):
            await client.send(text)
        await trio.sleep(3)
        assert recorder.ended == ["fail"]
        assert recorder.cancelled == []
        await read_away(client)
        assert client.close_code == 1011
        await trio.sleep(1)
        assert sorted(name for name, _ in recorder.cancelled) == ["one", "two"]
        (record,) = recorder.records
        assert (record.cause, record.unhandled) == ("its handler failed", 1)
        assert len(errors(caplog)) == 1
        assert "ValueError: failed" in caplog.text
        assert recorder.running == 1  # of the other client


async def test_concurrent_handlers_that_fail(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure of concurrent handlers is logged; the first one is the cause of the close."""
    recorder = HandlerRecorder(fail_late)
    async with staged(recorder.app(concurrency=3)) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 3)
        await read_away(client)
        await trio.sleep(1)
    assert len(errors(caplog)) == 3
    assert [record.code for record in recorder.records] == [1011]
    assert str(recorder.records[0].exception) in ("0", "1", "2")


async def test_cancelled_handler_that_fails(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails while it is cancelled is logged, and affects no other stream."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async def work(stream: AsyncStream[Any], text: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            await trio.sleep_forever()

    for cancelled in ("client", "app"):
        caplog.clear()
        recorder = HandlerRecorder(work)
        async with staged(recorder.app(concurrency=2)) as stage:
            client = await open_websocket(stage.connect())
            await send_numbers(client, 2)
            await trio.sleep(1)
            if cancelled == "client":
                await client.close()
            else:
                stage.websocket.cancel()
            await trio.sleep(1)
            assert len(recorder.records) == 1
        assert len(errors(caplog)) == 2


async def test_statistics_of_busy_handlers(autojump_clock: trio.testing.MockClock) -> None:
    """``handlers_running`` counts running handlers of every kind; waiting messages count as read ahead."""
    app = AsyncWebsocketApp.new_unlinked(concurrency=2, timeouts=Timeouts(close=1))
    seen: list[tuple[int, int]] = []

    def look() -> None:
        statistics = app.statistics()
        seen.append((statistics.handlers_running, statistics.read_ahead))

    async def take_time(stream: AsyncStream, state: None) -> None:
        look()
        await trio.sleep(1)

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(2)

    app.with_connect_handler(take_time).with_message_handler(on_message).with_disconnect_handler(take_time)
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        await trio.sleep(1.5)
        look()
        await send_numbers(client, 5)
        await trio.sleep(1)
        look()
        await trio.sleep(10)
        look()
        await client.close()
        await trio.sleep(2)
        look()
    assert seen == [(1, 0), (0, 0), (2, 3), (0, 0), (1, 0), (0, 0)]


@pytest.mark.parametrize("concurrency", [0, -1])
@pytest.mark.parametrize("make", [AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
def test_concurrency_is_at_least_one(make: Callable[..., object], concurrency: int) -> None:
    """A ``concurrency`` below one is a ValueError that names the option."""
    with pytest.raises(ValueError, match="concurrency"):
        make(concurrency=concurrency)


async def test_concurrent_handlers_can_be_interrupted(autojump_clock: trio.testing.MockClock) -> None:
    """Ctrl-C is raised in concurrent message handlers."""
    protected: list[bool] = []

    async def work(stream: AsyncStream[Any], text: str) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    async with staged(HandlerRecorder(work).app(concurrency=2)) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 2)
        await trio.sleep(1)
    assert protected == [False, False]


async def test_keyboard_interrupt_in_a_handler_ends_the_app(autojump_clock: trio.testing.MockClock) -> None:
    """KeyboardInterrupt in a message handler ends the app."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        raise KeyboardInterrupt

    recorder = HandlerRecorder(work)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  (the whole app is what raises)
        async with staged(recorder.app(concurrency=2)) as stage:
            client = await open_websocket(stage.connect())
            await send_numbers(client, 2)
            await trio.sleep(10)
    interrupts, rest = caught.value.split(KeyboardInterrupt)
    assert interrupts is not None
    assert rest is None
    assert len(recorder.records) == 1
