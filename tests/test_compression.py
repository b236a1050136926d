"""Compression on open connections: other clients, the wire, broadcasts, and what a client may not do."""

from __future__ import annotations

import itertools
import os
import random
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

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
from humphrey_trio.websocket import Deflate, Upgrade
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import StreamPair, served_in_memory
from tests.support.certificates import authority, trusting_in_threads
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, listening
from tests.support.reads import bomb
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HANDSHAKE_FIELDS,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    request_bytes,
)

#: The three reserved bits of a frame whose message is compressed.
COMPRESSED = 0b100
OFFER = "permessage-deflate; client_max_window_bits"
FORGETFUL = Deflate(server_context_takeover=False, client_context_takeover=False)
EVERYTHING = Deflate(min_size=0)

Connect = Callable[[], trio.abc.Stream]


async def echo(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        await stream.send(message)


def echo_app(deflate: Deflate | None, **options: Any) -> App:
    return App().with_websocket_route("/*", websocket_handler(echo, deflate=deflate, **options))


@asynccontextmanager
async def serving(app: App, link: Link) -> AsyncGenerator[str]:
    """Serve on a real socket; its address."""
    async with listening(app, link) as address:
        yield f"{'ws' if link is Link.PLAIN else 'wss'}://127.0.0.1:{address.port}/"


async def talk(app: App, conversation: Callable[[ClientConnection], None], link: Link, **options: Any) -> None:
    """Have a client of the ``websockets`` package, in a thread, talk to an app on a real socket."""

    def run(url: str) -> None:
        tls = None if link is Link.PLAIN else trusting_in_threads(authority())
        with connect(url, proxy=None, max_size=None, ssl=tls, **options) as client:
            conversation(client)

    async with serving(app, link) as url:
        await trio.to_thread.run_sync(run, url)


class MemoryClient:
    """A client of the ``websockets`` package on any stream, which keeps the headers of the frames it gets."""

    def __init__(self, stream: trio.abc.Stream, extension: ClientPerMessageDeflateFactory | None) -> None:
        self._stream = stream
        extensions = None if extension is None else [extension]
        self._protocol = ClientProtocol(parse_uri("ws://testserver/"), extensions=extensions, max_size=None)
        self._frames: list[Frame] = []

    async def open(self) -> MemoryClient:
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        await self._fill()
        assert self._protocol.handshake_exc is None
        return self

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        await self._flush()

    async def receive(self) -> str | bytes:
        while not self._frames:
            await self._fill()
        frame = self._frames.pop(0)
        assert frame.opcode in (Opcode.TEXT, Opcode.BINARY), frame
        return bytes(frame.data).decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            await self._stream.send_all(data)

    async def _fill(self) -> None:
        data = await self._stream.receive_some()
        assert data, "the server has left"
        self._protocol.receive_data(bytes(data))
        if self._protocol.parser_exc is not None:
            raise self._protocol.parser_exc
        self._frames += [event for event in self._protocol.events_received() if isinstance(event, Frame)]


class WireClient:
    """A client that sends frames as it likes, and shows the first byte of those it gets.

    Attributes:
        answer: the 101's extensions.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.raw = RawClient(stream)
        self.answer: tuple[str, ...] = ()
        self._inflater = zlib.decompressobj(-15)

    async def open(self, *offers: str) -> WireClient:
        fields = [*HANDSHAKE_FIELDS, *(("Sec-WebSocket-Extensions", offer) for offer in offers)]
        await self.raw.send(request_bytes("GET / HTTP/1.1", fields))
        reply = await self.raw.reply()
        assert reply.status == 101
        self.answer = reply.headers.get_all("Sec-WebSocket-Extensions")
        return self

    async def send(self, *frames: bytes) -> None:
        await self.raw.send(b"".join(frames))

    async def frame(self) -> tuple[bool, int, bytes]:
        """The next frame: whether it is compressed, its opcode, and its payload as it stands there."""
        first, size = await self.raw.read(2)
        if size > 125:
            size = int.from_bytes(await self.raw.read(2 if size == 126 else 8), "big")
        assert first & 0xB0 == 0x80
        return bool(first & 0x40), first & 0xF, await self.raw.read(size)

    async def message(self) -> tuple[bool, bytes]:
        """The next frame, inflated with what was remembered of those before it."""
        compressed, _, payload = await self.frame()
        return compressed, self._inflater.decompress(payload + b"\x00\x00\xff\xff") if compressed else payload

    async def close_code(self) -> int:
        compressed, opcode, payload = await self.frame()
        assert (compressed, opcode) == (False, CLOSE)
        return int.from_bytes(payload[:2], "big")


@asynccontextmanager
async def wire(app: App, *offers: str) -> AsyncGenerator[WireClient]:
    """A client of an app in memory, whose handshake is done."""
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app) as connect:
            yield await WireClient(connect()).open(*offers)


def deflated(payload: bytes) -> bytes:
    """The payload of a compressed message that refers to none before it."""
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


# ------------------------------------------------------------------------------------------- other clients

SIZES = (0, 1, 63, 64, 125, 126, 65_535, 65_536, 1024 * 1024)

#: What a client offers, by the settings of its factory.
CLIENTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-parameters": {"client_max_window_bits": None},
    "server-forgets": {"server_no_context_takeover": True},
    "client-forgets": {"client_no_context_takeover": True, "client_max_window_bits": True},
    "small-windows": {"server_max_window_bits": 9, "client_max_window_bits": 9},
    "big-windows": {"server_max_window_bits": 15, "client_max_window_bits": 15},
}
SERVERS = {
    "default": Deflate(),
    "everything": EVERYTHING,
    "forgetful": FORGETFUL,
    "big": Deflate(server_max_window_bits=15, client_max_window_bits=15, memory_level=9, level=9),
    "small": Deflate(server_max_window_bits=9, client_max_window_bits=9, memory_level=1, level=1),
}


def factory(name: str) -> ClientPerMessageDeflateFactory:
    return ClientPerMessageDeflateFactory(**{"client_max_window_bits": True, **CLIENTS[name]})


def text_of(size: int, seed: int = 0) -> str:
    """Text that compresses about as well as people's does."""
    words = ("trio ", "nursery ", "humphrey ", "cancel ", "scope ")
    chosen = random.Random(seed).choices(words, k=size // 5 + 1)
    return "".join(chosen)[:size]


@each_link
@pytest.mark.parametrize("size", SIZES)
async def test_sizes_on_a_socket(size: int, link: Link) -> None:
    """A message of any size comes back as it went: text, binary that compresses, and binary that does not."""

    def conversation(client: ClientConnection) -> None:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        for message in (text_of(size), bytes(size), os.urandom(size)):
            client.send(message)
            assert client.recv(timeout=PATIENCE) == message

    await talk(echo_app(Deflate()), conversation, link, compression="deflate")


@pytest.mark.parametrize("client_name", CLIENTS)
@pytest.mark.parametrize("server_name", SERVERS)
async def test_many_messages(server_name: str, client_name: str) -> None:
    """Message after message comes back as it went, whatever both sides remember and how far back they look."""
    rng = random.Random(f"{server_name} {client_name}")
    with trio.fail_after(PATIENCE):
        async with served_in_memory(echo_app(SERVERS[server_name])) as connect:
            client = await MemoryClient(connect(), factory(client_name)).open()
            for number in range(60):
                text = text_of(rng.choice((0, 5, 70, 500, 3000, 40_000)), rng.randrange(3))
                message = text if rng.random() < 0.5 else text.encode() + rng.randbytes(rng.randrange(30))
                await client.send(message)
                assert await client.receive() == message, number


@each_link
async def test_many_messages_on_a_socket(link: Link) -> None:
    """On a real socket, too, messages follow each other without waiting."""
    messages = [text_of(200 + 37 * number, number % 4) for number in range(300)]

    def conversation(client: ClientConnection) -> None:
        for message in messages:
            client.send(message)
        assert [client.recv(timeout=PATIENCE) for _ in messages] == messages

    await talk(echo_app(Deflate()), conversation, link, compression="deflate")


@each_link
async def test_a_client_without_compression(link: Link) -> None:
    """A client that does not offer compression gets none, from a route that has it."""

    def conversation(client: ClientConnection) -> None:
        assert client.protocol.extensions == []
        client.send("x" * 1000)
        assert client.recv(timeout=PATIENCE) == "x" * 1000

    await talk(echo_app(Deflate()), conversation, link, compression=None)


# ---------------------------------------------------------------------------------------------- agreeing


async def test_off_by_default() -> None:
    """Without ``deflate`` an offer is ignored, and nothing is compressed."""
    async with wire(App().with_websocket_route("/*", websocket_handler(echo)), OFFER) as client:
        assert client.answer == ()
        await client.send(client_frame(TEXT, b"x" * 1000))
        assert await client.frame() == (False, TEXT, b"x" * 1000)


def own_route(deflate: Deflate) -> Any:
    async def route(upgrade: Upgrade, state: None) -> None:
        await echo(await upgrade.accept(deflate=deflate), state)

    return route


@pytest.mark.parametrize("kind", ["coroutine", "hook", "own"])
async def test_every_route_compresses(kind: str, nursery: trio.Nursery) -> None:
    """Each kind of route takes ``deflate``, says what was agreed on in the 101, and keeps to it."""

    async def answer(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(answer)
    await nursery.start(websocket_app.run)
    routes = {
        "coroutine": websocket_handler(echo, deflate=Deflate()),
        "hook": async_websocket_handler(websocket_app.connect_hook(), deflate=Deflate()),
        "own": own_route(Deflate()),
    }
    async with wire(App().with_websocket_route("/*", routes[kind]), OFFER) as client:
        assert client.answer == ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",)
        await client.send(client_frame(TEXT, deflated(b"x" * 1000), rsv=COMPRESSED))
        assert await client.message() == (True, b"x" * 1000)
    nursery.cancel_scope.cancel()


async def test_an_internally_linked_app_compresses() -> None:
    """``AsyncWebsocketApp`` takes ``deflate`` where it is linked internally."""

    async def answer(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    app = AsyncWebsocketApp(deflate=Deflate()).with_address(ANY_PORT).with_message_handler(answer)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                client = await WireClient(stream).open(OFFER)
                await client.send(client_frame(TEXT, b"x" * 1000))
                assert await client.message() == (True, b"x" * 1000)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; mystery",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-bzip2",
        "x-webkit-deflate-frame",
    ],
)
async def test_offers_that_are_declined(offer: str) -> None:
    """An offer with an unknown or invalid parameter is declined: the 101 does not mention it."""
    async with wire(echo_app(Deflate()), offer) as client:
        assert client.answer == ()
        await client.send(client_frame(TEXT, b"x" * 1000))
        assert await client.frame() == (False, TEXT, b"x" * 1000)


async def test_the_next_offer_is_taken() -> None:
    """Behind an offer that is declined, the next is accepted, also on a line of its own."""
    async with wire(echo_app(Deflate()), "permessage-deflate; mystery", OFFER) as client:
        assert len(client.answer) == 1
        assert client.answer[0].startswith("permessage-deflate; ")


@pytest.mark.parametrize("malformed", ["permessage-deflate; =", "permessage-deflate;", 'a; b="', "a b", "@"])
async def test_malformed_offers(malformed: str) -> None:
    """A malformed Sec-WebSocket-Extensions is a 400, and its connection goes on with HTTP."""
    fields = [*HANDSHAKE_FIELDS, ("Sec-WebSocket-Extensions", malformed)]
    with trio.fail_after(PATIENCE):
        async with served_in_memory(echo_app(Deflate())) as connect:
            client = RawClient(connect())
            await client.send(request_bytes("GET / HTTP/1.1", fields))
            reply = await client.reply()
            assert reply.status == 400
            assert b"Sec-WebSocket-Extensions is malformed" in reply.content
            await client.open()


# --------------------------------------------------------------------------------------------- on the wire


async def test_a_message_can_be_sent_uncompressed() -> None:
    """``compress=False`` sends one message as it is; those around it are compressed, with what was remembered."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        for compress in (True, False, True):
            await stream.send(text_of(500), compress=compress)

    app = App().with_websocket_route("/*", websocket_handler(handler, deflate=Deflate()))
    async with wire(app, OFFER) as client:
        expected = text_of(500).encode()
        assert [await client.message() for _ in range(3)] == [
            (True, expected),
            (False, expected),
            (True, expected),
        ]


@pytest.mark.parametrize(("size", "compressed"), [(99, False), (100, True)])
async def test_min_size(size: int, compressed: bool) -> None:
    """A payload is compressed from ``min_size`` bytes of UTF-8 on."""
    async with wire(echo_app(Deflate(min_size=100)), OFFER) as client:
        await client.send(client_frame(TEXT, b"x" * (size % 2) + "ä".encode() * (size // 2)))
        found, opcode, _ = await client.frame()
        assert (found, opcode) == (compressed, TEXT)


async def test_control_frames_between_compressed_fragments() -> None:
    """A ping between the fragments of a compressed message is answered, and the message comes out whole."""
    payload = deflated(text_of(5000).encode())
    middle = len(payload) // 2
    async with wire(echo_app(Deflate()), OFFER) as client:
        for _ in range(2):
            await client.send(
                client_frame(TEXT, payload[:middle], fin=False, rsv=COMPRESSED),
                client_frame(PING, b"there?"),
                client_frame(CONTINUATION, payload[middle:-1], fin=False),
                client_frame(PONG, b"unasked"),
                client_frame(CONTINUATION, payload[-1:]),
            )
            assert await client.frame() == (False, PONG, b"there?")
            assert await client.message() == (True, text_of(5000).encode())


# ----------------------------------------------------------------------------------- what a client may not


@pytest.mark.parametrize("fragmented", [False, True])
async def test_a_bomb(fragmented: bool) -> None:
    """Some kilobytes that inflate to 100 MiB are closed with 1009, and cost no more than the message limit."""
    payload = bomb(100)
    assert len(payload) < 150_000
    frames = (
        [
            client_frame(BINARY, payload[:1000], fin=False, rsv=COMPRESSED),
            *(client_frame(CONTINUATION, payload[at : at + 1000], fin=False) for at in range(1000, 50_000, 1000)),
        ]
        if fragmented
        else [client_frame(BINARY, payload, rsv=COMPRESSED)]
    )
    async with wire(echo_app(Deflate(), max_message_size=2**20), OFFER) as client:
        tracemalloc.start()
        try:
            await client.send(*frames)
            assert await client.close_code() == 1009
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(client_frame(TEXT, b"\xff\xff\xff\xff", rsv=COMPRESSED), 1007, id="corrupt"),
        pytest.param(client_frame(TEXT, deflated(b"\xff\xfe" * 50), rsv=COMPRESSED), 1007, id="no-utf-8"),
        pytest.param(client_frame(PING, b"x", rsv=COMPRESSED), 1002, id="compressed-ping"),
        pytest.param(client_frame(TEXT, b"x", rsv=0b010), 1002, id="another-bit"),
        pytest.param(
            client_frame(TEXT, deflated(b"x" * 99), fin=False, rsv=COMPRESSED)
            + client_frame(CONTINUATION, b"", rsv=COMPRESSED),
            1002,
            id="compressed-continuation",
        ),
    ],
)
async def test_what_a_client_may_not(frames: bytes, code: int) -> None:
    """A corrupt stream is closed with 1007, a reserved bit in the wrong place with 1002."""
    async with wire(echo_app(Deflate()), OFFER) as client:
        await client.send(frames)
        assert await client.close_code() == code


@pytest.mark.parametrize("offers", [(), ("permessage-deflate; mystery",)])
async def test_compressed_without_agreement(offers: tuple[str, ...]) -> None:
    """A compressed message is a breach of the protocol, 1002, where no compression was agreed on."""
    async with wire(echo_app(Deflate()), *offers) as client:
        await client.send(client_frame(TEXT, deflated(b"x" * 99), rsv=COMPRESSED))
        assert await client.close_code() == 1002


# ---------------------------------------------------------------------------------------------- broadcasts


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
