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


class Room:
    """An app and the streams of its clients, in the order in which they came."""

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

    async def until(self, count: int) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert len(self.streams) == count


#: With takeover, without, with a smaller window, and uncompressed.
AUDIENCE = ("default", "server-forgets", "small-windows", None)


@pytest.mark.parametrize("seed", range(12))
async def test_broadcasts_among_messages(seed: int) -> None:
    """In any order of broadcasts and messages, compressed or not, every client reads what was meant for it."""
    rng = random.Random(seed)
    room = Room()
    async with room.served(Deflate(min_size=20)) as connect:
        clients = []
        for name in AUDIENCE:
            clients.append(await MemoryClient(connect(), name and factory(name)).open())
            await room.until(len(clients))
        expected: list[list[str | bytes]] = [[] for _ in clients]
        for _ in range(60):
            text = text_of(rng.choice((0, 10, 100, 1000, 9000)), rng.randrange(4))
            message, compress = rng.choice((text, text.encode())), rng.random() < 0.8
            if rng.random() < 0.4:
                await room.sender.broadcast(message, compress=compress)
                for messages in expected:
                    messages.append(message)
            else:
                number = rng.randrange(len(clients))
                await room.streams[number].send(message, compress=compress)
                expected[number].append(message)
        for client, messages in zip(clients, expected, strict=True):
            assert [await client.receive() for _ in messages] == messages


async def test_a_broadcast_is_compressed_once_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients with the same window share one compressed frame, with takeover or without; others get none."""
    compressed: Counter[int] = Counter()
    compress_apart = _deflate.compress_apart

    def count(payload: bytes, settings: Deflate, window_bits: int) -> bytes:
        compressed[window_bits] += 1
        return compress_apart(payload, settings, window_bits)

    monkeypatch.setattr(_deflate, "compress_apart", count)
    room = Room()
    async with room.served(Deflate()) as connect:
        clients = [await MemoryClient(connect(), name and factory(name)).open() for name in AUDIENCE * 3]
        await room.until(len(clients))
        await room.sender.broadcast(text_of(1000))
        assert compressed == {12: 1, 9: 1}
        await room.sender.broadcast("short")
        await room.sender.broadcast(text_of(1000), compress=False)
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
async def test_a_text_is_encoded_once(size: int, compress: bool, way: str, kind: str) -> None:
    """However many clients get a text, compressed or not, it is turned into bytes once."""
    text = CountedText("語" * size)
    room = Room()
    async with room.served(Deflate()) as connect:
        clients = [await MemoryClient(connect(), name and factory(name)).open() for name in AUDIENCE]
        await room.until(len(clients))
        for stream in room.streams:
            stream.subscribe("topic")
        sender, message = room.sender, text if kind == "text" else Message(text)
        if way == "send":
            for number, (stream, client) in enumerate(zip(room.streams, clients, strict=True), 1):
                await stream.send(message, compress=compress)
                assert await client.receive() == text
                assert text.encoded == number
        else:
            give = sender.broadcast if way == "broadcast" else partial(sender.publish, "topic")
            await give(message, compress=compress)
            assert [await client.receive() for client in clients] == [text] * len(clients)
            assert text.encoded == 1


async def test_a_broadcast_can_be_sent_uncompressed() -> None:
    """``broadcast(..., compress=False)`` sends the same uncompressed frame to all clients."""
    room = Room()
    async with room.served(Deflate()) as connect:
        client = await WireClient(connect()).open(OFFER)
        await room.until(1)
        await room.streams[0].broadcast(text_of(1000), compress=False)
        await room.streams[0].broadcast(text_of(1000))
        assert await client.frame() == (False, TEXT, text_of(1000).encode())
        assert await client.message() == (True, text_of(1000).encode())


async def test_a_slow_client_of_compressed_broadcasts() -> None:
    """A client that does not read is closed with 1013 by what waits compressed; the others read everything."""
    room = Room(max_outbox_bytes=5000)
    noise = [random.Random(number).randbytes(1000) for number in range(20)]
    async with room.served(Deflate(), trio.testing.lockstep_stream_pair) as connect:
        slow = await WireClient(connect()).open(OFFER)
        quick = await MemoryClient(connect(), factory("default")).open()
        await room.until(2)
        sent = []
        for message in noise:
            await room.sender.broadcast(message)
            sent.append(await quick.receive())
        assert sent == noise
        assert [stream.close_code for stream in room.streams] == [1013, None]
        with pytest.raises(ConnectionClosed):
            await room.streams[0].send("more")
        codes = []
        while (frame := await slow.frame())[1] != CLOSE:
            codes.append(frame[0])
        assert all(codes)
        assert int.from_bytes(frame[2][:2], "big") == 1013
        await slow.send(close_frame(1013))


async def test_closed_clients_cost_a_broadcast_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a client that is closed already, nothing is compressed."""

    def fail(*_: object) -> bytes:
        raise AssertionError("there is no client to compress for")

    room = Room()
    async with room.served(Deflate()) as connect:
        client = await WireClient(connect()).open(OFFER)
        await room.until(1)
        await room.streams[0].close(1000)
        monkeypatch.setattr(_deflate, "compress_apart", fail)
        await room.sender.broadcast(text_of(1000))
        assert await client.close_code() == 1000


async def test_concurrent_senders_keep_the_order_of_compression() -> None:
    """Messages of many tasks that wait for room are compressed in the order in which they are sent."""

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


async def test_a_cancelled_send_leaves_the_compressor_alone(autojump_clock: trio.testing.MockClock) -> None:
    """A send that is cancelled while it waits for room was never compressed, so that what follows can be read."""
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
