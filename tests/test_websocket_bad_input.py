"""Bad frames over a real socket: the client can read why it is closed, and the next one is served."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from humphrey_trio import App, WebsocketStream, websocket_handler
from humphrey_trio.http import Address
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, listening, tcp_of
from tests.support.wire import CLOSE, CONTINUATION, PING, TEXT, client_frame, close_frame

LIMIT = 100_000
HELLO = client_frame(TEXT, b"hello")

#: What a client sends, and the code of the Close that it gets.
BAD = {
    "no mask": (b"\x81\x05hello", 1002),
    "reserved bit": (client_frame(TEXT, b"hello", rsv=0b100), 1002),
    "reserved opcode": (client_frame(0x3, b"hello"), 1002),
    "lone continuation": (client_frame(CONTINUATION, b"hello"), 1002),
    "message inside a message": (client_frame(TEXT, b"hel", fin=False) + HELLO, 1002),
    "long ping": (client_frame(PING, b"x" * 126), 1002),
    "fragmented ping": (client_frame(PING, b"x", fin=False), 1002),
    "close with an invalid code": (close_frame(1005), 1002),
    "close of one byte": (client_frame(CLOSE, b"\x03"), 1002),
    "length that is too short": (b"\x81\x82" + HELLO[2:], 1002),
    "length that was written too long": (b"\x81\xfe\x00\x05" + HELLO[2:], 1002),
    "length of a petabyte": (b"\x82\xff" + (10**15).to_bytes(8, "big") + HELLO[2:], 1009),
    "message that is too long": (client_frame(TEXT, b"x" * (LIMIT + 1)), 1009),
    "too many fragments": (client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) * 5000, 1009),
    "text that is not UTF-8": (client_frame(TEXT, b"\xff"), 1007),
    "close reason that is not UTF-8": (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n", 1002),
    "zeros": (bytes(100_000), 1002),
    "ones": (b"\xff" * 100_000, 1002),
}


@asynccontextmanager
async def serving(link: Link, received: list[str | bytes] | None = None) -> AsyncGenerator[Address]:
    """The address of a server on a real socket, which echoes and notes what it receives."""

    async def echo(stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            if received is not None:
                received.append(message.data)
            await stream.send(message)

    app = App().with_websocket_route("/", websocket_handler(echo, max_message_size=LIMIT))
    async with listening(app, link) as address:
        yield address


@asynccontextmanager
async def connected(address: Address, link: Link) -> AsyncGenerator[RawClient]:
    async with await link.connect(address) as stream:
        yield await RawClient(stream).open()


async def assert_served(address: Address, link: Link) -> None:
    """Another client is served."""
    async with connected(address, link) as client:
        await client.send(HELLO)
        assert await client.frame() == (TEXT, b"hello")


@each_link
@pytest.mark.parametrize("behind", [b"", HELLO * 20_000], ids=["nothing behind it", "220 KB behind it"])
@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
async def test_bad_input(data: bytes, code: int, behind: bytes, link: Link) -> None:
    """An invalid frame is answered with the right Close, whatever follows it, and then an end of file."""
    async with serving(link) as address:
        async with connected(address, link) as client:
            await client.send(data + behind)
            (*echoes, (opcode, payload)) = await client.rest()

            assert echoes == []
            assert opcode == CLOSE
            assert int.from_bytes(payload[:2], "big") == code
            assert payload[2:].decode()  # the reason

        await assert_served(address, link)


@each_link
async def test_good_input_before_bad(link: Link) -> None:
    """A message in front of a bad frame is delivered, also if both came in one packet."""
    received: list[str | bytes] = []
    async with serving(link, received) as address, connected(address, link) as client:
        await client.send(HELLO + b"\x81\x05hello")
        assert await client.close_code() == 1002
        assert await client.at_end()
        assert received == ["hello"]


@each_link
async def test_stalled_frame_delays_no_other_client(link: Link) -> None:
    """A client that stops inside a frame delays no other client, and may continue later."""
    async with serving(link) as address, connected(address, link) as client:
        await client.send(HELLO[:3])
        for _ in range(3):
            await assert_served(address, link)
        await client.send(HELLO[3:])
        assert await client.frame() == (TEXT, b"hello")


@each_link
@pytest.mark.parametrize("size", range(1, len(HELLO)))
async def test_a_client_that_leaves_inside_a_frame(size: int, link: Link) -> None:
    """A client that leaves in the middle of a frame gets no Close, and nothing of its frame is delivered."""
    async with serving(link) as address:
        async with connected(address, link) as client:
            await client.send(HELLO[:size])
            await tcp_of(client.stream).send_eof()
            assert await client.at_end()

        await assert_served(address, link)
