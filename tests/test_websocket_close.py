"""WebSocket streams: every way in which a stream ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    ConnectionClosed,
    Timeouts,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import Upgrade
from tests.support import ANY_PORT
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, listening, reset
from tests.support.times import SWEEP
from tests.support.websocket_handlers import CHUNK, ReceiveRecorder, app_with, echo, raw_client, send_until_closed
from tests.support.wire import BINARY, CLOSE, PING, TEXT, client_frame, close_frame, request_bytes

# ------------------------------------------------------------------------------------------------- close


@pytest.mark.parametrize(
    "frame",
    [close_frame(1000), close_frame(1000, "bye"), close_frame(3000), client_frame(CLOSE)],
    ids=["1000", "1000 and a reason", "3000", "no code"],
)
async def test_client_closes(frame: bytes) -> None:
    """A client's Close is answered with its code, and then the server ends the connection."""
    async with raw_client(app_with(echo)) as client:
        await client.send(client_frame(TEXT, b"hello"))
        assert await client.frame() == (TEXT, b"hello")
        await client.send(frame + client_frame(TEXT, b"ignored"))

        code = {close_frame(1000): 1000, close_frame(1000, "bye"): 1000, close_frame(3000): 3000}.get(frame)
        opcode, payload = await client.frame()
        assert (opcode, payload[:2]) == (CLOSE, b"" if code is None else code.to_bytes(2, "big"))
        assert await client.at_end()


async def test_handler_closes(autojump_clock: trio.testing.MockClock) -> None:
    """After the server's Close, messages and pings are discarded, and the client's Close ends the connection."""
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
async def test_close_timeout(seconds: int, autojump_clock: trio.testing.MockClock) -> None:
    """A client that does not answer our Close is cut off after ``Timeouts.close``."""

    async def close(stream: WebsocketStream, state: None) -> None:
        await stream.close()

    async with raw_client(app_with(close, timeouts=Timeouts(close=seconds))) as client:
        closed = trio.current_time()
        assert await client.close_code() == 1000
        assert await client.at_end()
        assert seconds <= trio.current_time() - closed <= seconds + 2 * SWEEP


async def test_close_timeout_of_a_client_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    """A client that reads neither queued messages nor our Close is cut off after ``Timeouts.close``."""

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


async def test_slow_client_gets_queued_messages_and_the_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A client that reads slowly gets everything, and then the Close, beyond ``Timeouts.close``."""
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


async def test_handler_that_returns_closes_with_1000() -> None:
    """When the handler returns, its stream is closed with 1000, after all sent messages."""

    async def greet(stream: WebsocketStream, state: None) -> None:
        await stream.send("hello")

    async with raw_client(app_with(greet)) as client:
        assert await client.frame() == (TEXT, b"hello")
        assert await client.close_code() == 1000


async def test_handler_that_raises_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    """When the handler raises, its stream is closed with 1011 without a reason, and the traceback is logged."""

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
async def test_handler_that_raises_connection_closed(depth: int, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises ConnectionClosed of its own closed stream has not failed."""

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


async def test_handler_that_raises_connection_closed_of_another_stream(caplog: pytest.LogCaptureFixture) -> None:
    """ConnectionClosed out of a handler is a failure while its own stream is open."""

    async def fail(stream: WebsocketStream, state: None) -> None:
        raise ConnectionClosed(1001)

    async with raw_client(app_with(fail)) as client:
        assert await client.close_code() == 1011

    assert len(caplog.records) == 1


async def test_failed_handler_closes_only_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises closes only its own stream."""

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
async def test_busy_handler_is_cancelled_after_the_disconnect_timeout(
    end: bytes | None, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler that is busy when its client disconnects is cancelled after ``Timeouts.disconnect``."""
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


async def test_handler_may_clean_up_after_a_disconnect(autojump_clock: trio.testing.MockClock) -> None:
    """A handler that sees the disconnect may use ``Timeouts.disconnect`` to clean up."""
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


async def test_cancelled_app_closes_with_1001() -> None:
    """The app closes its streams with 1001 when it is cancelled, after all sent messages."""
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


# ----------------------------------------------------------------------------------------------- sockets


@asynccontextmanager
async def connected(app: App, link: Link) -> AsyncGenerator[trio.abc.Stream]:
    """A connection to an app that listens."""
    async with listening(app, link) as address, await link.connect(address) as stream:
        yield stream


@each_link
async def test_reset_during_receive(link: Link) -> None:
    """A connection that the client resets ends with 1006."""
    handler = ReceiveRecorder()
    async with connected(app_with(handler), link) as stream:
        await RawClient(stream).open()
        reset(stream)
        await handler.done.wait()

    assert handler.closed.code == 1006


@each_link
@pytest.mark.parametrize("call", [lambda stream: stream.send("hello"), WebsocketStream.ping], ids=["send", "ping"])
async def test_send_after_an_unseen_reset(call: Callable[[WebsocketStream], Awaitable[None]], link: Link) -> None:
    """``send`` after a reset that the server has not seen raises ConnectionClosed with 1006."""
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
async def test_reset_before_the_101(link: Link) -> None:
    """A client that disconnects before its upgrade is accepted gets a stream that is closed at once."""
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
async def test_write_timeout_over_sockets(link: Link) -> None:
    """Over a socket, a client that accepts no byte for ``Timeouts.write`` is cut off."""
    cut_off = trio.Event()

    async def send_much(stream: WebsocketStream, state: None) -> None:
        assert (await send_until_closed(stream)).code == 1006
        cut_off.set()

    async with connected(app_with(send_much, timeouts=Timeouts(write=0.1)), link) as client:
        await RawClient(client).open()
        await cut_off.wait()


@each_link
@pytest.mark.parametrize("count", [5, 20, 40])
async def test_coroutine_that_does_not_receive(count: int, link: Link, nursery: trio.Nursery) -> None:
    """A coroutine that does not receive is cancelled when its client has disconnected, whatever was sent."""
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
