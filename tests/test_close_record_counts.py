"""Close records: the counts of messages and bytes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message, WebsocketStream, websocket_handler
from humphrey_trio.testing import open_websocket, websocket_client
from humphrey_trio.websocket import CloseRecord
from tests.support.apps import linked, staged
from tests.support.close_records import AGE, CountingClient, Log, greet, new_scene, settled
from tests.support.wire import TEXT, client_frame, close_frame, request_bytes


async def test_close_record_counts_queued_messages(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record counts the messages that waited at the close; they are sent if the client reads."""
    scene = new_scene()
    async with staged(scene.app, stream_pair=trio.testing.lockstep_stream_pair) as scene.stage:
        await greet(scene, scene.stage.connect())
        assert scene.stream is not None
        for number in range(5):
            await scene.stream.send(f"{number}")
        await scene.stream.close()
        await scene.client.answer_and_close()
        await trio.sleep(1)
        assert settled(scene.records) == settled(log.records)
    record = log.record
    assert (record.queued_messages, record.queued_bytes) == (5, 5 * 3)
    assert record.messages_sent == scene.client.messages_back == 7
    assert record.bytes_sent == scene.client.received
    assert record.dropped == 0


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("thorough", [False, True])
async def test_close_record_counts_unhandled_messages(
    thorough: bool, concurrency: int, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """Messages that no handler received are counted, in the log too, even if a handler is slow to clean up."""
    records: list[CloseRecord | None] = []

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        try:
            await trio.sleep(100)
        finally:
            if thorough:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        records.append(stream.close_record)

    app = AsyncWebsocketApp.new_unlinked(concurrency=concurrency)
    app.with_message_handler(on_message).with_disconnect_handler(on_disconnect)
    async with linked(app) as http_app:
        async with websocket_client(http_app) as client:
            for number in range(7):
                await client.send(f"{number}")
            await trio.sleep(AGE)
        await trio.sleep(2)
    assert settled(records) == settled(log.records)
    assert log.record.messages_received == 7
    assert log.record.unhandled == 7 - concurrency
    assert app.statistics().unhandled == 7 - concurrency


async def test_close_record_of_a_coroutine_counts_unreceived_messages(
    autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """Messages that a coroutine did not receive before it returned count as unhandled."""

    async def own(stream: WebsocketStream, state: None) -> None:
        await stream.receive()
        await trio.sleep(AGE)

    app = App().with_websocket_route("/", websocket_handler(own))
    async with websocket_client(app, "/") as client:
        for number in range(5):
            await client.send(f"{number}")
        async for _ in client:
            pass
        await trio.sleep(1)
    assert (log.record.messages_received, log.record.unhandled) == (5, 4)


@pytest.mark.parametrize("end", ["client", "server"])
async def test_close_record_of_a_cancelled_coroutine(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """Messages that a cancelled coroutine did not receive count as unhandled.

    That includes a message that arrives together with the cancellation."""
    for _ in range(20):  # the order of the tasks that become runnable is random
        streams: list[WebsocketStream] = []

        async def own(stream: WebsocketStream, state: None, streams: list[WebsocketStream] = streams) -> None:
            streams.append(stream)
            await stream.receive()
            await trio.sleep_forever()

        async with staged(
            AsyncWebsocketApp.new_unlinked(), App().with_websocket_route("/own", websocket_handler(own))
        ) as stage:
            client = await open_websocket(stage.connect(), "/own")
            for number in range(5):
                await client.send(f"{number}")
            await trio.testing.wait_all_tasks_blocked()
            await client.send("at the last moment")
            if end == "server":
                stage.http.cancel()
            else:
                await client.disconnect()
            await trio.sleep(1)
        record = streams[0].close_record
        assert record is not None
        assert record.messages_received == record.unhandled + 1
        assert record.messages_received in ((5, 6) if end == "server" else (6,))


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("failing", ["connect", "message"])
async def test_close_record_of_a_failed_handler_counts_read_ahead(
    failing: str, concurrency: int, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """Messages that were read ahead when a handler failed count as unhandled."""
    records: list[CloseRecord | None] = []
    begun: list[str | None] = []

    async def on_connect(stream: AsyncStream, state: None) -> None:
        await trio.sleep(1)
        if failing == "connect":
            raise ValueError("failed")

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        begun.append(message.text)
        await trio.sleep(1)
        raise ValueError("failed")

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        records.append(stream.close_record)

    app = AsyncWebsocketApp.new_unlinked(concurrency=concurrency)
    app.with_connect_handler(on_connect).with_message_handler(on_message).with_disconnect_handler(on_disconnect)
    async with linked(app) as http_app:
        async with websocket_client(http_app) as client:
            for number in range(7):
                await client.send(f"{number}")
            async for _ in client:
                pass
        await trio.sleep(2)
    assert settled(records) == settled(log.records)
    assert log.record.messages_received == 7
    assert log.record.unhandled == 7 - len(begun)
    assert len(begun) == (concurrency if failing == "message" else 0)


async def test_close_record_counts_frames_sent_with_the_handshake(
    autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """Frames in one packet with the handshake are counted, the handshake is not."""
    scene = new_scene()
    frames = client_frame(TEXT, b"early") + close_frame(4001)
    async with staged(scene.app) as scene.stage:
        client = CountingClient(scene.stage.connect())
        await client.send(request_bytes("GET / HTTP/1.1") + frames)
        assert (await client.reply()).status == 101
        await client.rest()
        await trio.sleep(1)
    assert (log.record.messages_received, log.record.bytes_received) == (1, len(frames))
    assert (log.record.messages_sent, log.record.bytes_sent) == (1, client.received)


async def test_close_record_without_a_101(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of a client that disconnected before its 101 counts no sent bytes, and no negative number."""
    counts: list[int] = []
    scene = new_scene()

    async def on_connect(stream: AsyncStream, state: None) -> None:
        counts.append(stream.statistics().bytes_sent)
        await stream.send("hello")
        counts.append(stream.statistics().bytes_sent)

    scene.app.with_connect_handler(on_connect)
    async with staged(scene.app, stream_pair=trio.testing.lockstep_stream_pair) as scene.stage:
        connection = scene.stage.connect()
        await connection.send_all(request_bytes("GET / HTTP/1.1"))
        await trio.sleep(1)
        await trio.aclose_forcefully(connection)
        await trio.sleep(1)
        assert settled(scene.records) == settled(log.records)
    assert counts == [0, 0]
    assert (log.record.initiator, log.record.code, log.record.bytes_sent) == ("client", 1006, 0)
