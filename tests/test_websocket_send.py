"""WebSocket streams: ``send``, ``ping`` and the write timeout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from humphrey_trio import ConnectionClosed, Message, Timeouts, WebsocketStream
from tests.support.times import SWEEP
from tests.support.websocket_handlers import CHUNK, app_with, raw_client, send_until_closed
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, client_frame, close_frame


async def test_send_text_bytes_and_messages() -> None:
    """``send`` sends str as text, bytes as binary, and a ``Message`` as what it is."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        for sendable in ("a", b"b", Message("c"), Message(b"d")):
            await stream.send(sendable)

    async with raw_client(app_with(handler)) as client:
        frames = [await client.frame() for _ in range(4)]

    assert frames == [(TEXT, b"a"), (BINARY, b"b"), (TEXT, b"c"), (BINARY, b"d")]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda stream: stream.send(5), TypeError),
        (lambda stream: stream.send("\ud800"), ValueError),
        (lambda stream: stream.ping(b"x" * 126), ValueError),
        (lambda stream: stream.close(1005), ValueError),
        (lambda stream: stream.close(1006), ValueError),
        (lambda stream: stream.close(999), ValueError),
        (lambda stream: stream.close(1000, "é" * 62), ValueError),
    ],
)
async def test_send_refuses_invalid_messages(
    call: Callable[[WebsocketStream], Awaitable[None]], error: type
) -> None:
    """A message that cannot be sent is a TypeError or ValueError, and the stream stays open."""

    async def try_it(stream: WebsocketStream, state: None) -> None:
        with pytest.raises(error):
            await call(stream)
        await stream.send("still open")

    async with raw_client(app_with(try_it)) as client:
        assert await client.frame() == (TEXT, b"still open")


@pytest.mark.parametrize("payload", [b"", b"abc", b"x" * 125], ids=len)
async def test_ping(payload: bytes) -> None:
    """``ping`` sends its payload; the client's pong is no message."""

    async def ask(stream: WebsocketStream, state: None) -> None:
        await stream.ping(payload)
        assert await stream.receive() == Message("message")

    async with raw_client(app_with(ask)) as client:
        assert await client.frame() == (PING, payload)
        await client.send(client_frame(PONG, payload) + client_frame(TEXT, b"message"))
        assert await client.close_code() == 1000


async def test_pings_are_answered_while_the_handler_is_busy() -> None:
    """A client's ping is answered with its payload at once, whatever the handler does."""

    async def be_busy(stream: WebsocketStream, state: None) -> None:
        await trio.sleep_forever()

    async with raw_client(app_with(be_busy)) as client:
        for payload in (b"", b"abc", b"x" * 125):
            await client.send(client_frame(PING, payload))
            assert await client.frame() == (PONG, payload)


async def test_send_waits_while_the_outbox_is_full() -> None:
    """While the outbox is full, senders wait, in their order."""
    stream: WebsocketStream
    opened, sent = trio.Event(), list[bytes]()

    async def hand_over(given: WebsocketStream, state: None) -> None:
        nonlocal stream
        stream = given
        opened.set()
        await trio.sleep_forever()

    async def send(payload: bytes) -> None:
        await stream.send(payload)
        sent.append(payload)

    messages = [bytes(1000), b"fits" * 20, b"not any more" * 10, b"small", b"another"]
    app = app_with(hand_over, max_outbox_bytes=1100)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client, trio.open_nursery() as nursery:
        await opened.wait()
        for message in messages:
            nursery.start_soon(send, message)
            await trio.testing.wait_all_tasks_blocked()
        assert sent == messages[:2]
        assert [(await client.frame())[1] for _ in messages] == messages
        await trio.testing.wait_all_tasks_blocked()
        assert sent == messages


async def test_send_one_message_of_any_size() -> None:
    """An empty outbox takes one message of any size."""

    async def handler(stream: WebsocketStream, state: None) -> None:
        await stream.send(bytes(300_000))
        await stream.send(b"done")

    async with raw_client(app_with(handler, max_outbox_bytes=10)) as client:
        assert await client.frame() == (BINARY, bytes(300_000))
        assert await client.frame() == (BINARY, b"done")


async def test_ping_and_close_of_a_full_outbox() -> None:
    """``ping`` and ``close`` do not wait for room: a ping overtakes messages, the Close follows them."""

    async def hurry(stream: WebsocketStream, state: None) -> None:
        for i in range(3):
            await stream.send(bytes([i]) * CHUNK)
        await trio.testing.wait_all_tasks_blocked()
        await stream.ping(b"now")
        await stream.close(4000)

    app = app_with(hurry, max_outbox_bytes=4 * CHUNK)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        await trio.testing.wait_all_tasks_blocked()
        opcodes = [(await client.frame())[0] for _ in range(5)]

    assert opcodes == [BINARY, PING, BINARY, BINARY, CLOSE]


async def test_send_in_a_tight_loop_lets_other_tasks_run() -> None:
    """A tight loop of ``send`` yields at least every 64 messages; a cancelled ``send`` sends nothing."""
    turns = 0

    async def handler(stream: WebsocketStream, state: None) -> None:
        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for i in range(640):
                await stream.send(b"%d" % i)
            nursery.cancel_scope.cancel()
            await stream.send("never")

    async with raw_client(app_with(handler)) as client:
        frames = [await client.frame() for _ in range(641)]

    assert turns >= 640 // 64 - 2  # the first and the last turn may be outside of the loop
    assert frames == [*((BINARY, b"%d" % i) for i in range(640)), (CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("call", ["send", "ping"])
@pytest.mark.parametrize("by_the_client", [True, False], ids=["closed by the client", "closed by the handler"])
async def test_send_on_a_closed_stream(call: str, by_the_client: bool) -> None:
    """``send`` on a closed stream raises ConnectionClosed with the code of the side that closed it."""
    raised = trio.Event()

    async def send_late(stream: WebsocketStream, state: None) -> None:
        if by_the_client:
            with pytest.raises(ConnectionClosed):
                await stream.receive()
        else:
            await stream.close(4000, "why")
        with pytest.raises(ConnectionClosed) as closed:
            await (stream.send("late") if call == "send" else stream.ping())
        assert (closed.value.code, closed.value.reason) == (4000, "why")
        raised.set()

    async with raw_client(app_with(send_late)) as client:
        if by_the_client:
            await client.send(close_frame(4000, "why"))
        assert await client.frame() == (CLOSE, (4000).to_bytes(2, "big") + b"why")
        await raised.wait()


@pytest.mark.parametrize("end", ["close", "end of file"])
async def test_waiting_send_ends_with_the_stream(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """A ``send`` that waits for room raises ConnectionClosed when the client disconnects."""
    code: int | None = None

    async def send_much(stream: WebsocketStream, state: None) -> None:
        nonlocal code
        code = (await send_until_closed(stream)).code

    app = app_with(send_much, max_outbox_bytes=1000)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        await trio.testing.wait_all_tasks_blocked()
        if end == "close":
            await client.send(close_frame(1001))
        else:
            await client.stream.send_eof()  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()

    assert code == (1001 if end == "close" else 1006)


async def test_write_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """A client that accepts no byte for ``Timeouts.write`` is cut off, and waiting senders get 1006."""
    code, cut_at = 0, 0.0

    async def send_much(stream: WebsocketStream, state: None) -> None:
        nonlocal code, cut_at
        code = (await send_until_closed(stream)).code
        cut_at = trio.current_time()

    app = app_with(send_much, timeouts=Timeouts(write=3), max_outbox_bytes=1000)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        opened = trio.current_time()
        await trio.sleep(10)
        assert await client.rest() == [(BINARY, bytes(1000))]  # the frames that were being written when it stopped

    assert code == 1006
    assert 3 <= cut_at - opened <= 3 + 2 * SWEEP


async def test_slow_client_within_the_write_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """A client that accepts something within each ``Timeouts.write`` gets everything."""

    async def send_much(stream: WebsocketStream, state: None) -> None:
        for i in range(20):
            await stream.send(bytes([i]) * CHUNK)

    app = app_with(send_much, timeouts=Timeouts(write=3, close=3), max_outbox_bytes=1000)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        opened = trio.current_time()
        for i in range(20):
            await trio.sleep(2)
            assert await client.frame() == (BINARY, bytes([i]) * CHUNK)
        assert trio.current_time() - opened == 40
        assert await client.close_code() == 1000
