"""Clients that agree on permessage-deflate, and an app for them."""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from humphrey_trio import (
    App,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.websocket import Deflate
from tests.support import PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.wire import (
    CLOSE,
    HANDSHAKE_FIELDS,
    request_bytes,
)

EVERYTHING = Deflate(min_size=0)


async def echo(stream: WebsocketStream, state: None) -> None:
    """Echo all messages."""
    async for message in stream:
        await stream.send(message)


def echo_app(deflate: Deflate | None, **options: Any) -> App:
    """An app whose only route echoes messages."""
    return App().with_websocket_route("/*", websocket_handler(echo, deflate=deflate, **options))


class MemoryClient:
    """A client of the ``websockets`` package on any stream."""

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
    """A client that sends any frames, and returns the first byte of those that it receives.

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
        """The next frame: whether it is compressed, its opcode, and its payload as received."""
        first, size = await self.raw.read(2)
        if size > 125:
            size = int.from_bytes(await self.raw.read(2 if size == 126 else 8), "big")
        assert first & 0xB0 == 0x80
        return bool(first & 0x40), first & 0xF, await self.raw.read(size)

    async def message(self) -> tuple[bool, bytes]:
        """The next message, decompressed with the window of those before it."""
        compressed, _, payload = await self.frame()
        return compressed, self._inflater.decompress(payload + b"\x00\x00\xff\xff") if compressed else payload

    async def close_code(self) -> int:
        compressed, opcode, payload = await self.frame()
        assert (compressed, opcode) == (False, CLOSE)
        return int.from_bytes(payload[:2], "big")


@asynccontextmanager
async def wire_client(app: App, *offers: str) -> AsyncGenerator[WireClient]:
    """A client of an app in memory, after its handshake."""
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app) as connect:
            yield await WireClient(connect()).open(*offers)


def deflated(payload: bytes) -> bytes:
    """The payload of a compressed message that refers to no other message."""
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


#: What a client offers, by the settings of its factory.
CLIENTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-parameters": {"client_max_window_bits": None},
    "server-forgets": {"server_no_context_takeover": True},
    "client-forgets": {"client_no_context_takeover": True, "client_max_window_bits": True},
    "small-windows": {"server_max_window_bits": 9, "client_max_window_bits": 9},
    "big-windows": {"server_max_window_bits": 15, "client_max_window_bits": 15},
}


def factory(name: str) -> ClientPerMessageDeflateFactory:
    """The extension of a ``websockets`` client with the offer of that name."""
    return ClientPerMessageDeflateFactory(**{"client_max_window_bits": True, **CLIENTS[name]})


def text_of(size: int, seed: int = 0) -> str:
    """Text that compresses about as well as natural language."""
    words = ("trio ", "nursery ", "humphrey ", "cancel ", "scope ")
    chosen = random.Random(seed).choices(words, k=size // 5 + 1)
    return "".join(chosen)[:size]
