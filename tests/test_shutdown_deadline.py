"""The shutdown deadline: ``Timeouts.drain`` bounds a drain whatever clients and handlers do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.http import Timeouts
from humphrey_trio.websocket import WhenLeft
from tests.support import ANY_PORT, PATIENCE
from tests.support.clients import RawClient
from tests.support.drain_clients import POST, get, receive_until_closed
from tests.support.drain_handlers import Slow
from tests.support.draining import SMALL, Clock, Stage, in_memory, linked_pair, on_sockets, over_tls
from tests.support.links import Link, each_link
from tests.support.wire import TEXT, client_frame

#: More than the kernel buffers for a client that does not read.
FLOOD = bytes(2**24)


async def sleep_on(seconds: float = inf, *, shielded: float = 0) -> None:
    """Sleep, and when cancelled, sleep a while longer in a shield."""
    try:
        await trio.sleep(seconds)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(shielded)


class Obstacles:
    """A pair whose handlers do what a client asks for, with a route for each kind of handler."""

    def __init__(self, shutdown: trio.Event, timeouts: Timeouts, **options: Any) -> None:
        self.app, self.websocket_app = linked_pair(shutdown, timeouts=timeouts, **options)
        self.websocket_app.with_message_handler(self.message).with_disconnect_handler(self.disconnect)
        self.app.with_websocket_route("/own", websocket_handler(self.own))
        self.app.with_stateless_route("*", self.http)
        self.disconnecting = 0

    async def message(self, stream: AsyncStream, message: Message, state: None) -> None:
        await self.do(message.text or "", stream)

    async def own(self, stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await self.do(message.text or "", stream)

    async def http(self, request: Request) -> Response:
        await self.do(request.path[1:])
        return Response(200, FLOOD)

    async def do(self, what: str, stream: Any = None) -> None:
        if what == "sleep":
            await sleep_on()
        elif what == "shield":
            await sleep_on(shielded=0.3)
        elif what == "task":
            stream.start_soon(partial(sleep_on, shielded=0.3))
        elif what == "flood" and stream is not None:
            await stream.send(FLOOD)
            await stream.send("never")

    async def disconnect(self, stream: AsyncStream, state: None) -> None:
        self.disconnecting += 1
        await sleep_on()


Obstacle = Callable[[Stage, str], Awaitable[None]]


async def stall_websocket(stage: Stage, what: str) -> None:
    """Ask for something on a WebSocket, and read nothing."""
    client = await (await stage.raw()).open("/ws")
    await client.send(client_frame(TEXT, what.encode()))


async def stall_coroutine(stage: Stage, what: str) -> None:
    client = await (await stage.raw()).open("/own")
    await client.send(client_frame(TEXT, what.encode()))


async def stall_http(stage: Stage, what: str) -> None:
    await (await stage.raw()).send(get(f"/{what}"))


async def stall_in_a_body(stage: Stage, what: str) -> None:
    await (await stage.raw()).send(POST[:-2])


OBSTACLES: Any = pytest.mark.parametrize(
    ("obstacle", "what"),
    [
        *((stall_websocket, what) for what in ("nothing", "flood", "sleep", "shield", "task")),
        *((stall_coroutine, what) for what in ("nothing", "flood", "sleep", "shield")),
        *((stall_http, what) for what in ("flood", "sleep", "shield")),
        (stall_in_a_body, ""),
    ],
)

#: No other timeout passes before the deadline of the drain.
ENDLESS = Timeouts(drain=10, close=90, write=90, header=90, body=90)


@OBSTACLES
@each_link
async def test_shutdown_deadline(obstacle: Obstacle, what: str, link: Link, autojump_clock: Clock) -> None:
    """Whatever a client does, and whatever a handler waits for, both runs return within ``Timeouts.drain``."""
    shutdown = trio.Event()
    obstacles = Obstacles(shutdown, ENDLESS)
    async with on_sockets(shutdown, obstacles.app, obstacles.websocket_app, link=link) as stage:
        reader = await stage.raw()
        await reader.send(get("/x")[:-2])
        await obstacle(stage, what)
        await trio.testing.wait_all_tasks_blocked(0.01)
        stage.drain()
        await reader.send(b"\r\n")
        assert (await reader.stream.receive_some(12))[:12] == b"HTTP/1.1 200"
        await trio.aclose_forcefully(reader.stream)
        await stage.http.returned.wait()
        await stage.websockets[0].returned.wait()
        assert 8 <= stage.now <= 10
    assert obstacles.disconnecting == (obstacle is stall_websocket)


async def test_shutdown_deadline_of_an_internally_linked_app(autojump_clock: Clock) -> None:
    """An internally linked app whose client does not read its Close frame returns within ``Timeouts.drain``."""
    shutdown, handler = trio.Event(), Slow(inf)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        await trio.sleep_forever()

    websocket_app = AsyncWebsocketApp(timeouts=ENDLESS).with_address(ANY_PORT).with_message_handler(handler)
    websocket_app.with_disconnect_handler(on_disconnect).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            client = await RawClient(await Link.PLAIN.connect(address)).open()
            await client.send(client_frame(TEXT, b"a"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            began = trio.current_time()
            shutdown.set()
        assert 8 <= trio.current_time() - began <= 10
    await trio.aclose_forcefully(client.stream)
    assert len(handler.cancelled_at) == 1


@each_link
@pytest.mark.parametrize(
    ("size", "timeouts"),
    [(1, ENDLESS), (8192, Timeouts(drain=10))],
    ids=["a byte a second", "within the write timeout"],
)
async def test_shutdown_deadline_with_a_slow_reader(
    size: int, timeouts: Timeouts, link: Link, autojump_clock: Clock
) -> None:
    """A client that always makes a little progress does not put off the shutdown deadline."""
    shutdown = trio.Event()
    obstacles = Obstacles(shutdown, timeouts)
    async with on_sockets(shutdown, obstacles.app, obstacles.websocket_app, link=link, buffer=SMALL) as stage:
        client = await (await stage.raw()).open("/ws")
        await client.send(client_frame(TEXT, b"flood"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        read: list[bytes] = []

        async def read_slowly() -> None:
            with suppress(trio.BrokenResourceError):  # over TLS the deadline may cut off a record
                while True:
                    read.append(bytes(await client.stream.receive_some(size)))
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            stage.drain()
            nursery.start_soon(read_slowly)
            await stage.http.returned.wait()
            await stage.websockets[0].returned.wait()
            assert 8 <= stage.now <= 10
            nursery.cancel_scope.cancel()
        assert sum(map(len, read)) > 7 * size
    assert obstacles.disconnecting == 1


@pytest.mark.parametrize("seconds", [0, 9])
async def test_shutdown_deadline_with_a_hanging_disconnect_handler(seconds: float, autojump_clock: Clock) -> None:
    """A disconnect handler that never ends is cancelled at the shutdown deadline."""
    shutdown = trio.Event()
    obstacles = Obstacles(shutdown, ENDLESS)

    async def start(stream: AsyncStream, state: None) -> None:
        stream.start_soon(partial(sleep_on, shielded=seconds))

    obstacles.websocket_app.with_connect_handler(start)
    async with in_memory(shutdown, obstacles.app, obstacles.websocket_app) as stage:
        client = await stage.open()
        stage.drain()
        assert (await receive_until_closed(client)).code == 1001
        await stage.http.returned.wait()
        assert stage.now == 0
        await trio.sleep(seconds)
        await trio.testing.wait_all_tasks_blocked()
        assert obstacles.disconnecting == 1
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(10)


@pytest.mark.parametrize(("drain", "disconnect"), [(10, 60), (10, inf), (inf, inf)])
async def test_shutdown_deadline_and_disconnect_timeout(
    drain: float, disconnect: float, autojump_clock: Clock
) -> None:
    """Handlers get their time however long ``Timeouts.disconnect`` is, and the run returns by the deadline."""
    shutdown, handler, steps = trio.Event(), Slow(2), []

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        steps.append("began")
        await trio.sleep(20)
        steps.append("ended")

    app, websocket_app = linked_pair(shutdown, timeouts=Timeouts(drain=drain, disconnect=disconnect))
    websocket_app.with_message_handler(handler).with_disconnect_handler(on_disconnect)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open_busy()
        stage.drain()
        closing = await receive_until_closed(client)
        assert (closing.messages, closing.code) == (["a is answered"], 1001)
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(min(drain, 22))
    assert steps == (["began"] if drain == 10 else ["began", "ended"])


@pytest.mark.parametrize(("disconnect", "seconds"), [(0.5, 0.4), (60, 4.9)])
async def test_disconnect_handlers_at_the_hard_stop(
    disconnect: float, seconds: float, autojump_clock: Clock
) -> None:
    """Disconnect handlers of streams that the hard stop cancels have time to run before the deadline."""
    shutdown, handler, disconnected = trio.Event(), Slow(inf), []

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        await trio.sleep(seconds)
        disconnected.append(stream.id)

    timeouts = Timeouts(drain=10, disconnect=disconnect)
    app, websocket_app = linked_pair(shutdown, timeouts=timeouts, when_left=WhenLeft.FINISH)
    websocket_app.with_message_handler(handler).with_disconnect_handler(on_disconnect)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open_busy()
        stage.drain()
        assert (await receive_until_closed(client)).code == 1001
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(9.9)
    assert len(handler.cancelled_at) == len(disconnected) == 1


async def test_shutdown_deadline_in_real_time() -> None:
    """In real time, clients that never read and handlers that never end do not delay the deadline."""
    shutdown, timeouts = trio.Event(), replace(ENDLESS, drain=2)
    obstacles, tls_obstacles = Obstacles(shutdown, timeouts), Obstacles(shutdown, timeouts)
    async with (
        on_sockets(shutdown, obstacles.app, obstacles.websocket_app) as stage,
        over_tls(shutdown, tls_obstacles.app, tls_obstacles.websocket_app) as tls_stage,
    ):
        for place in (stage, tls_stage):
            for what in ("flood", "sleep"):
                for obstacle in (stall_websocket, stall_coroutine, stall_http):
                    await obstacle(place, what)
        await trio.testing.wait_all_tasks_blocked(0.1)
        began = time.monotonic()
        stage.drain()
        for place in (stage, tls_stage):
            await place.http.returned.wait()
            await place.websockets[0].returned.wait()
        assert 0.5 < time.monotonic() - began < 2 + 3  # tolerance for a busy machine
