"""Handlers of clients that have disconnected: ``WhenLeft.CANCEL`` and ``WhenLeft.FINISH``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, ConnectionClosed, WhenLeft, async_websocket_handler
from humphrey_trio.testing import WebsocketClient, open_websocket
from tests.support import ANY_PORT
from tests.support.apps import staged
from tests.support.clients import RawClient, read_away
from tests.support.handler_recorder import (
    HandlerRecorder,
    Work,
    fail_late,
    send_close,
    send_eof,
    send_numbers,
    work_long,
)
from tests.support.links import Link, each_link, reset
from tests.support.logs import errors
from tests.support.wire import TEXT, client_frame, close_frame

Leave = Callable[[WebsocketClient], Awaitable[object]]


async def reply_late(stream: AsyncStream[Any], text: str) -> None:
    await trio.sleep(1)
    await stream.send(text)


# ---------------------------------------------------------------------------------------- WhenLeft.CANCEL


@pytest.mark.parametrize("leave", [send_close, send_eof, WebsocketClient.disconnect])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_disconnect_cancels_handlers(
    concurrency: int, leave: Leave, autojump_clock: trio.testing.MockClock
) -> None:
    """When a client disconnects, its handlers are cancelled, and messages that were read ahead are counted."""
    recorder = HandlerRecorder(work_long)
    async with staged(recorder.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 5)
        await trio.sleep(2)
        await leave(client)
        await trio.sleep(1)
    assert recorder.begun == texts[:concurrency]
    assert sorted(recorder.cancelled) == [(text, pytest.approx(2)) for text in texts[:concurrency]]
    (record,) = recorder.records
    assert (record.initiator, record.messages_received, record.unhandled) == ("client", 5, 5 - concurrency)


@pytest.mark.parametrize("leave", [send_close, send_eof, WebsocketClient.disconnect])
async def test_disconnect_cancels_the_connect_handler(
    leave: Leave, autojump_clock: trio.testing.MockClock
) -> None:
    """A slow connect handler is cancelled as well; the disconnect handler runs all the same."""

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(5)

    recorder = HandlerRecorder(work_long, connect)
    async with staged(recorder.app()) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 3)
        await trio.sleep(2)
        await leave(client)
        await trio.sleep(1)
    assert recorder.cancelled == [("connect", pytest.approx(2))]
    assert recorder.begun == ["connect"]
    assert [record.unhandled for record in recorder.records] == [3]


async def test_messages_before_a_close_are_handled(autojump_clock: trio.testing.MockClock) -> None:
    """If no handler runs when the client closes, its messages before the Close are handled in order."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(0.01)

    recorder = HandlerRecorder(work)
    async with staged(recorder.app()) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 5)
        await client.close()
        await trio.sleep(1)
    assert recorder.ended == texts
    assert recorder.records[0].unhandled == 0


@pytest.mark.parametrize("when_left", ["cancel", "later", None])
def test_invalid_when_left_is_refused(when_left: Any) -> None:
    """``when_left`` refuses what is no ``WhenLeft``, and accepts the values of its members."""
    if when_left == "cancel":
        AsyncWebsocketApp.new_unlinked(when_left=when_left)
        return
    with pytest.raises(ValueError, match="WhenLeft"):
        AsyncWebsocketApp.new_unlinked(when_left=when_left)


# ---------------------------------------------------------------------------------------- WhenLeft.FINISH


@pytest.mark.parametrize("leave", [send_close, send_eof])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    ("work", "count"), [(work_long, 3), (work_long, 15), (reply_late, 3), (reply_late, 15), (fail_late, 3)]
)
async def test_finish_handles_all_messages(
    work: Work,
    count: int,
    concurrency: int,
    leave: Leave,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With FINISH all messages before the end are handled in order, also beyond ``max_read_ahead``.

    Neither a reply that cannot be sent nor a failure stops that.
    """
    recorder = HandlerRecorder(work)
    app = recorder.app(concurrency=concurrency, when_left=WhenLeft.FINISH, max_read_ahead=4)
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, count)
        await trio.sleep(0.75)
        if leave is send_close:
            # The server answers late, because it has many messages to handle.
            await client.send_raw(close_frame(4000))
        else:
            await leave(client)
        await trio.sleep(80)
        assert recorder.begun == texts
        assert sorted(recorder.ended, key=int) == texts
        assert recorder.most == concurrency
        assert recorder.cancelled == []
        (record,) = recorder.records
        if work is not fail_late:
            assert record.code == (4000 if leave is send_close else 1006)
            assert errors(caplog) == []
        assert (record.messages_received, record.unhandled) == (count, 0)
        assert app.statistics().connections == 0


async def test_finish_logs_failures(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With FINISH each failure after the disconnect is logged; the record still has the client's close."""
    recorder = HandlerRecorder(fail_late)
    async with staged(recorder.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 3)
        await trio.sleep(0.75)
        await client.close(4000)
        await trio.sleep(5)
    assert recorder.ended == texts
    assert len(errors(caplog)) == 3
    assert [(record.code, record.cause) for record in recorder.records] == [(4000, "")]


async def test_finish_completes_the_connect_handler(autojump_clock: trio.testing.MockClock) -> None:
    """With FINISH, after a disconnect a connect handler finishes, then the messages are handled."""

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(5)

    recorder = HandlerRecorder(work_long, connect)
    async with staged(recorder.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 2)
        await trio.sleep(1)
        await client.close()
        await trio.sleep(20)
    assert recorder.ended == ["connect", *texts]
    assert len(recorder.records) == 1


@pytest.mark.parametrize("error", [ValueError("failed"), ConnectionClosed(1006)])
async def test_finish_handles_no_message_after_a_failed_connect_handler(
    error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    """No message is handled after a connect handler that raised, not even with FINISH."""

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(2)
        raise error

    recorder = HandlerRecorder(work_long, connect)
    async with staged(recorder.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 3)
        await trio.sleep(1)
        await client.close()
        await trio.sleep(5)
    assert recorder.begun == ["connect"]
    assert [record.unhandled for record in recorder.records] == [3]


async def test_finish_when_the_server_closes(autojump_clock: trio.testing.MockClock) -> None:
    """With FINISH a handler finishes when the server has closed, but no further message is handled."""
    recorder = HandlerRecorder(work_long)
    async with staged(recorder.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 4)
        await trio.sleep(1)
        await recorder.streams[0].close(4000)
        await read_away(client)
        await trio.sleep(10)
    assert recorder.ended == texts[:1]
    assert [record.unhandled for record in recorder.records] == [3]


async def test_finish_when_the_app_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelling the app cancels handlers even with FINISH."""
    recorder = HandlerRecorder(work_long)
    async with staged(recorder.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 3)
        await trio.sleep(1)
        await client.close()
        await trio.sleep(1)
        stage.websocket.cancel()
        await trio.sleep(1)
    assert recorder.cancelled == [(texts[0], pytest.approx(2))]
    assert [record.unhandled for record in recorder.records] == [2]


async def test_finish_holds_no_connection(autojump_clock: trio.testing.MockClock) -> None:
    """A handler that finishes after the disconnect holds its stream's place in the app, but no connection."""
    recorder = HandlerRecorder(work_long)
    app = recorder.app(when_left=WhenLeft.FINISH, max_connections=1)
    async with staged(app) as stage:
        connection = stage.connect()
        client = await open_websocket(connection)
        await client.send("work")
        await trio.sleep(1)
        with trio.fail_after(1):
            await client.close()
            with pytest.raises(trio.ClosedResourceError):
                await connection.receive_some()
        assert app.statistics().connections == app.statistics().handlers_running == 1
        await trio.sleep(5)
        assert app.statistics().connections == 0


@each_link
@pytest.mark.parametrize("graceful", [True, False])
async def test_finish_with_replies_to_a_closed_socket(graceful: bool, link: Link, nursery: trio.Nursery) -> None:
    """With FINISH, a reply that breaks the connection loses no message that the client had sent before."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(0.02)
        await stream.send(text)

    ended = trio.Event()
    recorder = HandlerRecorder(work)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        await recorder.on_disconnect(stream, state)
        ended.set()

    websocket_app = recorder.app(when_left=WhenLeft.FINISH).with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    await nursery.start(websocket_app.run)
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    texts = [f"{number}" for number in range(30)]
    with trio.fail_after(20):
        client = await RawClient(await link.connect(address)).open()
        frames = [client_frame(TEXT, text.encode()) for text in texts]
        await client.send(b"".join([*frames, close_frame(1001) if graceful else b""]))
        await client.stream.aclose()
        await ended.wait()
    assert recorder.ended == texts
    assert recorder.records[0].unhandled == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_finish_handles_a_burst_before_a_broken_connection(
    concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """With FINISH, a burst is handled to its last message, wherever a reply finds the connection broken."""
    burst = 4 * 64  # the reader yields after 64 messages, and only there can the connection break
    frames = b"".join(client_frame(TEXT, f"{number}".encode()) for number in range(burst))
    for first_reply in range(0, 130, 13):

        async def work(stream: AsyncStream[Any], text: str, first_reply: int = first_reply) -> None:
            if text == f"{first_reply}":
                await stream.send(text)

        recorder = HandlerRecorder(work)
        async with staged(recorder.app(concurrency=concurrency, when_left=WhenLeft.FINISH)) as stage:
            client = await open_websocket(stage.connect())
            await client.send_raw(frames)
            await client.disconnect()
            await trio.testing.wait_all_tasks_blocked()
        assert recorder.begun == [f"{number}" for number in range(burst)]
        assert [(record.messages_received, record.unhandled) for record in recorder.records] == [(burst, 0)]


@each_link
@pytest.mark.parametrize("when_left", list(WhenLeft))
async def test_burst_before_a_reset(when_left: WhenLeft, link: Link, nursery: trio.Nursery) -> None:
    """Of a burst before a reset, the received messages are handled without a gap, or count as unhandled."""
    burst, rounds = 4000, 30
    ended = trio.Event()

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await stream.send(text)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        await recorder.on_disconnect(stream, state)
        ended.set()

    recorder = HandlerRecorder(work)
    websocket_app = recorder.app(when_left=when_left).with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    await nursery.start(websocket_app.run)
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    frames = b"".join(client_frame(TEXT, f"{number}".encode()) for number in range(burst))
    for _ in range(rounds):
        with trio.fail_after(20):
            client = await RawClient(await link.connect(address)).open()
            await client.send(frames)
            reset(client.stream)
            await ended.wait()
        (record,) = recorder.records
        assert recorder.begun == [f"{number}" for number in range(len(recorder.begun))]
        assert record.messages_received == len(recorder.begun) + record.unhandled
        recorder.begun.clear()
        recorder.records.clear()
        ended = trio.Event()
    nursery.cancel_scope.cancel()


async def test_message_that_arrives_with_the_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    """A message that is read ahead in the step in which the app is cancelled counts as unhandled."""
    for _ in range(20):  # the order of the tasks that become runnable is random
        recorder = HandlerRecorder(work_long)
        async with staged(recorder.app()) as stage:
            client = await open_websocket(stage.connect())
            await send_numbers(client, 1)
            await trio.sleep(1)  # another task reads ahead now
            await client.send("at the last moment")
            stage.websocket.cancel()
            await trio.sleep(1)
            statistics = recorder.streams[0].statistics()
            assert (statistics.messages_received, statistics.unhandled) == (2, 1)
            assert recorder.records[0].unhandled == 1
