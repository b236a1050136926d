"""Statistics of bytes: those on the wire, as the client counts them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress

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
from humphrey_trio.websocket import Deflate
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.held_app import LOCKSTEP, MEMORY, NEW, HeldApp
from tests.support.links import Link, each_link, memory_and_each_link, reset
from tests.support.wire import (
    BINARY,
    CONTINUATION,
    HANDSHAKE_FIELDS,
    PING,
    TEXT,
    client_frame,
    close_frame,
    request_bytes,
)

#: The first reserved bit: the message is compressed.
COMPRESSED = 0b100

HELLO_COMPRESSED = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # RFC 7692, section 7.2.3.1


#: The frames of clients, and the number of their messages.
CONVERSATIONS = {
    "nothing": ([], 0),
    "messages": ([client_frame(TEXT, b"x" * size) for size in (0, 1, 125, 126, 1000, 65536)], 6),
    "a large one": ([client_frame(BINARY, b"x" * 1_000_000)], 1),
    "fragments": (
        [
            client_frame(TEXT, b"frag", fin=False),
            client_frame(PING, b"between"),
            client_frame(CONTINUATION, b"", fin=False),
            client_frame(CONTINUATION, b"ment"),
        ],
        1,
    ),
    "pings": ([client_frame(PING, b"x" * size) for size in (0, 7, 125)], 0),
    "compressed": ([client_frame(TEXT, HELLO_COMPRESSED, rsv=COMPRESSED), client_frame(TEXT, b"x" * 1000)], 2),
}


class MeteredClient:
    """A client that counts the bytes it sends and receives after the handshake, and answers no frame."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = b""
        self.sent = 0

    async def open(self, fields: Iterable[tuple[str, str]], *frames: bytes) -> None:
        """Execute the handshake, with the first frames in the same packet."""
        await self._stream.send_all(request_bytes("GET / HTTP/1.1", fields) + b"".join(frames))
        self.sent = sum(map(len, frames))
        while b"\r\n\r\n" not in self._received:
            self._received += await self._stream.receive_some()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")

    async def send(self, *frames: bytes) -> None:
        """Send frames at once."""
        data = b"".join(frames)
        await self._stream.send_all(data)
        self.sent += len(data)

    async def read_to_the_end(self) -> int:
        """The number of bytes of frames up to the end of the connection, an end of file or a reset."""
        with suppress(trio.BrokenResourceError):
            while data := await self._stream.receive_some():
                self._received += data
        return len(self._received)

    async def close(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    def reset(self) -> None:
        """Reset the connection without a checkpoint."""
        reset(self._stream)


class Echo:
    """An echo on two routes, of a WebSocket app and of a coroutine, which keeps its streams."""

    def __init__(self, deflate: Deflate | None) -> None:
        self.streams: list[AsyncStream[None] | WebsocketStream] = []
        self.websocket_app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked()
            .with_connect_handler(self._connect)
            .with_message_handler(self._message)
        )
        hook = self.websocket_app.connect_hook()
        self.routes = {
            "app": async_websocket_handler(hook, deflate=deflate),
            "handler": websocket_handler(self._handle, deflate=deflate),
        }

    async def _connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams.append(stream)

    async def _message(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await stream.send(message)

    async def _handle(self, stream: WebsocketStream, state: None) -> None:
        self.streams.append(stream)
        async for message in stream:
            await stream.send(message)


@asynccontextmanager
async def metered(echo: Echo, kind: str, link: Link | None) -> AsyncGenerator[MeteredClient]:
    """A client that counts bytes, for one kind of app, over a socket or, without a link, in memory."""
    app = App().with_websocket_route("/", echo.routes[kind])
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.websocket_app.run)
            if link is not None:
                (address,) = await nursery.start(link.run(app), ANY_PORT)
                async with await link.connect(address) as stream:
                    yield MeteredClient(stream)
            else:
                async with served_in_memory(app) as connect:
                    yield MeteredClient(connect())
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("together", [False, True], ids=["apart", "with the handshake"])
@memory_and_each_link
@pytest.mark.parametrize("kind", ["app", "handler"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_bytes_on_the_wire(conversation: str, kind: str, link: Link | None, together: bool) -> None:
    """The received and sent bytes of a stream are those that its client has counted, without the handshake."""
    frames, messages = CONVERSATIONS[conversation]
    fields = list(HANDSHAKE_FIELDS)
    if conversation == "compressed":
        fields.append(("Sec-WebSocket-Extensions", "permessage-deflate"))
    echo = Echo(Deflate(min_size=10))
    async with metered(echo, kind, link) as client:
        await client.open(fields, *(frames if together else ()))
        for frame in () if together else frames:
            await client.send(frame)
        await client.send(close_frame(1000))
        received = await client.read_to_the_end()
        (stream,) = echo.streams
        statistics = stream.statistics()
        assert (statistics.bytes_received, statistics.bytes_sent) == (client.sent, received)
        assert statistics.messages_received == messages
        if kind == "app":  # the server reads the Close after the messages; the handler may be too late to answer
            assert statistics.messages_sent == messages
        assert (statistics.queued_messages, statistics.queued_bytes) == (0, 0)


@memory_and_each_link
async def test_bytes_of_a_close_are_counted(link: Link | None) -> None:
    """If the server closes, its Close and the client's answer are counted."""
    echo = Echo(None)
    async with metered(echo, "app", link) as client:
        await client.open(HANDSHAKE_FIELDS)
        await client.send(client_frame(TEXT, b"hello"))
        while not echo.streams or not echo.streams[0].statistics().messages_sent:
            await trio.testing.wait_all_tasks_blocked()
        await echo.streams[0].close(4000, "that is all")
        await client.send(close_frame(4000))
        assert await client.read_to_the_end() == 2 + 5 + 4 + 11
        statistics = echo.streams[0].statistics()
        assert (statistics.bytes_received, statistics.bytes_sent) == (client.sent, 2 + 5 + 4 + 11)


@memory_and_each_link
@pytest.mark.parametrize("full", [False, True], ids=["with room", "full"])
async def test_bytes_of_a_cancelled_server_are_counted(full: bool, link: Link | None) -> None:
    """The bytes of a cancelled server count: its Close and the queued messages, as far as they are sent."""
    echo = Echo(None)
    app = App().with_websocket_route("/", echo.routes["app"])
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.websocket_app.run)
            async with trio.open_nursery() as http:
                if link is None:
                    ours, theirs = MEMORY()
                    http.start_soon(app.serve_stream, theirs)
                    client = MeteredClient(ours)
                else:
                    (address,) = await http.start(link.run(app), ANY_PORT)
                    client = MeteredClient(await link.connect(address))
                await client.open(HANDSHAKE_FIELDS)
                while not echo.streams:
                    await trio.testing.wait_all_tasks_blocked()
                (stream,) = echo.streams
                await stream.send("hello")
                await trio.testing.wait_all_tasks_blocked()
                assert stream.statistics().bytes_sent == 7
                while full and link and not stream.statistics().queued_bytes:
                    await stream.send(b"x" * 500_000)
                http.cancel_scope.cancel()
            received = await client.read_to_the_end()
            assert stream.statistics().bytes_sent == received
            assert (full and link) or received == 7 + 4
            await client.close()
            nursery.cancel_scope.cancel()


@each_link
@pytest.mark.parametrize("how", ["send", "broadcast"])
async def test_message_that_fails_to_be_sent(how: str, link: Link) -> None:
    """A message whose ``send`` finds the connection broken counts neither as sent nor as dropped."""
    echo = Echo(None)
    async with metered(echo, "app", link) as client:
        await client.open(HANDSHAKE_FIELDS)
        while not echo.streams:
            await trio.testing.wait_all_tasks_blocked()
        (stream,) = echo.streams
        client.reset()
        if how == "send":
            with pytest.raises(ConnectionClosed):
                await stream.send("hello")
        else:
            await echo.websocket_app.sender().broadcast("hello")
        assert stream.closed
        assert stream.statistics() == NEW


async def test_messages_after_a_half_close_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    """If a client half-closes during a write, and continues to read, the bytes that it gets are counted."""
    async with HeldApp().open(LOCKSTEP) as held_app:
        client = await held_app.join()
        (stream,) = held_app.streams
        for text in ("on its way", "waits"):
            await stream.send(text)
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(client.stream, trio.StapledStream)
        await client.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        assert await client.rest() == [(TEXT, b"on its way")]
        assert stream.statistics() == dataclasses.replace(NEW, messages_sent=1, bytes_sent=12, dropped=1)
