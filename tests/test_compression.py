"""Compression on connections: other clients, negotiation, frames, and faults of a client."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from websockets.sync.client import ClientConnection, connect

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.websocket import Deflate, Upgrade
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.certificates import authority, trusting_in_threads
from tests.support.clients import RawClient
from tests.support.compression_clients import (
    CLIENTS,
    EVERYTHING,
    MemoryClient,
    WireClient,
    deflated,
    echo,
    echo_app,
    factory,
    text_of,
    wire_client,
)
from tests.support.deflate import COMPRESSED, FORGETFUL, OFFER
from tests.support.links import Link, each_link, listening
from tests.support.reads import bomb
from tests.support.wire import (
    BINARY,
    CONTINUATION,
    HANDSHAKE_FIELDS,
    PING,
    PONG,
    TEXT,
    client_frame,
    request_bytes,
)


@asynccontextmanager
async def serving_url(app: App, link: Link) -> AsyncGenerator[str]:
    """Run an app on a socket. Yields its URL."""
    async with listening(app, link) as address:
        yield f"{'ws' if link is Link.PLAIN else 'wss'}://127.0.0.1:{address.port}/"


async def talk(app: App, conversation: Callable[[ClientConnection], None], link: Link, **options: Any) -> None:
    """Run an exchange of a ``websockets`` client, in a thread, with an app on a socket."""

    def run(url: str) -> None:
        tls = None if link is Link.PLAIN else trusting_in_threads(authority())
        with connect(url, proxy=None, max_size=None, ssl=tls, **options) as client:
            conversation(client)

    async with serving_url(app, link) as url:
        await trio.to_thread.run_sync(run, url)


# -------------------------------------------------------------------------------- other implementations

SIZES = (0, 1, 63, 64, 125, 126, 65_535, 65_536, 1024 * 1024)

SERVERS = {
    "default": Deflate(),
    "everything": EVERYTHING,
    "forgetful": FORGETFUL,
    "big": Deflate(server_max_window_bits=15, client_max_window_bits=15, memory_level=9, level=9),
    "small": Deflate(server_max_window_bits=9, client_max_window_bits=9, memory_level=1, level=1),
}


@each_link
@pytest.mark.parametrize("size", SIZES)
async def test_message_sizes(size: int, link: Link) -> None:
    """Messages of any size are echoed: text, compressible binary, and random binary."""

    def conversation(client: ClientConnection) -> None:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        for message in (text_of(size), bytes(size), os.urandom(size)):
            client.send(message)
            assert client.recv(timeout=PATIENCE) == message

    await talk(echo_app(Deflate()), conversation, link, compression="deflate")


@pytest.mark.parametrize("client_name", CLIENTS)
@pytest.mark.parametrize("server_name", SERVERS)
async def test_many_messages_with_all_parameters(server_name: str, client_name: str) -> None:
    """Messages are echoed one after the other, with all parameters of both sides."""
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
async def test_many_messages_without_waiting(link: Link) -> None:
    """Messages that a client sends without waiting are echoed in order."""
    messages = [text_of(200 + 37 * number, number % 4) for number in range(300)]

    def conversation(client: ClientConnection) -> None:
        for message in messages:
            client.send(message)
        assert [client.recv(timeout=PATIENCE) for _ in messages] == messages

    await talk(echo_app(Deflate()), conversation, link, compression="deflate")


@each_link
async def test_client_without_compression(link: Link) -> None:
    """A client that does not offer compression gets none."""

    def conversation(client: ClientConnection) -> None:
        assert client.protocol.extensions == []
        client.send("x" * 1000)
        assert client.recv(timeout=PATIENCE) == "x" * 1000

    await talk(echo_app(Deflate()), conversation, link, compression=None)


# ------------------------------------------------------------------------------------------ negotiation


async def test_off_by_default() -> None:
    """Without ``deflate`` an offer is ignored, and no message is compressed."""
    async with wire_client(App().with_websocket_route("/*", websocket_handler(echo)), OFFER) as client:
        assert client.answer == ()
        await client.send(client_frame(TEXT, b"x" * 1000))
        assert await client.frame() == (False, TEXT, b"x" * 1000)


def own_route(deflate: Deflate) -> Any:
    async def route(upgrade: Upgrade, state: None) -> None:
        await echo(await upgrade.accept(deflate=deflate), state)

    return route


@pytest.mark.parametrize("kind", ["coroutine", "hook", "own"])
async def test_compression_of_every_kind_of_route(kind: str, nursery: trio.Nursery) -> None:
    """Each kind of route has ``deflate``, answers offers in the 101, and compresses messages."""

    async def answer(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(answer)
    await nursery.start(websocket_app.run)
    routes = {
        "coroutine": websocket_handler(echo, deflate=Deflate()),
        "hook": async_websocket_handler(websocket_app.connect_hook(), deflate=Deflate()),
        "own": own_route(Deflate()),
    }
    async with wire_client(App().with_websocket_route("/*", routes[kind]), OFFER) as client:
        assert client.answer == ("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",)
        await client.send(client_frame(TEXT, deflated(b"x" * 1000), rsv=COMPRESSED))
        assert await client.message() == (True, b"x" * 1000)
    nursery.cancel_scope.cancel()


async def test_compression_of_an_internally_linked_app() -> None:
    """``AsyncWebsocketApp`` has ``deflate`` for apps that are linked internally."""

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
async def test_declined_offers_are_not_in_the_101(offer: str) -> None:
    """An offer with an unknown or invalid parameter is not in the 101."""
    async with wire_client(echo_app(Deflate()), offer) as client:
        assert client.answer == ()
        await client.send(client_frame(TEXT, b"x" * 1000))
        assert await client.frame() == (False, TEXT, b"x" * 1000)


async def test_next_offer_after_a_declined_one() -> None:
    """After a declined offer the next one is accepted, also in another header line."""
    async with wire_client(echo_app(Deflate()), "permessage-deflate; mystery", OFFER) as client:
        assert len(client.answer) == 1
        assert client.answer[0].startswith("permessage-deflate; ")


@pytest.mark.parametrize("malformed", ["permessage-deflate; =", "permessage-deflate;", 'a; b="', "a b", "@"])
async def test_malformed_offers_are_a_400(malformed: str) -> None:
    """A malformed Sec-WebSocket-Extensions is a 400, and the connection is kept alive."""
    fields = [*HANDSHAKE_FIELDS, ("Sec-WebSocket-Extensions", malformed)]
    with trio.fail_after(PATIENCE):
        async with served_in_memory(echo_app(Deflate())) as connect:
            client = RawClient(connect())
            await client.send(request_bytes("GET / HTTP/1.1", fields))
            reply = await client.reply()
            assert reply.status == 400
            assert b"Sec-WebSocket-Extensions is malformed" in reply.content
            await client.open()


# ----------------------------------------------------------------------------------------------- frames


async def test_send_without_compression() -> None:
    """``compress=False`` sends one message uncompressed; those around it are compressed with the same window."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        for compress in (True, False, True):
            await stream.send(text_of(500), compress=compress)

    app = App().with_websocket_route("/*", websocket_handler(handler, deflate=Deflate()))
    async with wire_client(app, OFFER) as client:
        expected = text_of(500).encode()
        assert [await client.message() for _ in range(3)] == [
            (True, expected),
            (False, expected),
            (True, expected),
        ]


@pytest.mark.parametrize(("size", "compressed"), [(99, False), (100, True)])
async def test_min_size(size: int, compressed: bool) -> None:
    """A payload is compressed if it has at least ``min_size`` bytes of UTF-8."""
    async with wire_client(echo_app(Deflate(min_size=100)), OFFER) as client:
        await client.send(client_frame(TEXT, b"x" * (size % 2) + "ä".encode() * (size // 2)))
        found, opcode, _ = await client.frame()
        assert (found, opcode) == (compressed, TEXT)


async def test_ping_between_compressed_fragments() -> None:
    """A ping between the fragments of a compressed message is answered, and the message is complete."""
    payload = deflated(text_of(5000).encode())
    middle = len(payload) // 2
    async with wire_client(echo_app(Deflate()), OFFER) as client:
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


# -------------------------------------------------------------------------------------- protocol errors


@pytest.mark.parametrize("fragmented", [False, True])
async def test_decompression_bomb_over_a_connection(fragmented: bool) -> None:
    """A message that decompresses to 100 MiB is closed with 1009, within the memory of the message limit."""
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
    async with wire_client(echo_app(Deflate(), max_message_size=2**20), OFFER) as client:
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
async def test_invalid_compressed_frames(frames: bytes, code: int) -> None:
    """Corrupt data is closed with 1007, and a misplaced reserved bit with 1002."""
    async with wire_client(echo_app(Deflate()), OFFER) as client:
        await client.send(frames)
        assert await client.close_code() == code


@pytest.mark.parametrize("offers", [(), ("permessage-deflate; mystery",)])
async def test_compressed_message_without_agreement(offers: tuple[str, ...]) -> None:
    """A compressed message without an agreement is closed with 1002."""
    async with wire_client(echo_app(Deflate()), *offers) as client:
        await client.send(client_frame(TEXT, deflated(b"x" * 99), rsv=COMPRESSED))
        assert await client.close_code() == 1002
