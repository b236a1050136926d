"""Lingering closes: sent bytes arrive, deadlines and slots bound the wait, and statistics count it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message, Response, Timeouts, async_websocket_handler
from humphrey_trio.http import Address, Headers
from humphrey_trio.websocket import WebsocketStream
from tests.support import ANY_PORT
from tests.support.apps import linked, served_in_memory
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, listening, reset
from tests.support.wire import CLOSE, PONG, TEXT, client_frame, close_frame

Clock = trio.testing.MockClock

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
NO_HTTP = b"\x00"


def fine_app(**settings: Any) -> App:
    return App(**settings).with_stateless_route("/", lambda _: Response(200, "fine"))


async def read_to_end(stream: trio.abc.Stream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def drip(stream: trio.abc.Stream, seconds: float) -> None:
    """Send one byte at an interval of some seconds until the connection breaks."""
    while True:
        await stream.send_all(b"x")
        await trio.sleep(seconds)


class Run:
    """The run of an app, and whether it has returned."""

    def __init__(self, app: App[Any], link: Link) -> None:
        self._run = link.run(app)
        self.returned = trio.Event()

    async def __call__(self, *, task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
        await self._run(ANY_PORT, task_status=task_status)
        self.returned.set()


# ------------------------------------------------------------------------------------------- deadlines


@pytest.mark.parametrize("request_bytes", [NO_HTTP, GET_AND_CLOSE], ids=["error", "close"])
@pytest.mark.parametrize(("every", "cut_after"), [(1, 30), (4, 30), (6, 5)])
async def test_lingering_deadlines(
    request_bytes: bytes, every: float, cut_after: float, autojump_clock: Clock
) -> None:
    """After its last bytes the server half-closes, and reads for 30 s in total and 5 s without a byte."""
    async with served_in_memory(fine_app(), trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send_all(request_bytes)
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 ")
        ended = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await drip(client, every)
        assert cut_after - 0.5 <= trio.current_time() - ended <= cut_after + every


async def test_lingering_timeouts(autojump_clock: Clock) -> None:
    """``Timeouts.linger`` and ``Timeouts.linger_idle`` set both deadlines."""
    app = fine_app(timeouts=Timeouts(linger=3, linger_idle=1))
    async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
        for every, cut_after in ((0.5, 3), (2, 1)):
            client = connect()
            await client.send_all(GET_AND_CLOSE)
            await read_to_end(client)
            ended = trio.current_time()
            with pytest.raises(trio.BrokenResourceError):
                await drip(client, every)
            assert cut_after - 0.5 <= trio.current_time() - ended <= cut_after + every


async def test_lingering_has_no_limit_of_bytes(autojump_clock: Clock) -> None:
    """A client that sends everything before it reads is not cut off while it sends, whatever the size."""
    async with served_in_memory(fine_app(), trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n")
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 413 ")
        for _ in range(128):
            await client.send_all(bytes(65536))


async def test_idle_connection_lingers(autojump_clock: Clock) -> None:
    """The idle timeout half-closes; a request that crosses it is discarded, not reset."""
    async with served_in_memory(fine_app(), trio.testing.lockstep_stream_pair) as connect:
        client = RawClient(connect())
        await client.send(GET)
        assert (await client.reply()).status == 200
        await trio.sleep(76)
        await client.send(GET)
        assert await client.at_end()


@each_link
async def test_drain_bounds_idle_lingering_to_a_second(link: Link, autojump_clock: Clock) -> None:
    """A drain bounds the lingering of idle connections to a second, including those that already linger."""
    shutdown = trio.Event()
    app = fine_app(timeouts=Timeouts(idle=1)).with_shutdown(shutdown)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(run := Run(app, link))
        clients = [await link.connect(address) for _ in range(2)]
        for client in clients:
            await client.send_all(GET)
            assert b"fine" in await client.receive_some()
            await trio.sleep(0.7)
        assert await clients[0].receive_some() == b""  # this one lingers; the other one is still idle
        ended = trio.current_time()
        shutdown.set()
        await run.returned.wait()
        assert 0.9 <= trio.current_time() - ended <= 1.5
        for client in clients:
            await client.aclose()


async def test_drain_does_not_cut_a_response(autojump_clock: Clock) -> None:
    """A drain does not cut off a client that still reads a response, before the deadline of the drain."""
    shutdown, asked = trio.Event(), trio.Event()

    async def answer(_: object) -> Response:
        asked.set()
        await shutdown.wait()
        await trio.sleep(1)
        return Response(200, bytes(1_000_000))

    app = App().with_stateless_route("/", answer).with_shutdown(shutdown)
    async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
        client = RawClient(connect())
        await client.send(GET)
        await asked.wait()
        shutdown.set()
        await trio.sleep(20)
        reply = await client.reply()
        assert (len(reply.content), reply.headers["Connection"]) == (1_000_000, "close")
        await client.send(GET)
        assert await client.at_end()


async def test_drain_does_not_cut_an_error_response(autojump_clock: Clock) -> None:
    """In a drain, the response to a request that cannot be served has the whole time to arrive, too."""
    shutdown = trio.Event()
    async with served_in_memory(fine_app().with_shutdown(shutdown)) as connect:
        client = connect()
        await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 400 ")
        shutdown.set()
        for _ in range(10):
            await trio.sleep(1)
            await client.send_all(b"more")


@each_link
async def test_hard_stop_does_not_reset(link: Link) -> None:
    """A response that was sent before a hard stop arrives, although the server has not read all input."""
    begun = trio.Event()

    async def wait(_: object) -> Response:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    async with listening(fine_app().with_stateless_route("/wait", wait), link) as address:
        client = await link.connect(address)
        await client.send_all(GET + GET.replace(b"/ ", b"/wait "))
        await begun.wait()
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert b"fine" in await read_to_end(client)
    await client.aclose()


# ------------------------------------------------------------------------------------------------ slots


@each_link
async def test_lingering_connections_at_max_connections(link: Link) -> None:
    """At ``max_connections``, the oldest lingering connection is closed for a new one, and counted."""
    app = fine_app(max_connections=4)
    async with listening(app, link) as address:
        lingering = [await link.connect(address) for _ in range(2)]
        for client in lingering:
            await client.send_all(GET_AND_CLOSE)
            assert (await read_to_end(client)).endswith(b"fine")
        statistics = app.statistics()
        assert (statistics.connections, statistics.lingering, statistics.lingering_cut) == (2, 2, 0)

        others = []
        for _ in range(3):
            other = RawClient(await link.connect(address))
            await other.send(GET)
            assert (await other.reply()).status == 200
            others.append(other)
        statistics = app.statistics()
        assert (statistics.connections, statistics.lingering, statistics.lingering_cut) == (4, 1, 1)
        for stream in (*lingering, *(other.stream for other in others)):
            await stream.aclose()


@each_link
@pytest.mark.parametrize(("max_connections", "limit"), [(8, 4), (1, 1)])
async def test_half_of_max_connections_may_linger(max_connections: int, limit: int, link: Link) -> None:
    """If half of ``max_connections`` linger, the oldest one is closed for the next one that begins to linger."""
    app = fine_app(max_connections=max_connections)
    async with listening(app, link) as address:
        clients = []
        for _ in range(limit + 2):
            client = await link.connect(address)
            await client.send_all(GET_AND_CLOSE)
            assert (await read_to_end(client)).endswith(b"fine")
            clients.append(client)
        statistics = app.statistics()
        assert (statistics.lingering, statistics.lingering_cut) == (limit, 2)
        for client in clients:
            await client.aclose()


@each_link
async def test_flood_of_lingering_connections(link: Link) -> None:
    """Clients that never close their side cannot use up ``max_connections``."""
    app = fine_app(max_connections=10)
    async with listening(app, link) as address:
        silent = []
        for _ in range(50):
            client = await link.connect(address)
            await client.send_all(GET_AND_CLOSE)
            assert (await read_to_end(client)).endswith(b"fine")
            silent.append(client)
        assert app.statistics().lingering_cut == 45
        for client in silent:
            await client.aclose()


async def test_lingering_foreign_stream_at_max_connections(autojump_clock: Clock) -> None:
    """The same holds for streams that are no sockets: the oldest one is closed at once."""
    async with served_in_memory(fine_app(max_connections=1), trio.testing.lockstep_stream_pair) as connect:
        first = connect()
        await first.send_all(GET_AND_CLOSE)
        assert (await read_to_end(first)).endswith(b"fine")
        began = trio.current_time()
        other = RawClient(connect())  # tasks that are started together begin in any order
        await other.send(GET)
        assert (await other.reply()).status == 200
        with pytest.raises(trio.BrokenResourceError):
            await first.send_all(b"more")
        assert trio.current_time() == began


# ------------------------------------------------------------------------------------------- WebSockets


@each_link
async def test_pong_after_a_close_loses_no_message(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    """A client that sends a Close and then a Pong receives all queued messages and our Close."""
    caplog.set_level(logging.INFO, "humphrey_trio.websocket")
    count, text = 200, "x" * 20_000

    async def flood(stream: AsyncStream, message: Message, state: None) -> None:
        for _ in range(count):
            await stream.send(text)

    websocket_app = AsyncWebsocketApp.new_unlinked(max_outbox_bytes=2**23).with_message_handler(flood)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with listening(app, link) as address, trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        client = await RawClient(await link.connect(address)).open()
        await client.send(client_frame(TEXT, b"go"))
        assert (await client.frame())[0] == TEXT
        await client.send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.send(client_frame(PONG, b"late"))
        frames = await client.rest()
        assert [opcode for opcode, _ in frames] == [TEXT] * (count - 1) + [CLOSE]
        while not caplog.records:
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (line,) = caplog.records
    assert line.close_record.clean is True  # type: ignore[attr-defined]


@each_link
async def test_close_record_of_a_reset_after_the_close(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    """If a client resets the connection after its Close, the record is unclean, and its log line says so."""
    caplog.set_level(logging.INFO, "humphrey_trio.websocket")

    async def greet(stream: AsyncStream, state: None) -> None:
        await stream.send("hello")

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(greet)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with listening(app, link) as address, trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        client = await RawClient(await link.connect(address)).open()
        await client.send(close_frame(1000))
        assert await client.frame() == (TEXT, b"hello")
        assert await client.close_code() == 1000
        reset(client.stream)
        while not caplog.records:
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (line,) = caplog.records
    record = line.close_record  # type: ignore[attr-defined]
    assert (record.code, record.clean) == (1000, False)
    assert "the last messages may be lost" in line.getMessage()


@each_link
async def test_unanswered_close_half_closes(link: Link, autojump_clock: Clock) -> None:
    """A client that does not answer our Close in ``Timeouts.close`` gets our end of file and may still read."""

    async def say_and_close(stream: AsyncStream, state: None) -> None:
        await stream.send("hello")
        await stream.close(4000)

    ended: list[float] = []

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        ended.append(trio.current_time())

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(say_and_close)
    websocket_app.with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        (address,) = await nursery.start(link.run(app), ANY_PORT)
        client = await RawClient(await link.connect(address)).open()
        began = trio.current_time()
        await trio.sleep(7)
        assert [moment - began for moment in ended] == [pytest.approx(5, abs=0.5)]
        assert app.statistics().lingering == 1
        await client.send(client_frame(TEXT, b"late"))
        assert await client.rest() == [(TEXT, b"hello"), (CLOSE, (4000).to_bytes(2, "big"))]
        nursery.cancel_scope.cancel()


async def test_drain_ends_the_wait_for_the_hook(autojump_clock: Clock) -> None:
    """A client that waits for a place in a full hook gets a 503 at once when a drain begins."""
    shutdown = trio.Event()
    hook, incoming = trio.open_memory_channel[WebsocketStream](0)
    app = App().with_websocket_route("/", async_websocket_handler(hook, place_timeout=60)).with_shutdown(shutdown)
    async with served_in_memory(app) as connect:
        client = RawClient(connect())
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await trio.sleep(1)
        began = trio.current_time()
        shutdown.set()
        reply = await client.reply()
        assert reply.status == 503
        assert "Retry-After" in Headers(reply.headers)
        assert trio.current_time() == began
    await incoming.aclose()


async def test_hard_stop_of_lingering_connections(autojump_clock: Clock) -> None:
    """A hard stop closes lingering connections at once and leaves no task."""
    before = trio.lowlevel.current_statistics().tasks_living
    async with linked(AsyncWebsocketApp.new_unlinked()) as app, served_in_memory(app) as connect:
        client = await RawClient(connect()).open()
        await client.send(close_frame(1000))
        assert await client.close_code() == 1000
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
    assert trio.current_time() == began
    assert trio.lowlevel.current_statistics().tasks_living == before
