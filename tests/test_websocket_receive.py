"""WebSocket streams: ``receive``, and the messages that arrive."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    ConnectionClosed,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import websocket_client
from tests.support.clients import RawClient
from tests.support.steps import cancelled_at
from tests.support.websocket_handlers import CHUNK, ReceiveRecorder, app_with, echo, raw_client
from tests.support.wire import BINARY, CLOSE, CONTINUATION, TEXT, client_frame, close_frame

# ----------------------------------------------------------------------------------------------- receive


@pytest.mark.parametrize(
    "data", ["", b"", "héllo €", b"\x00\xff", "x" * 125, b"x" * 65536, "€" * 300_000], ids=len
)
async def test_echo(data: str | bytes) -> None:
    """A message is received as it was sent, text or binary, from 0 bytes to nearly 1 MiB."""
    async with websocket_client(app_with(echo)) as client:
        await client.send(data)
        assert await client.receive() == Message(data)


async def test_echo_of_many_messages() -> None:
    """Messages are received in the order in which they were sent."""
    async with websocket_client(app_with(echo)) as client:
        for i in range(500):
            await client.send(str(i))
        assert [(await client.receive()).text for _ in range(500)] == [str(i) for i in range(500)]


async def test_stream_attributes_and_repr() -> None:
    """An open stream has a unique id, a peer and no close code, and shows them in its repr."""
    streams: list[WebsocketStream] = []

    async def look(stream: WebsocketStream, state: None) -> None:
        streams.append(stream)
        assert (stream.closed, stream.close_code, stream.close_reason) == (False, None, None)
        assert repr(stream) == f"<WebsocketStream {stream.id} with {stream.peer_addr}, open>"
        await stream.close(4000, "seen")
        assert (stream.closed, stream.close_code, stream.close_reason) == (True, 4000, "seen")
        assert repr(stream).endswith(", closed with 4000: 'seen'>")

    for _ in range(2):
        async with raw_client(app_with(look)) as client:
            assert await client.close_code() == 4000
    assert streams[0].id != streams[1].id


async def test_handler_gets_the_state() -> None:
    """The second argument of the handler is the app's state."""

    async def handler(stream: WebsocketStream, state: str) -> None:
        await stream.send(state)

    app = App("the state").with_websocket_route("/", websocket_handler(handler))
    async with websocket_client(app) as client:
        assert await client.receive() == Message("the state")


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (close_frame(1000), 1000, ""),
        (close_frame(1001, "tab closed"), 1001, "tab closed"),
        (close_frame(3001, "enough"), 3001, "enough"),
        (client_frame(CLOSE), 1005, ""),
        (None, 1006, ""),
    ],
    ids=["1000", "1001", "3001", "no code", "end of file"],
)
async def test_receive_at_the_end(end: bytes | None, code: int, reason: str) -> None:
    """At the end ``receive`` raises ConnectionClosed with the client's code and reason at every call."""
    handler = ReceiveRecorder()
    async with raw_client(app_with(handler)) as client:
        await client.send(client_frame(TEXT, b"last"))
        await (client.stream.aclose() if end is None else client.send(end))
        await handler.done.wait()

        assert handler.received == ["last"]
        assert (handler.closed.code, handler.closed.reason) == (code, reason)
        assert (handler.stream.close_code, handler.stream.close_reason) == (code, reason)
        with pytest.raises(ConnectionClosed) as again:
            await handler.stream.receive()
        assert again.value is not handler.closed
        assert again.value.code == code


async def test_async_for_ends_at_the_close() -> None:
    """Iterating over a stream ends without an exception when the stream is closed."""
    finished = trio.Event()

    async def iterate(stream: WebsocketStream, state: None) -> None:
        assert [message.text async for message in stream] == ["one", "two"]
        assert [message async for message in stream] == []
        finished.set()

    async with websocket_client(app_with(iterate)) as client:
        await client.send("one")
        await client.send("two")
        await client.close()
        await finished.wait()


async def test_messages_before_the_close_are_received(autojump_clock: trio.testing.MockClock) -> None:
    """Messages before the client's Close are received, also by a handler that was busy."""
    received: list[str | None] = []

    async def be_slow(stream: WebsocketStream, state: None) -> None:
        await trio.sleep(0.4)
        assert stream.closed
        received.extend([message.text async for message in stream])

    async with raw_client(app_with(be_slow)) as client:
        frames = b"".join(client_frame(TEXT, b"%d" % i) for i in range(10))
        await client.send(frames + close_frame(1000))
        assert await client.close_code() == 1000
        await trio.sleep(1)

    assert received == [str(i) for i in range(10)]


@pytest.mark.parametrize("resumed", [False, True], ids=["while it waits", "when it may go on"])
@pytest.mark.parametrize("own_reader", [True, False], ids=["own handler", "out of a channel"])
async def test_cancelled_receive_loses_no_message(own_reader: bool, resumed: bool) -> None:
    """A ``receive`` that is cancelled at any checkpoint loses no message."""
    steps = 0

    async def receive_and_cancel(stream: WebsocketStream, state: None) -> None:
        nonlocal steps
        reached = True
        while reached:
            steps += 1
            received: list[Message] = []

            async def receive(received: list[Message] = received) -> None:
                received.append(await stream.receive())

            await stream.send(b"%d" % steps)
            reached = await cancelled_at(steps, receive, resumed=resumed)
            if not received:
                received.append(await stream.receive())
            assert received == [Message(b"%d" % steps)]
        await stream.close()

    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    if own_reader:
        app = app_with(receive_and_cancel)
    async with raw_client(app) as client, trio.open_nursery() as nursery:
        if not own_reader:
            nursery.start_soon(receive_and_cancel, await streams.receive(), None)
        while (frame := await client.frame())[0] == BINARY:
            await trio.testing.wait_all_tasks_blocked()
            await client.send(client_frame(*frame))
    assert steps >= 2


async def test_concurrent_receive() -> None:
    """A second task that receives gets a BusyResourceError; the first one goes on."""
    received: list[Message] = []

    async def compete(stream: WebsocketStream, state: None) -> None:
        async def receive() -> None:
            received.append(await stream.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="is receiving"):
                await stream.receive()
            await stream.send("go on")

    async with websocket_client(app_with(compete)) as client:
        assert await client.receive() == Message("go on")
        await client.send("hello")
        assert [message async for message in client] == []
        assert client.close_code == 1000
    assert received == [Message("hello")]


async def test_read_ahead_is_bounded() -> None:
    """While a handler is busy, at most ``max_read_ahead`` messages are read."""
    go_on = trio.Event()

    async def be_slow(stream: WebsocketStream, state: None) -> None:
        await go_on.wait()
        await stream.receive()
        await trio.sleep_forever()

    sent = 0

    async def send(client: RawClient) -> None:
        nonlocal sent
        while True:
            await client.send(client_frame(BINARY, bytes(CHUNK - 14)))
            sent += 1

    app = app_with(be_slow, max_read_ahead=5)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client, trio.open_nursery() as nursery:
        nursery.start_soon(send, client)
        await trio.testing.wait_all_tasks_blocked()
        assert sent == 5
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sent == 6
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("options", "frames", "code"),
    [
        ({"max_message_size": 5}, client_frame(TEXT, b"hello"), None),
        ({"max_message_size": 5}, client_frame(TEXT, b"hello!"), 1009),
        ({"max_fragments": 1}, client_frame(TEXT, b"a", fin=False) + client_frame(CONTINUATION, b"b"), 1009),
        ({}, client_frame(TEXT, b"x" * 2**20), None),
        ({}, client_frame(TEXT, b"x" * (2**20 + 1)), 1009),
    ],
)
async def test_message_limits(options: dict[str, Any], frames: bytes, code: int | None) -> None:
    """A message beyond the limit closes its stream with 1009; the default is 1 MiB."""
    async with raw_client(app_with(echo, **options)) as client:
        await client.send(frames)
        if code is None:
            assert (await client.frame())[0] == TEXT
        else:
            assert await client.close_code() == code


def test_invalid_limits() -> None:
    """An invalid limit is a ValueError when the route is made."""
    with pytest.raises(ValueError, match="max_message_size"):
        websocket_handler(echo, max_message_size=0)


# ------------------------------------------------------------------------------------ streams from a channel


async def test_concurrent_receive_on_a_stream_from_a_channel() -> None:
    """Only one task at a time receives from a stream of a channel."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with raw_client(app) as client, trio.open_nursery() as nursery:
        stream = await streams.receive()
        nursery.start_soon(stream.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive()
        await client.send(client_frame(TEXT, b"hello"))


async def test_receive_at_the_end_of_a_stream_from_a_channel() -> None:
    """A stream of a channel raises ConnectionClosed when all messages are received."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with raw_client(app) as client:
        stream = await streams.receive()
        await client.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two") + close_frame(3000, "bye"))
        assert [message.text async for message in stream] == ["one", "two"]
        assert (stream.close_code, stream.close_reason) == (3000, "bye")
        assert await client.close_code() == 3000
        assert await client.at_end()


async def test_receive_takes_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    """A call of ``receive`` takes a stream from its channel, and may wait for any time."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook, take_timeout=1))
    async with raw_client(app) as client, trio.open_nursery() as nursery:
        stream = await streams.receive()
        nursery.start_soon(stream.receive)
        await trio.sleep(100)
        await client.send(client_frame(TEXT, b"at last"))
