"""Stream tasks: tasks that raise."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, ConnectionClosed
from humphrey_trio.testing import open_websocket, websocket_client
from tests.support.apps import linked, staged
from tests.support.clients import read_away
from tests.support.logs import errors
from tests.support.stream_ends import (
    End,
    client_closes,
    client_resets,
    new_app,
    starting,
    websocket_app_is_cancelled,
)


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


async def test_task_that_is_not_async(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain function instead of an async function is a failure of its stream."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.start_soon(lambda: None)  # type: ignore[arg-type,return-value]

    async with linked(new_app(on_connect)) as http_app, websocket_client(http_app) as client:
        await read_away(client)
        assert client.close_code == 1011
    assert "TypeError" in caplog.text
