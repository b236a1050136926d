"""Stream deadlines: ``set_deadline`` closes a stream after some seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf, nan
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Drain,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._websocket._stream._stream import connection_of
from humphrey_trio.testing import websocket_client
from humphrey_trio.websocket import Upgrade
from tests.support.apps import linked, served_in_memory, staged
from tests.support.clients import RawClient, read_away
from tests.support.stream_ends import new_app
from tests.support.times import SWEEP, soon_after
from tests.support.wire import CLOSE, TEXT, request_bytes


class Ends:
    """An app that records when its streams end, and why, in seconds since its construction."""

    def __init__(
        self, on_connect: Callable[[AsyncStream[Any]], Awaitable[object]] | None = None, **options: Any
    ) -> None:
        self._begun = trio.current_time()
        self.entries: list[tuple[float, int | None, str | None]] = []
        self.causes: list[str] = []
        self.app = new_app(on_connect, self._note, **options)

    def _note(self, stream: AsyncStream[Any]) -> None:
        assert stream.close_record is not None
        self.entries.append((trio.current_time() - self._begun, stream.close_code, stream.close_reason))
        self.causes.append(stream.close_record.cause)


@pytest.mark.parametrize("seconds", [0.001, 0.3, 1, 90.1])
async def test_deadline_closes_the_stream(seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline closes its stream with its code and reason, up to a quarter of a second late."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(seconds, 4003, "the token has expired")

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        with pytest.raises(ConnectionClosed) as caught, trio.fail_after(seconds + 1):
            await client.receive()
        assert (caught.value.code, caught.value.reason) == (4003, "the token has expired")
        await trio.testing.wait_all_tasks_blocked()
        assert ends.entries == [(soon_after(seconds), 4003, "the token has expired")]
        assert ends.causes == ["its deadline has passed"]


@pytest.mark.parametrize("path", ["/", "/own"])
async def test_deadline_without_a_code(path: str, autojump_clock: trio.testing.MockClock) -> None:
    """Without a code, a deadline closes with 1008."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(1)

    async def own(stream: WebsocketStream, state: None) -> None:
        stream.set_deadline(1)
        await stream.receive()

    async with linked(new_app(on_connect)) as http_app:
        http_app.with_websocket_route("/own", websocket_handler(own))
        async with websocket_client(http_app, path) as client:
            with trio.fail_after(2):
                await read_away(client)
            assert client.close_code == 1008


@pytest.mark.parametrize(
    ("again", "end"),
    [
        (5.0, (soon_after(7), 4002, "second")),
        (0.5, (soon_after(2.5), 4002, "second")),
        (inf, (soon_after(20), 4000, "")),
    ],
)
async def test_deadline_is_replaced(again: float, end: object, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline replaces the one before, whether it is later or earlier; ``inf`` removes it."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(3, 4001, "first")
        await trio.sleep(2)
        stream.set_deadline(again, 4002, "second")

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        with trio.move_on_after(20):
            await read_away(client)
        await client.close(4000)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [end]


async def test_queued_messages_precede_the_close_of_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """At the deadline of a slow client, all queued messages precede the Close frame."""
    count, size = 50, 20_000  # more than is written at once

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(1, 4003)
        for number in range(count):
            await stream.send(f"{number}".zfill(size))

    ends = Ends(on_connect)
    async with staged(ends.app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        client = await RawClient(stage.connect()).open()
        await trio.sleep(2)
        frames = [await client.frame() for _ in range(count + 1)]
    sent = [(TEXT, f"{number}".zfill(size).encode()) for number in range(count)]
    assert frames == [*sent, (CLOSE, (4003).to_bytes(2, "big"))]
    assert ends.causes == ["its deadline has passed"]


@pytest.mark.parametrize("where", ["connect", "message", "task", "outside"])
async def test_deadline_cancels_busy_handlers(where: str, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline holds whichever task sets it, and while a handler is busy, which is then cancelled."""
    streams: list[AsyncStream] = []
    cancelled: list[float] = []

    async def be_busy() -> None:
        try:
            await trio.sleep(100)
        finally:
            cancelled.append(trio.current_time() - begun)

    async def work(stream: AsyncStream) -> None:
        stream.set_deadline(2, 4003)

    async def on_connect(stream: AsyncStream, state: None) -> None:
        streams.append(stream)
        if where == "connect":
            stream.set_deadline(2, 4003)
            await be_busy()
        elif where == "task":
            stream.start_soon(work, stream)

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        if where == "message":
            stream.set_deadline(2, 4003)
        await be_busy()

    app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(on_message)
    async with linked(app) as http_app:
        begun = trio.current_time()
        async with websocket_client(http_app) as client:
            await client.send("work")
            await trio.testing.wait_all_tasks_blocked()
            if where == "outside":
                streams[0].set_deadline(2, 4003)
            await read_away(client)
            assert client.close_code == 4003
            await trio.testing.wait_all_tasks_blocked()
    assert cancelled == [soon_after(2)]


async def test_deadline_set_by_stream_state(autojump_clock: trio.testing.MockClock) -> None:
    """A ``stream_state`` factory may set a deadline from the value of the route's ``accept``."""

    def new_state(stream: WebsocketStream) -> None:
        stream.set_deadline(float(stream.request.query), 4003)

    ends = Ends(stream_state=new_state)
    async with linked(ends.app) as http_app, websocket_client(http_app, "/?3") as client:
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [(soon_after(3), 4003, "")]


@pytest.mark.parametrize("kind", ["websocket_handler", "Upgrade.accept", "channel"])
async def test_deadlines_without_an_app(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    """Streams without a WebSocket app have deadlines; the task that receives gets ConnectionClosed."""
    codes: list[int] = []
    received: list[str | None] = []

    async def converse(stream: WebsocketStream) -> None:
        stream.set_deadline(1, 4001)
        stream.set_deadline(2, 4003, "over")
        try:
            while True:
                received.append((await stream.receive()).text)
        except ConnectionClosed as exc:
            codes.append(exc.code)
        assert stream.close_record is not None
        assert stream.close_record.cause == "its deadline has passed"

    async def own(stream: WebsocketStream, state: None) -> None:
        await converse(stream)

    async def accept(upgrade: Upgrade, state: None) -> None:
        await converse(await upgrade.accept())

    hook, streams = trio.open_memory_channel[WebsocketStream](1)

    async def take() -> None:
        await converse(await streams.receive())

    routes: dict[str, Any] = {
        "websocket_handler": websocket_handler(own),
        "Upgrade.accept": accept,
        "channel": async_websocket_handler(hook),
    }
    async with trio.open_nursery() as nursery:
        if kind == "channel":
            nursery.start_soon(take)
        begun = trio.current_time()
        async with websocket_client(App().with_websocket_route("/", routes[kind])) as client:
            await client.send("hello")
            with pytest.raises(ConnectionClosed, match="4003: 'over'"):
                await client.receive()
            assert trio.current_time() - begun == soon_after(2)
            await trio.testing.wait_all_tasks_blocked()
    assert received == ["hello"]
    assert codes == [4003]


@pytest.mark.parametrize("seconds", [0, -1, nan, -inf])
async def test_deadline_refuses_invalid_times(seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that is not in the future is a ValueError, and keeps the one before."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(2, 4003)
        with pytest.raises(ValueError, match="seconds above zero"):
            stream.set_deadline(seconds)

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()
    assert ends.entries == [(soon_after(2), 4003, "")]


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (2000, ""), (5000, ""), (1008, 124 * "x")]
)
async def test_deadline_refuses_invalid_codes_and_reasons(
    code: int, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    """An invalid code or reason is a ValueError of ``set_deadline``, not of the deadline."""

    async def on_connect(stream: AsyncStream) -> None:
        with pytest.raises(ValueError, match=r"may not be sent|at most 123 bytes"):
            stream.set_deadline(1, code, reason)
        await stream.send("refused")

    async with linked(new_app(on_connect)) as http_app, websocket_client(http_app) as client:
        assert (await client.receive()).text == "refused"
        with trio.move_on_after(3) as waited:
            await client.receive()
        assert waited.cancelled_caught


async def test_deadline_of_a_closed_stream(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline on a closed stream changes neither its close nor its record."""
    streams: list[AsyncStream] = []

    async def on_connect(stream: AsyncStream) -> None:
        streams.append(stream)
        await stream.close(4000, "first")
        stream.set_deadline(1, 4003)

    ends = Ends(on_connect)
    async with linked(ends.app) as http_app:
        async with websocket_client(http_app) as client:
            await trio.sleep(3)
            with pytest.raises(ConnectionClosed, match="4000: 'first'"):
                await client.receive()
            await trio.testing.wait_all_tasks_blocked()
        streams[0].set_deadline(1, 4003)
        await trio.sleep(3)
    assert ends.entries == [(pytest.approx(3), 4000, "first")]
    assert ends.causes == [""]


@pytest.mark.parametrize("waiting", [True, False])
async def test_deadline_of_a_refused_stream(waiting: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A deadline on a stream that was closed before its 101 does not affect the next requests."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with served_in_memory(app) as connect:
        client = RawClient(connect())
        await client.send(request_bytes("GET / HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        stream = streams.receive_nowait()
        connection_of(stream).close(1000, "")  # before the route runs again
        if waiting:
            with pytest.raises(ConnectionClosed), trio.fail_after(1):
                await stream.receive()
        assert (await client.reply()).status == 503
        with pytest.raises(ConnectionClosed), trio.fail_after(1):
            await stream.receive()

        stream.set_deadline(1)
        await trio.sleep(3)
        await client.send(request_bytes("GET /elsewhere HTTP/1.1", [("Host", "a")]))
        assert (await client.reply()).status == 404


async def drain_after_a_second(ends: Ends, patience: float) -> None:
    """Drain the app a second after a client has connected, and wait until its stream has ended."""
    shutdown = trio.Event()
    ends.app.with_shutdown(shutdown, Drain(patience=patience))
    async with linked(ends.app) as http_app, websocket_client(http_app) as client:
        await trio.sleep(1)
        shutdown.set()
        await read_away(client)
        await trio.testing.wait_all_tasks_blocked()


async def test_deadline_renewed_in_a_drain(autojump_clock: trio.testing.MockClock) -> None:
    """A client that renews its deadline does not delay a drain."""

    async def renew(stream: AsyncStream) -> None:
        while True:
            stream.set_deadline(60, 4003)
            await trio.sleep(0.1)

    ends = Ends(renew)
    await drain_after_a_second(ends, patience=2)
    assert ends.entries == [(soon_after(3), 1001, "")]
    assert ends.causes == ["the server is shutting down"]


async def test_deadline_that_passes_in_a_drain(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that passes during the patience of a drain closes the stream."""

    async def on_connect(stream: AsyncStream) -> None:
        stream.set_deadline(2, 4003)
        await trio.sleep(100)

    ends = Ends(on_connect)
    await drain_after_a_second(ends, patience=10)
    assert ends.entries == [(soon_after(2), 4003, "")]


async def test_deadline_in_a_drain_of_the_http_app(autojump_clock: trio.testing.MockClock) -> None:
    """A coroutine that renews its deadline does not delay the drain of its HTTP app."""
    shutdown = trio.Event()

    async def own(stream: WebsocketStream, state: None) -> None:
        while not stream.closed:
            stream.set_deadline(60, 4003)
            await trio.sleep(0.1)

    app = App().with_websocket_route("/", websocket_handler(own)).with_shutdown(shutdown, Drain(spread=2))
    async with websocket_client(app) as client:
        shutdown.set()
        with trio.fail_after(2 + SWEEP):
            await read_away(client)
        assert client.close_code == 1001
