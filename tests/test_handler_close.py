"""Handlers of a stream that the server closes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream
from humphrey_trio.testing import open_websocket
from tests.support.apps import staged
from tests.support.clients import read_away
from tests.support.handler_recorder import HandlerRecorder
from tests.support.times import soon_after


async def close_here(stream: AsyncStream[Any]) -> None:
    await stream.close(4000)


async def close_in_a_child(stream: AsyncStream[Any]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.close, 4000)


async def close_in_a_grandchild(stream: AsyncStream[Any]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_in_a_child, stream)


async def close_in_a_started_task(stream: AsyncStream[Any]) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.lowlevel.checkpoint()
        await stream.close(4000)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("where", ["connect", "message"])
@pytest.mark.parametrize("close", [close_here, close_in_a_child, close_in_a_grandchild, close_in_a_started_task])
async def test_handler_that_closes_its_stream_finishes(
    close: Callable[[AsyncStream[Any]], Awaitable[None]],
    where: str,
    concurrency: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A handler that closes its own stream, itself or in its own nursery, is not cancelled for that."""

    async def connect(stream: AsyncStream[Any]) -> None:
        if where == "connect":
            await close(stream)
            await trio.sleep(10)

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await close(stream)
        await trio.sleep(10)

    recorder = HandlerRecorder(work, connect)
    async with staged(recorder.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        await client.send("work")
        await read_away(client)
        assert client.close_code == 4000
        await trio.sleep(15)
    assert recorder.cancelled == []
    assert recorder.ended == (["connect"] if where == "connect" else ["connect", "work"])
    assert len(recorder.records) == 1


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("closer", ["task", "a task without a stream", "another client's handler", "deadline"])
async def test_handler_whose_stream_was_closed_is_cancelled(
    closer: str, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler whose stream another task closes is cancelled when the client has answered."""
    recorder: HandlerRecorder

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text == "close the first":
            await recorder.streams[0].close(4000)
        else:
            if closer == "task":
                stream.start_soon(close_here, stream)
            elif closer == "deadline":
                stream.set_deadline(0.1, 4000)
            await trio.sleep(10)

    recorder = HandlerRecorder(work)
    async with staged(recorder.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        other = await open_websocket(stage.connect())
        await client.send("work")
        await trio.sleep(1)
        if closer == "a task without a stream":
            await recorder.streams[0].close(4000)
        elif closer == "another client's handler":
            await other.send("close the first")
        await trio.sleep(1)
        assert recorder.cancelled == []
        await read_away(client)
        await trio.sleep(1)
        assert recorder.cancelled == [("work", soon_after(2, sweeps=2))]
        assert [record.code for record in recorder.records] == [4000]


async def test_other_handlers_of_a_closed_stream_are_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """Of several handlers, only the one that closed finishes; the others are cancelled."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text == "close":
            await trio.sleep(0.5)
            await stream.close(4000)
            await trio.sleep(5)
        else:
            await trio.sleep_forever()

    recorder = HandlerRecorder(work)
    async with staged(recorder.app(concurrency=3)) as stage:
        client = await open_websocket(stage.connect())
        for text in ("waits", "close", "waits, too", "unhandled"):
            await client.send(text)
        await trio.sleep(1)
        await read_away(client)
        await trio.sleep(1)
        assert sorted(name for name, _ in recorder.cancelled) == ["waits", "waits, too"]
        assert recorder.records == []
        await trio.sleep(5)
        assert recorder.ended == ["close"]
        assert [record.unhandled for record in recorder.records] == [1]


@pytest.mark.parametrize("refusal", ["invalid", "cancelled", "late"])
async def test_handler_whose_close_failed_is_cancelled(
    refusal: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler whose close was refused, cancelled or too late is cancelled like any other."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if refusal == "invalid":
            with pytest.raises(ValueError, match="1005"):
                await stream.close(1005)
        elif refusal == "cancelled":
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.close(4000)
        else:
            await trio.sleep(1)
            await stream.close(4000)
        await trio.sleep(10)

    recorder = HandlerRecorder(work)
    async with staged(recorder.app()) as stage:
        client = await open_websocket(stage.connect())
        await client.send("work")
        await trio.sleep(0.75)
        if refusal == "late":
            await recorder.streams[0].close(4001)
            await trio.sleep(1)
            await read_away(client)
        else:
            await client.close()
        await trio.sleep(1)
    assert [name for name, _ in recorder.cancelled] == ["work"]
    assert len(recorder.records) == 1
