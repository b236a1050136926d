"""Compression of broadcasts and of messages between them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._websocket._protocol import _deflate
from humphrey_trio.websocket import Deflate
from tests.support import PATIENCE
from tests.support.apps import StreamPair, served_in_memory
from tests.support.compression_clients import MemoryClient, WireClient, factory, text_of
from tests.support.deflate import OFFER
from tests.support.wire import (
    CLOSE,
    TEXT,
    close_frame,
)

Connect = Callable[[], trio.abc.Stream]


class BroadcastApp:
    """An app, and the streams of its clients in the order in which they connected."""

    def __init__(self, **options: Any) -> None:
        self.streams: list[AsyncStream] = []
        self.app = AsyncWebsocketApp.new_unlinked(**options).with_connect_handler(self._connected)
        self.sender = self.app.sender()

    async def _connected(self, stream: AsyncStream, state: None) -> None:
        self.streams.append(stream)

    @asynccontextmanager
    async def served(
        self, deflate: Deflate, stream_pair: StreamPair = trio.testing.memory_stream_pair
    ) -> AsyncGenerator[Connect]:
        app = App().with_websocket_route("/*", async_websocket_handler(self.app.connect_hook(), deflate=deflate))
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.app.run)
                async with served_in_memory(app, stream_pair) as connect:
                    yield connect
                nursery.cancel_scope.cancel()

    async def wait_for_clients(self, count: int) -> None:
        """Wait wait_for_clients so many clients have connected."""
        await trio.testing.wait_all_tasks_blocked()
        assert len(self.streams) == count


#: With takeover, without, with a smaller window, and uncompressed.
AUDIENCE = ("default", "server-forgets", "small-windows", None)


@pytest.mark.parametrize("seed", range(12))
async def test_broadcasts_and_messages_with_compression(seed: int) -> None:
    """Each client receives its messages and all broadcasts in order, compressed or not."""
    rng = random.Random(seed)
    broadcast_app = BroadcastApp()
    async with broadcast_app.served(Deflate(min_size=20)) as connect:
        clients = []
        for name in AUDIENCE:
            clients.append(await MemoryClient(connect(), name and factory(name)).open())
            await broadcast_app.wait_for_clients(len(clients))
        expected: list[list[str | bytes]] = [[] for _ in clients]
        for _ in range(60):
            text = text_of(rng.choice((0, 10, 100, 1000, 9000)), rng.randrange(4))
            message, compress = rng.choice((text, text.encode())), rng.random() < 0.8
            if rng.random() < 0.4:
                await broadcast_app.sender.broadcast(message, compress=compress)
                for messages in expected:
                    messages.append(message)
            else:
                number = rng.randrange(len(clients))
                await broadcast_app.streams[number].send(message, compress=compress)
                expected[number].append(message)
        for client, messages in zip(clients, expected, strict=True):
            assert [await client.receive() for _ in messages] == messages


async def test_broadcast_is_compressed_once_per_window_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients with the same window size share one compressed frame, with context takeover or without."""
    compressed: Counter[int] = Counter()
    compress_apart = _deflate.compress_apart

    def count(payload: bytes, settings: Deflate, window_bits: int) -> bytes:
        compressed[window_bits] += 1
        return compress_apart(payload, settings, window_bits)

    monkeypatch.setattr(_deflate, "compress_apart", count)
    broadcast_app = BroadcastApp()
    async with broadcast_app.served(Deflate()) as connect:
        clients = [await MemoryClient(connect(), name and factory(name)).open() for name in AUDIENCE * 3]
        await broadcast_app.wait_for_clients(len(clients))
        await broadcast_app.sender.broadcast(text_of(1000))
        assert compressed == {12: 1, 9: 1}
        await broadcast_app.sender.broadcast("short")
        await broadcast_app.sender.broadcast(text_of(1000), compress=False)
        assert compressed == {12: 1, 9: 1}
        for client in clients:
            assert [await client.receive() for _ in range(3)] == [text_of(1000), "short", text_of(1000)]


class CountedText(str):
    """A text that counts how often it is encoded."""

    encoded = 0

    def encode(self, *args: Any, **keywords: Any) -> bytes:
        self.encoded += 1
        return super().encode(*args, **keywords)


@pytest.mark.parametrize("kind", ["text", "message"])
@pytest.mark.parametrize("way", ["send", "broadcast", "publish"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("size", [10, 60_000])  # the first is too short to be compressed
async def test_text_is_encoded_once_per_broadcast(size: int, compress: bool, way: str, kind: str) -> None:
    """A text is encoded once for all clients that receive it, compressed or not."""
    text = CountedText("語" * size)
    broadcast_app = BroadcastApp()
    async with broadcast_app.served(Deflate()) as connect:
        clients = [await MemoryClient(connect(), name and factory(name)).open() for name in AUDIENCE]
        await broadcast_app.wait_for_clients(len(clients))
        for stream in broadcast_app.streams:
            stream.subscribe("topic")
        sender, message = broadcast_app.sender, text if kind == "text" else Message(text)
        if way == "send":
            for number, (stream, client) in enumerate(zip(broadcast_app.streams, clients, strict=True), 1):
                await stream.send(message, compress=compress)
                assert await client.receive() == text
                assert text.encoded == number
        else:
            give = sender.broadcast if way == "broadcast" else partial(sender.publish, "topic")
            await give(message, compress=compress)
            assert [await client.receive() for client in clients] == [text] * len(clients)
            assert text.encoded == 1


async def test_broadcast_without_compression() -> None:
    """``broadcast(..., compress=False)`` sends the same uncompressed frame to all clients."""
    broadcast_app = BroadcastApp()
    async with broadcast_app.served(Deflate()) as connect:
        client = await WireClient(connect()).open(OFFER)
        await broadcast_app.wait_for_clients(1)
        await broadcast_app.streams[0].broadcast(text_of(1000), compress=False)
        await broadcast_app.streams[0].broadcast(text_of(1000))
        assert await client.frame() == (False, TEXT, text_of(1000).encode())
        assert await client.message() == (True, text_of(1000).encode())


async def test_slow_client_of_compressed_broadcasts() -> None:
    """A client that does not read is closed with 1013 by its compressed queue; others receive everything."""
    broadcast_app = BroadcastApp(max_outbox_bytes=5000)
    noise = [random.Random(number).randbytes(1000) for number in range(20)]
    async with broadcast_app.served(Deflate(), trio.testing.lockstep_stream_pair) as connect:
        slow = await WireClient(connect()).open(OFFER)
        quick = await MemoryClient(connect(), factory("default")).open()
        await broadcast_app.wait_for_clients(2)
        sent = []
        for message in noise:
            await broadcast_app.sender.broadcast(message)
            sent.append(await quick.receive())
        assert sent == noise
        assert [stream.close_code for stream in broadcast_app.streams] == [1013, None]
        with pytest.raises(ConnectionClosed):
            await broadcast_app.streams[0].send("more")
        codes = []
        while (frame := await slow.frame())[1] != CLOSE:
            codes.append(frame[0])
        assert all(codes)
        assert int.from_bytes(frame[2][:2], "big") == 1013
        await slow.send(close_frame(1013))


async def test_broadcast_is_not_compressed_for_closed_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broadcast is not compressed for clients that are closed already."""

    def fail(*_: object) -> bytes:
        raise AssertionError("there is no client to compress for")

    broadcast_app = BroadcastApp()
    async with broadcast_app.served(Deflate()) as connect:
        client = await WireClient(connect()).open(OFFER)
        await broadcast_app.wait_for_clients(1)
        await broadcast_app.streams[0].close(1000)
        monkeypatch.setattr(_deflate, "compress_apart", fail)
        await broadcast_app.sender.broadcast(text_of(1000))
        assert await client.close_code() == 1000


async def test_concurrent_sends_are_compressed_in_order() -> None:
    """Messages of tasks that wait for room are compressed in the order in which they are sent."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(stream.send, text_of(2000, number))

    route = websocket_handler(handler, deflate=Deflate(), max_outbox_messages=2)
    app = App().with_websocket_route("/*", route)
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
            client = await MemoryClient(connect(), factory("default")).open()
            received = Counter([await client.receive() for _ in range(30)])
    assert received == Counter(text_of(2000, number) for number in range(30))


async def test_cancelled_send_is_not_compressed(autojump_clock: trio.testing.MockClock) -> None:
    """A send that is cancelled while it waits for room does not change the window of the compressor."""
    full = trio.Event()

    async def handler(stream: WebsocketStream, state: None) -> None:
        with trio.move_on_after(1) as scope:
            for number in itertools.count():
                await stream.send(text_of(3000, number))
        assert scope.cancelled_caught
        full.set()
        await stream.send("the end " * 50)

    route = websocket_handler(handler, deflate=Deflate(), max_outbox_messages=2)
    app = App().with_websocket_route("/*", route)
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
            client = await MemoryClient(connect(), factory("default")).open()
            await full.wait()
            number = 0
            while (message := await client.receive()) != "the end " * 50:
                assert message == text_of(3000, number)
                number += 1
            assert number > 0
