"""Streams with a handler of their own: receiving, sending, and every way in which they end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    ConnectionClosed,
    Message,
    Timeouts,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import open_websocket, websocket_client
from humphrey_trio.websocket import Upgrade
from tests.support import ANY_PORT
from tests.support.apps import StreamPair, served_in_memory
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, listening, reset
from tests.support.steps import cancelled_at
from tests.support.times import SWEEP
from tests.support.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    request_bytes,
)

Handler = Callable[[WebsocketStream, None], Awaitable[object]]

#: As much as a connection reads at once.
CHUNK = 65536


def app_with(handler: Handler, *, timeouts: Timeouts = Timeouts(), **options: Any) -> App:  # noqa: B008  (frozen)
    return App(timeouts=timeouts).with_websocket_route("/", websocket_handler(handler, **options))


@asynccontextmanager
async def raw_client(
    app: App, stream_pair: StreamPair = trio.testing.memory_stream_pair
) -> AsyncGenerator[RawClient]:
    """A client whose handshake is done, and which answers nothing by itself."""
    with trio.fail_after(1000):
        async with served_in_memory(app, stream_pair) as connect:
            yield await RawClient(connect()).open()


async def echo(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        await stream.send(message)


async def send_until_closed(stream: WebsocketStream) -> ConnectionClosed:
    """Send and send, until the stream is closed."""
    try:
        while True:
            await stream.send(bytes(1000))
    except ConnectionClosed as exc:
        return exc


class Recorder:
    """A handler that receives up to the end.

    Attributes:
        stream: what it got.
        received: the messages.
        closed: what told it that the stream has ended.
    """

    stream: WebsocketStream
    closed: ConnectionClosed

    def __init__(self) -> None:
        self.received: list[str | bytes] = []
        self.done = trio.Event()

    async def __call__(self, stream: WebsocketStream, state: None) -> None:
        self.stream = stream
        try:
            while True:
                self.received.append((await stream.receive()).data)
        except ConnectionClosed as exc:
            self.closed = exc
        self.done.set()


# --------------------------------------------------------------------------------------------- receiving


@pytest.mark.parametrize(
    "data", ["", b"", "héllo €", b"\x00\xff", "x" * 125, b"x" * 65536, "€" * 300_000], ids=len
)
async def test_echo(data: str | bytes) -> None:
    """A message comes back as it went, text as text and binary as binary, from 0 bytes to nearly 1 MiB."""
    async with websocket_client(app_with(echo)) as client:
        await client.send(data)
        assert await client.receive() == Message(data)


async def test_echo_of_many() -> None:
    """Messages come in the order in which they were sent."""
    async with websocket_client(app_with(echo)) as client:
        for i in range(500):
            await client.send(str(i))
        assert [(await client.receive()).text for _ in range(500)] == [str(i) for i in range(500)]


async def test_the_stream_presents_itself() -> None:
    """An open stream has an id of its own, a peer and no close code, and shows that in its repr."""
    streams: list[WebsocketStream] = []

    async def look(stream: WebsocketStream, state: None) -> None:
        streams.append(stream)
        assert (stream.closed, stream.close_code, stream.close_reason) == (False, None, None)
        assert repr(stream) == f"<WebsocketStream {stream.id} with {stream.peer_addr}, open>"
        await stream.close(4000, "seen")
        assert (stream.closed, stream.close_code, stream.close_reason) == (True, 4000, "seen")
        assert repr(stream).endswith(", closed with 4000: 'seen'>")

    for _ in range(2):
        async with raw_client(app_with(look)) as client:
            assert await client.close_code() == 4000
    assert streams[0].id != streams[1].id


async def test_the_handler_gets_the_state() -> None:
    """The handler's second argument is the app's state."""

    async def tell(stream: WebsocketStream, state: str) -> None:
        await stream.send(state)

    app = App("the state").with_websocket_route("/", websocket_handler(tell))
    async with websocket_client(app) as client:
        assert await client.receive() == Message("the state")


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        (close_frame(1000), 1000, ""),
        (close_frame(1001, "tab closed"), 1001, "tab closed"),
        (close_frame(3001, "enough"), 3001, "enough"),
        (client_frame(CLOSE), 1005, ""),
        (None, 1006, ""),
    ],
    ids=["1000", "1001", "3001", "no code", "end of file"],
)
async def test_how_the_client_has_left(end: bytes | None, code: int, reason: str) -> None:
    """At the end receive raises ConnectionClosed with the client's code and reason, each time it is called."""
    handler = Recorder()
    async with raw_client(app_with(handler)) as client:
        await client.send(client_frame(TEXT, b"last"))
        await (client.stream.aclose() if end is None else client.send(end))
        await handler.done.wait()

        assert handler.received == ["last"]
        assert (handler.closed.code, handler.closed.reason) == (code, reason)
        assert (handler.stream.close_code, handler.stream.close_reason) == (code, reason)
        with pytest.raises(ConnectionClosed) as again:
            await handler.stream.receive()
        assert again.value is not handler.closed
        assert again.value.code == code


async def test_async_for_ends() -> None:
    """Iterating over a stream ends when it is closed, without an exception."""
    finished = trio.Event()

    async def iterate(stream: WebsocketStream, state: None) -> None:
        assert [message.text async for message in stream] == ["one", "two"]
        assert [message async for message in stream] == []
        finished.set()

    async with websocket_client(app_with(iterate)) as client:
        await client.send("one")
        await client.send("two")
        await client.close()
        await finished.wait()


async def test_messages_before_the_end_are_received(autojump_clock: trio.testing.MockClock) -> None:
    """What arrived before the client's Close is received, also by a handler that was busy meanwhile."""
    received: list[str | None] = []

    async def be_slow(stream: WebsocketStream, state: None) -> None:
        await trio.sleep(0.4)
        assert stream.closed
        received.extend([message.text async for message in stream])

    async with raw_client(app_with(be_slow)) as client:
        frames = b"".join(client_frame(TEXT, b"%d" % i) for i in range(10))
        await client.send(frames + close_frame(1000))
        assert await client.close_code() == 1000
        await trio.sleep(1)

    assert received == [str(i) for i in range(10)]


@pytest.mark.parametrize("resumed", [False, True], ids=["while it waits", "when it may go on"])
@pytest.mark.parametrize("own_reader", [True, False], ids=["own handler", "out of a channel"])
async def test_a_cancelled_receive_loses_nothing(own_reader: bool, resumed: bool) -> None:
    """A receive that is cancelled, at whichever checkpoint, takes no message with it."""
    steps = 0

    async def receive_and_cancel(stream: WebsocketStream, state: None) -> None:
        nonlocal steps
        reached = True
        while reached:
            steps += 1
            received: list[Message] = []

            async def receive(received: list[Message] = received) -> None:
                received.append(await stream.receive())

            await stream.send(b"%d" % steps)
            reached = await cancelled_at(steps, receive, resumed=resumed)
            if not received:
                received.append(await stream.receive())
            assert received == [Message(b"%d" % steps)]
        await stream.close()

    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    if own_reader:
        app = app_with(receive_and_cancel)
    async with raw_client(app) as client, trio.open_nursery() as nursery:
        if not own_reader:
            nursery.start_soon(receive_and_cancel, await streams.receive(), None)
        while (frame := await client.frame())[0] == BINARY:
            await trio.testing.wait_all_tasks_blocked()
            await client.send(client_frame(*frame))
    assert steps >= 2


async def test_one_receiver_at_a_time() -> None:
    """A second task that receives gets a BusyResourceError, and the first is not disturbed."""
    received: list[Message] = []

    async def compete(stream: WebsocketStream, state: None) -> None:
        async def receive() -> None:
            received.append(await stream.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="is receiving"):
                await stream.receive()
            await stream.send("go on")

    async with websocket_client(app_with(compete)) as client:
        assert await client.receive() == Message("go on")
        await client.send("hello")
        assert [message async for message in client] == []
        assert client.close_code == 1000
    assert received == [Message("hello")]


async def test_read_ahead_is_bounded() -> None:
    """While a handler is busy, as many messages are read as the limit says; then the client has to wait."""
    go_on = trio.Event()

    async def be_slow(stream: WebsocketStream, state: None) -> None:
        await go_on.wait()
        await stream.receive()
        await trio.sleep_forever()

    sent = 0

    async def send(client: RawClient) -> None:
        nonlocal sent
        while True:
            await client.send(client_frame(BINARY, bytes(CHUNK - 14)))
            sent += 1

    app = app_with(be_slow, max_read_ahead=5)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client, trio.open_nursery() as nursery:
        nursery.start_soon(send, client)
        await trio.testing.wait_all_tasks_blocked()
        assert sent == 5
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sent == 6
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("options", "frames", "code"),
    [
        ({"max_message_size": 5}, client_frame(TEXT, b"hello"), None),
        ({"max_message_size": 5}, client_frame(TEXT, b"hello!"), 1009),
        ({"max_fragments": 1}, client_frame(TEXT, b"a", fin=False) + client_frame(CONTINUATION, b"b"), 1009),
        ({}, client_frame(TEXT, b"x" * 2**20), None),
        ({}, client_frame(TEXT, b"x" * (2**20 + 1)), 1009),
    ],
)
async def test_message_limits(options: dict[str, Any], frames: bytes, code: int | None) -> None:
    """A message beyond the handler's limits closes its stream with 1009; by default the limit is 1 MiB."""
    async with raw_client(app_with(echo, **options)) as client:
        await client.send(frames)
        if code is None:
            assert (await client.frame())[0] == TEXT
        else:
            assert await client.close_code() == code


def test_invalid_limits() -> None:
    """An invalid limit is a ValueError when the route is made, not when a client comes."""
    with pytest.raises(ValueError, match="max_message_size"):
        websocket_handler(echo, max_message_size=0)


# ----------------------------------------------------------------------------------------------- sending


async def test_what_is_sent() -> None:
    """A str goes as text, bytes go as binary, a message as what it is."""

    async def tell(stream: WebsocketStream, state: None) -> None:
        for sendable in ("a", b"b", Message("c"), Message(b"d")):
            await stream.send(sendable)

    async with raw_client(app_with(tell)) as client:
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
async def test_what_cannot_be_sent(call: Callable[[WebsocketStream], Awaitable[None]], error: type) -> None:
    """What cannot be sent is a TypeError or ValueError, and the stream stays open."""

    async def try_it(stream: WebsocketStream, state: None) -> None:
        with pytest.raises(error):
            await call(stream)
        await stream.send("still open")

    async with raw_client(app_with(try_it)) as client:
        assert await client.frame() == (TEXT, b"still open")


@pytest.mark.parametrize("payload", [b"", b"abc", b"x" * 125], ids=len)
async def test_ping(payload: bytes) -> None:
    """A ping goes out with its payload; the client's pong is no message."""

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
    """While a client does not read, send waits when the outbox is full, each sender in its turn."""
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


async def test_one_message_of_any_size() -> None:
    """An empty outbox takes one message of any size, so none is too large to be sent."""

    async def tell(stream: WebsocketStream, state: None) -> None:
        await stream.send(bytes(300_000))
        await stream.send(b"done")

    async with raw_client(app_with(tell, max_outbox_bytes=10)) as client:
        assert await client.frame() == (BINARY, bytes(300_000))
        assert await client.frame() == (BINARY, b"done")


async def test_ping_and_close_of_a_full_outbox() -> None:
    """Ping and close do not wait for room: the ping passes what waits, the Close comes behind it."""

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


async def test_many_senders_let_others_run() -> None:
    """A tight loop of sends lets others run at least every 64 messages; a cancelled one sends nothing."""
    turns = 0

    async def tell(stream: WebsocketStream, state: None) -> None:
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

    async with raw_client(app_with(tell)) as client:
        frames = [await client.frame() for _ in range(641)]

    assert turns >= 640 // 64 - 2  # its first and its last turn may fall outside
    assert frames == [*((BINARY, b"%d" % i) for i in range(640)), (CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("call", ["send", "ping"])
@pytest.mark.parametrize("by_the_client", [True, False], ids=["closed by the client", "closed by the handler"])
async def test_sending_on_a_closed_stream(call: str, by_the_client: bool) -> None:
    """Sending on a closed stream raises ConnectionClosed with the code of whoever closed it."""
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
async def test_a_waiting_send_ends_with_the_stream(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """A send that waits for room raises ConnectionClosed when the client leaves."""
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


async def test_a_client_that_takes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes no byte for Timeouts.write is cut off, and whoever waits to send is told 1006."""
    code, cut_at = 0, 0.0

    async def send_much(stream: WebsocketStream, state: None) -> None:
        nonlocal code, cut_at
        code = (await send_until_closed(stream)).code
        cut_at = trio.current_time()

    app = app_with(send_much, timeouts=Timeouts(write=3), max_outbox_bytes=1000)
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        opened = trio.current_time()
        await trio.sleep(10)
        assert await client.rest() == [(BINARY, bytes(1000))]  # what was under way when it stopped

    assert code == 1006
    assert 3 <= cut_at - opened <= 3 + 2 * SWEEP


async def test_a_slow_client_is_not_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes something within each Timeouts.write gets everything, however long that takes."""

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


# ---------------------------------------------------------------------------------------------- the ends


@pytest.mark.parametrize(
    "frame",
    [close_frame(1000), close_frame(1000, "bye"), close_frame(3000), client_frame(CLOSE)],
    ids=["1000", "1000 and a reason", "3000", "no code"],
)
async def test_the_client_closes(frame: bytes) -> None:
    """A client's Close is answered with its code, and then the server ends the connection."""
    async with raw_client(app_with(echo)) as client:
        await client.send(client_frame(TEXT, b"hello"))
        assert await client.frame() == (TEXT, b"hello")
        await client.send(frame + client_frame(TEXT, b"ignored"))

        code = {close_frame(1000): 1000, close_frame(1000, "bye"): 1000, close_frame(3000): 3000}.get(frame)
        opcode, payload = await client.frame()
        assert (opcode, payload[:2]) == (CLOSE, b"" if code is None else code.to_bytes(2, "big"))
        assert await client.at_end()


async def test_the_handler_closes(autojump_clock: trio.testing.MockClock) -> None:
    """After a handler's Close the client's messages and pings count no more; its Close ends the connection."""
    handler_done = trio.Event()

    async def close(stream: WebsocketStream, state: None) -> None:
        await stream.close(4000, "enough")
        await stream.close(4001, "the second close changes nothing")
        with pytest.raises(ConnectionClosed, match="4000: 'enough'"):
            await stream.receive()
        handler_done.set()

    async with raw_client(app_with(close)) as client:
        assert await client.frame() == (CLOSE, (4000).to_bytes(2, "big") + b"enough")
        closed = trio.current_time()
        await client.send(client_frame(TEXT, b"ignored") + client_frame(PING, b"ignored"))
        await trio.sleep(1)
        await client.send(close_frame(1000))
        await handler_done.wait()
        assert await client.at_end()
        assert trio.current_time() - closed == 1


@pytest.mark.parametrize("seconds", [1, 7])
async def test_a_client_that_does_not_answer(seconds: int, autojump_clock: trio.testing.MockClock) -> None:
    """A client that does not answer our Close is cut off after Timeouts.close."""

    async def close(stream: WebsocketStream, state: None) -> None:
        await stream.close()

    async with raw_client(app_with(close, timeouts=Timeouts(close=seconds))) as client:
        closed = trio.current_time()
        assert await client.close_code() == 1000
        assert await client.at_end()
        assert seconds <= trio.current_time() - closed <= seconds + 2 * SWEEP


async def test_a_client_that_does_not_read_our_close(autojump_clock: trio.testing.MockClock) -> None:
    """A client that reads neither what waits nor our Close is cut off after Timeouts.close too."""

    async def close(stream: WebsocketStream, state: None) -> None:
        await stream.send(bytes(4 * CHUNK))
        await stream.close()

    app = app_with(close, timeouts=Timeouts(close=2, write=30))
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        closed = trio.current_time()
        with suppress(trio.BrokenResourceError):
            while True:
                await trio.sleep(SWEEP)
                await client.send(client_frame(PING))
        assert 2 <= trio.current_time() - closed <= 2 + 3 * SWEEP


async def test_a_slow_client_gets_what_was_sent_before_the_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A client that reads on slowly gets everything, and then the Close, whatever Timeouts.close is."""
    messages = 12

    async def send_and_close(stream: WebsocketStream, state: None) -> None:
        for _ in range(messages):
            await stream.send(bytes(CHUNK))

    app = app_with(send_and_close, timeouts=Timeouts(close=2))
    async with raw_client(app, trio.testing.lockstep_stream_pair) as client:
        for _ in range(messages):
            await trio.sleep(1)
            assert await client.frame() == (BINARY, bytes(CHUNK))
        assert await client.close_code() == 1000


async def test_a_handler_returns() -> None:
    """When the handler returns, its stream is closed with 1000, behind what was sent."""

    async def greet(stream: WebsocketStream, state: None) -> None:
        await stream.send("hello")

    async with raw_client(app_with(greet)) as client:
        assert await client.frame() == (TEXT, b"hello")
        assert await client.close_code() == 1000


async def test_a_handler_raises(caplog: pytest.LogCaptureFixture) -> None:
    """When the handler raises, its stream is closed with 1011, without a reason, and the traceback is logged."""

    async def fail(stream: WebsocketStream, state: None) -> None:
        await stream.send("so far so good")
        raise ValueError("a secret")

    async with raw_client(app_with(fail)) as client:
        assert await client.frame() == (TEXT, b"so far so good")
        assert await client.frame() == (CLOSE, (1011).to_bytes(2, "big"))

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("humphrey_trio.websocket", logging.ERROR)
    assert record.exc_info
    assert isinstance(record.exc_info[1], ValueError)


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["alone", "in a nursery", "in a nursery in a nursery"])
async def test_a_handler_that_hits_the_end(depth: int, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that lets ConnectionClosed of its own stream out has ended normally: nothing is logged."""

    async def receive(stream: WebsocketStream, depth: int) -> None:
        if depth == 0:
            while True:
                await stream.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, stream, depth - 1)
            nursery.start_soon(send_when_it_is_closed, stream)

    async def send_when_it_is_closed(stream: WebsocketStream) -> None:
        with trio.CancelScope(shield=True):
            while not stream.closed:
                await trio.testing.wait_all_tasks_blocked()
            await stream.send("too late")

    async def handler(stream: WebsocketStream, state: None) -> None:
        await receive(stream, depth)

    async with raw_client(app_with(handler)) as client:
        await client.send(close_frame(1001))
        assert await client.close_code() == 1001
        assert await client.at_end()

    assert caplog.records == []


async def test_the_end_of_another_stream(caplog: pytest.LogCaptureFixture) -> None:
    """ConnectionClosed that a handler lets out while its own stream is open is a failure like any other."""

    async def fail(stream: WebsocketStream, state: None) -> None:
        raise ConnectionClosed(1001)

    async with raw_client(app_with(fail)) as client:
        assert await client.close_code() == 1011

    assert len(caplog.records) == 1


async def test_a_failed_handler_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises ends its own stream only."""

    async def echo_or_fail(stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            if message.text == "fail":
                raise RuntimeError
            await stream.send(message)

    async with served_in_memory(app_with(echo_or_fail)) as connect:
        bad, good = await RawClient(connect()).open(), await RawClient(connect()).open()
        await bad.send(client_frame(TEXT, b"fail"))
        assert await bad.close_code() == 1011
        await good.send(client_frame(TEXT, b"hello"))
        assert await good.frame() == (TEXT, b"hello")


@pytest.mark.parametrize("seconds", [0.5, 3])
@pytest.mark.parametrize("end", [close_frame(1000), None], ids=["close", "end of file"])
async def test_a_busy_handler_is_cancelled(
    end: bytes | None, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler that is busy when its client leaves has Timeouts.disconnect to end, then it is cancelled."""
    cancelled_at = 0.0

    async def be_busy(stream: WebsocketStream, state: None) -> None:
        nonlocal cancelled_at
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at = trio.current_time()

    async with raw_client(app_with(be_busy, timeouts=Timeouts(disconnect=seconds))) as client:
        await trio.sleep(100)
        left = trio.current_time()
        await (client.stream.aclose() if end is None else client.send(end))
        await trio.sleep(100)

    assert cancelled_at - left == seconds


async def test_a_handler_may_clean_up(autojump_clock: trio.testing.MockClock) -> None:
    """A handler that notices that its client has left may still take Timeouts.disconnect to clean up."""
    cleaned_up = False

    async def clean_up(stream: WebsocketStream, state: None) -> None:
        nonlocal cleaned_up
        async for _ in stream:
            pass
        await trio.sleep(0.4)
        cleaned_up = True

    async with raw_client(app_with(clean_up)) as client:
        await client.stream.aclose()
        await trio.sleep(1)

    assert cleaned_up


async def test_a_cancelled_server_says_goodbye() -> None:
    """When the HTTP app is cancelled, its streams are closed with 1001, behind what was sent."""
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        stream_pair = iter([(ours, theirs)]).__next__

        async def serve(*, task_status: trio.TaskStatus[RawClient]) -> None:
            async with raw_client(app_with(echo), stream_pair) as client:
                task_status.started(client)
                await trio.sleep_forever()

        client = await nursery.start(serve)
        await client.send(client_frame(TEXT, b"hello"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert await client.frame() == (TEXT, b"hello")
    assert await client.close_code() == 1001
    assert await client.at_end()


# ---------------------------------------------------------------------------- streams out of a channel


async def test_streams_of_a_channel_have_one_receiver_too() -> None:
    """A stream that a channel delivers is read by the task that receives, and only by one at a time."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with raw_client(app) as client, trio.open_nursery() as nursery:
        stream = await streams.receive()
        nursery.start_soon(stream.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive()
        await client.send(client_frame(TEXT, b"hello"))


async def test_streams_of_a_channel_notice_the_end() -> None:
    """A stream that a channel delivers learns that its client has left when it has received everything."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with raw_client(app) as client:
        stream = await streams.receive()
        await client.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two") + close_frame(3000, "bye"))
        assert [message.text async for message in stream] == ["one", "two"]
        assert (stream.close_code, stream.close_reason) == (3000, "bye")
        assert await client.close_code() == 3000
        assert await client.at_end()


async def test_receiving_is_taking(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever receives from a stream has taken it, and may wait for a message as long as it takes."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook, take_timeout=1))
    async with raw_client(app) as client, trio.open_nursery() as nursery:
        stream = await streams.receive()
        nursery.start_soon(stream.receive)
        await trio.sleep(100)
        await client.send(client_frame(TEXT, b"at last"))


# ------------------------------------------------------------------------------------------- real sockets


@asynccontextmanager
async def connected(app: App, link: Link) -> AsyncGenerator[trio.abc.Stream]:
    """A connection to an app that listens."""
    async with listening(app, link) as address, await link.connect(address) as stream:
        yield stream


@each_link
async def test_a_reset_while_receiving(link: Link) -> None:
    """A connection that the client resets ends with 1006."""
    handler = Recorder()
    async with connected(app_with(handler), link) as stream:
        await RawClient(stream).open()
        reset(stream)
        await handler.done.wait()

    assert handler.closed.code == 1006


@each_link
@pytest.mark.parametrize("call", [lambda stream: stream.send("hello"), WebsocketStream.ping], ids=["send", "ping"])
async def test_a_reset_before_sending(call: Callable[[WebsocketStream], Awaitable[None]], link: Link) -> None:
    """Sending to a client that has reset the connection, unnoticed so far, raises ConnectionClosed with 1006."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with connected(app, link) as client:
        await RawClient(client).open()
        stream = await streams.receive()
        reset(client)
        with pytest.raises(ConnectionClosed, match="1006"):
            await call(stream)
        assert stream.close_code == 1006


@each_link
async def test_a_reset_before_the_handshakes_answer(link: Link) -> None:
    """A client that has left before its upgrade is accepted is found gone at once."""
    asked, left, found = trio.Event(), trio.Event(), trio.Event()

    async def think_it_over(upgrade: Upgrade, state: None) -> None:
        asked.set()
        await left.wait()
        stream = await upgrade.accept()
        with pytest.raises(ConnectionClosed, match="1006"):
            await stream.receive()
        found.set()

    async with connected(App().with_websocket_route("/", think_it_over), link) as client:
        await client.send_all(request_bytes("GET / HTTP/1.1"))
        await asked.wait()
        reset(client)
        left.set()
        await found.wait()


@each_link
async def test_a_socket_that_takes_nothing(link: Link) -> None:
    """Over a socket, too, a client that takes no byte for Timeouts.write is cut off."""
    cut_off = trio.Event()

    async def send_much(stream: WebsocketStream, state: None) -> None:
        assert (await send_until_closed(stream)).code == 1006
        cut_off.set()

    async with connected(app_with(send_much, timeouts=Timeouts(write=0.1)), link) as client:
        await RawClient(client).open()
        await cut_off.wait()


@each_link
@pytest.mark.parametrize("count", [5, 20, 40])
async def test_a_coroutine_that_does_not_receive(count: int, link: Link, nursery: trio.Nursery) -> None:
    """A coroutine that does not receive is cancelled when its client has left, however much that had sent."""
    ended = trio.Event()

    async def sleep(stream: WebsocketStream, state: None) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    app = App().with_websocket_route("/", websocket_handler(sleep))
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    async with await link.connect(address) as stream:
        client = await open_websocket(stream)
        for number in range(count):
            await client.send(str(number))
    with trio.fail_after(10):
        await ended.wait()
    nursery.cancel_scope.cancel()
