"""Long payloads that are sent without being copied to their header: the bytes on the wire stay the same."""

from __future__ import annotations

import random

import pytest
import trio

from humphrey_trio import App, Message, WebsocketStream, websocket_handler
from humphrey_trio._server._direct import DirectTransport
from humphrey_trio._websocket._counters import Counters
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._encoder import encode_message, encode_parts
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio.http import Address
from humphrey_trio.testing import memory_connection, open_websocket
from tests.support import PATIENCE
from tests.support.links import Link, limit_send_buffers, listening

HEAD = b"HTTP/1.1 101\r\n\r\n"
PAYLOAD = random.Random(1).randbytes(2**16)


class Gathering(DirectTransport):
    """A transport over memory that sends two parts together, as one over a socket does."""

    gathers = True


@pytest.mark.parametrize("size", [0, 125, 126, 2**16 - 1, 2**16, 2**17])
@pytest.mark.parametrize("kind", [bytes, str])
def test_the_parts_are_the_frame(size: int, kind: type) -> None:
    """The two parts of a frame, together, are the frame; a short frame has only one part."""
    data = "x" * size if kind is str else bytes(size)
    for message in (data, Message(data)):
        frame, payload = encode_parts(message)
        assert frame + payload == encode_message(message)
        assert len(payload) == (size if size >= 2**16 else 0)


def test_a_long_payload_is_not_copied() -> None:
    """The second part of a long frame is the payload of the message itself."""
    assert encode_parts(Message(PAYLOAD))[1] is PAYLOAD


@pytest.mark.parametrize("gathers", [True, False])
@pytest.mark.parametrize("room", [*range(1, 13), 1000, 2**20])
async def test_frame_that_is_sent_in_part(room: int, gathers: bool) -> None:
    """Wherever the kernel stops accepting a frame, in its header or after it, the rest follows."""
    client, server = memory_connection(len(HEAD) + room)
    transport = (Gathering if gathers else DirectTransport)(server, Address("memory"))
    outbox = Outbox(transport, StreamLimits(), Counters())
    outbox.uncork(HEAD)
    outbox.put_parts(*encode_parts(PAYLOAD))
    outbox.put(encode_message(b"more"))
    received, wanted = b"", HEAD + encode_message(PAYLOAD) + encode_message(b"more")

    async with trio.open_nursery() as nursery:

        async def write() -> None:
            while outbox.pending:
                await outbox.flush_some()

        nursery.start_soon(write)
        while len(received) < len(wanted):
            received += await client.receive_some()

    assert received == wanted
    assert outbox.bytes_sent == len(wanted) - len(HEAD)
    assert outbox.messages_put == 2


@pytest.mark.parametrize("link", [Link.PLAIN, Link.TLS])
async def test_long_messages_to_a_slow_client(link: Link) -> None:
    """Long messages arrive as they were sent, over a connection whose socket buffer is small."""
    sizes = [2**16 - 1, 2**16, 2**16 + 1, 300_000]

    async def send_all(stream: WebsocketStream, state: None) -> None:
        for size in sizes:
            await stream.send(random.Random(size).randbytes(size))

    with trio.fail_after(PATIENCE):
        async with listening(App().with_websocket_route("/", websocket_handler(send_all)), link) as address:
            limit_send_buffers(address, 4096)
            async with await link.connect(address) as stream:
                client = await open_websocket(stream)
                for size in sizes:
                    assert await client.receive() == Message(random.Random(size).randbytes(size))
