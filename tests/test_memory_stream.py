"""``memory_connection``: a connection in memory with bounded buffers, the direct path, and faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, ConnectionClosed, Response, Timeouts, WebsocketStream, websocket_handler
from humphrey_trio.testing import MemoryStream, memory_connection, open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support import PATIENCE
from tests.support.clients import RawClient
from tests.support.wire import CLOSE, TEXT

Clock = trio.testing.MockClock


async def test_half_closeable_stream() -> None:
    """``memory_connection`` passes trio's tests of half-closeable streams."""

    async def pair() -> tuple[MemoryStream, MemoryStream]:
        return memory_connection(1024)

    async def clogged_pair() -> tuple[MemoryStream, MemoryStream]:
        one, other = memory_connection(1024)
        for end in (one, other):
            end.send_nowait(b"x" * 1024)
        return one, other

    with trio.fail_after(PATIENCE):
        await trio.testing.check_half_closeable_stream(pair, clogged_pair)


def test_full_buffer() -> None:
    """``send_nowait`` accepts what fits into the buffer, and nothing if it is full."""
    one, other = memory_connection(4)
    assert [one.send_nowait(b"hello"), one.send_nowait(b"o")] == [4, 0]
    assert other.receive_nowait(3) == b"hel"
    assert one.send_nowait(b"o!") == 2
    assert other.receive_nowait(100) == b"lo!"
    with pytest.raises(trio.WouldBlock):
        other.receive_nowait(1)


def test_max_send_and_max_receive() -> None:
    """``max_send`` and ``max_receive`` bound each call."""
    one, other = memory_connection()
    one.max_send, other.max_receive = 3, 2
    assert one.send_nowait(b"hello") == 3
    assert [other.receive_nowait(100), other.receive_nowait(100)] == [b"he", b"l"]


def test_close_with_unread_input_is_a_reset() -> None:
    """As with TCP, a close with unread input is a reset for the peer."""
    one, other = memory_connection()
    one.send_nowait(b"lost")
    other.send_nowait(b"unread")
    one.close()
    with pytest.raises(trio.BrokenResourceError):
        other.receive_nowait(100)


def test_close_without_unread_input() -> None:
    """Without unread input, a peer receives everything and then an end of file."""
    one, other = memory_connection()
    one.send_nowait(b"last")
    one.close()
    assert one.closed
    assert other.hung_up
    assert [other.receive_nowait(100), other.receive_nowait(100)] == [b"last", b""]
    with pytest.raises(trio.BrokenResourceError):
        other.send_nowait(b"too late")


def test_break_at() -> None:
    """``break_at`` counts calls that send or receive, and then both ends are broken."""
    one, other = memory_connection()
    one.break_at(3)
    assert [one.send_nowait(b"a"), one.send_nowait(b"b")] == [1, 1]
    for end in (one, other):
        with pytest.raises(trio.BrokenResourceError):
            end.send_nowait(b"c")
    assert not one.closed


async def test_stalled_end(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """A stalled end sends and receives nothing, and continues when the stall ends."""
    one, other = memory_connection()
    other.send_nowait(b"early")
    one.stall()
    assert one.send_nowait(b"x") == 0
    with pytest.raises(trio.WouldBlock):
        one.receive_nowait(100)
    nursery.start_soon(_after(3, lambda: one.stall(False)))
    assert await one.receive_some() == b"early"
    assert trio.current_time() == 3
    assert one.send_nowait(b"x") == 1


@pytest.mark.parametrize("end", [MemoryStream.notify_closing, MemoryStream.close])
@pytest.mark.parametrize("wait", [MemoryStream.wait_readable, MemoryStream.wait_send_all_might_not_block])
async def test_close_and_interrupt_end_waits(
    end: Callable[[MemoryStream], None], wait: Callable[[MemoryStream], Awaitable[None]], nursery: trio.Nursery
) -> None:
    """A wait ends with ClosedResourceError when another task closes or interrupts the stream."""
    one, _ = memory_connection(1)
    one.send_nowait(b"x")

    async def end_it() -> None:
        await trio.testing.wait_all_tasks_blocked()
        end(one)

    nursery.start_soon(end_it)
    with pytest.raises(trio.ClosedResourceError):
        await wait(one)


def _after(seconds: float, function: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        await trio.sleep(seconds)
        function()

    return call


# ------------------------------------------------------------------------------- apps on memory streams


def serve(nursery: trio.Nursery, app: App[Any], buffer: int = 64 * 1024) -> tuple[RawClient, MemoryStream]:
    """A client of an app, and the server's end of its connection."""
    ours, theirs = memory_connection(buffer)
    nursery.start_soon(app.serve_stream, theirs)
    return RawClient(ours), theirs


async def test_messages_are_sent_directly(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """A message that fits has been sent when ``send`` returns, without another task."""
    opened, sent = trio.Event(), trio.Event()
    ours, theirs = memory_connection()
    received: list[bytes] = []

    async def greet(stream: WebsocketStream, state: None) -> None:
        await opened.wait()
        await stream.send("hello")
        received.append(ours.receive_nowait(100))
        sent.set()

    nursery.start_soon(App().with_websocket_route("/", websocket_handler(greet)).serve_stream, theirs)
    await RawClient(ours).open()
    opened.set()
    await sent.wait()
    assert received == [b"\x81\x05hello"]


async def test_short_writes_keep_frames_whole(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """Messages arrive whole and in order over a transport that accepts one byte at a time."""
    sent = [f"{number}" * 50 for number in range(9)]

    async def talk(stream: WebsocketStream, state: None) -> None:
        for text in sent:
            await stream.send(text)

    client, theirs = serve(nursery, App().with_websocket_route("/", websocket_handler(talk)), buffer=300)
    theirs.max_send = 1
    await client.open()
    frames = await client.rest()
    assert frames == [*((TEXT, text.encode()) for text in sent), (CLOSE, b"\x03\xe8")]


async def test_write_timeout_of_a_stalled_client(autojump_clock: Clock) -> None:
    """A client that accepts nothing for ``Timeouts.write`` is disconnected."""
    app = App(timeouts=Timeouts(write=3)).with_stateless_route("/", lambda _: Response(200, b"x" * 1000))
    ours, theirs = memory_connection(buffer=500)
    ours.send_nowait(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await app.serve_stream(theirs)
    assert theirs.closed
    assert trio.current_time() == pytest.approx(3, abs=0.5)


async def test_broken_transport(autojump_clock: Clock) -> None:
    """A transport that breaks at any call ends its connection, and leaves no task."""
    app = App().with_stateless_route("/", lambda _: Response(200, "hello"))
    before = trio.lowlevel.current_statistics().tasks_living
    for call in range(1, 10):
        ours, theirs = memory_connection()
        theirs.break_at(call)
        ours.send_nowait(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        ours.send_eof_nowait()
        await app.serve_stream(theirs)
        assert theirs.closed
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert b"hello" in ours.receive_nowait(1000)


async def echo(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        await stream.send(message)


async def test_open_websocket(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """``open_websocket`` opens a client on any stream; a refusal is a HandshakeError."""
    app = App().with_websocket_route("/", websocket_handler(echo))
    ours, theirs = memory_connection()
    nursery.start_soon(app.serve_stream, theirs)
    with pytest.raises(HandshakeError) as refused:
        await open_websocket(ours, "/nowhere")
    assert refused.value.status == 404
    client = await open_websocket(ours, headers={"X-Name": "any"})
    assert client.stream is ours
    await client.send("hello")
    assert (await client.receive()).text == "hello"
    await client.close()
    assert client.close_code == 1000


async def test_disconnect_of_a_client(autojump_clock: Clock, nursery: trio.Nursery) -> None:
    """``disconnect`` closes without a Close frame: both sides have 1006, and sending raises."""
    codes: list[int | None] = []

    async def note(stream: WebsocketStream, state: None) -> None:
        await echo(stream, state)
        codes.append(stream.close_code)

    app = App().with_websocket_route("/", websocket_handler(note))
    async with websocket_client(app) as client:
        await client.disconnect()
        await client.disconnect()
        assert client.close_code == 1006
        with pytest.raises(ConnectionClosed):
            await client.send("too late")
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [1006]
