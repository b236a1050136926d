"""The drain of linked apps: which app closes which streams, and when their runs return."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncWebsocketApp,
    ConnectionClosed,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.http import Drain, Timeouts
from humphrey_trio.testing import open_websocket
from tests.support import ANY_PORT, PATIENCE
from tests.support.clients import RawClient
from tests.support.drain_clients import assert_last, get, receive_all_until_closed, receive_until_closed
from tests.support.drain_handlers import DisconnectRecorder, Held, Slow, hello
from tests.support.draining import BUSY, Clock, in_memory, linked, linked_pair, on_sockets
from tests.support.links import Link, each_link, is_refused
from tests.support.times import SWEEP
from tests.support.wire import request_bytes

# --------------------------------------------------------------------------------- runs, events and nurseries


@each_link
@pytest.mark.parametrize("order", [1, -1])
async def test_nursery_of_both_apps_ends(order: int, link: Link) -> None:
    """Both runs return, so the nursery around them ends by itself, whichever app was started first."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    app, websocket_app = linked_pair(shutdown)
    websocket_app.with_disconnect_handler(disconnected)
    runs = [partial(link.run(app), ANY_PORT), websocket_app.run][::order]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = [address for run in runs for address in await nursery.start(run)]
            async with await link.connect(address) as stream:
                client = await open_websocket(stream, "/ws")
                shutdown.set()
                assert (await receive_until_closed(client)).code == 1001
        assert not nursery.cancel_scope.cancelled_caught
    assert disconnected.codes == [1001]


@each_link
async def test_shutdown_event_set_before_the_run(link: Link) -> None:
    """Apps whose event is set before they run return at once, and close the streams that wait in the hook."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    app, websocket_app = linked_pair(shutdown, BUSY)
    websocket_app.with_disconnect_handler(disconnected)
    inside = AsyncWebsocketApp().with_address(ANY_PORT).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (early,) = await nursery.start(link.run(linked(websocket_app)), ANY_PORT)
            async with await link.connect(early) as stream:
                client = await open_websocket(stream, "/ws")
                shutdown.set()
                async with trio.open_nursery() as ending:
                    ending.start_soon(websocket_app.run)
                    addresses = [*await ending.start(link.run(app), ANY_PORT), *await ending.start(inside.run)]
                    closing = await receive_until_closed(client)
            assert (closing.code, closing.reason) == (1012, BUSY.reason)
            assert [await is_refused(address) for address in addresses] == [True, True]
            nursery.cancel_scope.cancel()
    assert disconnected.codes in ([], [1012])


async def test_shutdown_event_that_is_never_set(autojump_clock: Clock) -> None:
    """An event that is never set changes nothing."""
    shutdown = trio.Event()
    drain = Drain(code=1012, spread=1, retry_after=1, patience=1)
    app, websocket_app = linked_pair(shutdown, drain, timeouts=Timeouts(drain=3, idle=50))
    app.with_stateless_route("/", hello)
    websocket_app.with_message_handler(Slow(20))
    async with in_memory(shutdown, app, websocket_app) as stage:
        client, other = await stage.open(), await stage.raw()
        for _ in range(3):
            await client.send("text")
            await other.send(get())
            assert "Connection" not in (await other.reply()).headers
            assert (await client.receive()).text == "text is answered"
    assert not stage.http.returned.is_set()
    assert not stage.websockets[0].returned.is_set()


# ---------------------------------------------------------------------------------- WebSockets of the HTTP app


class RecordingEcho:
    """A coroutine of ``websocket_handler`` that notes how each of its streams has ended."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []

    async def __call__(self, stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await stream.send(message)
        self.codes.append(stream.close_code)


async def test_drain_of_websocket_handler_streams(autojump_clock: Clock) -> None:
    """The app closes the streams of ``websocket_handler`` at random times within ``Drain.spread``."""
    shutdown, echo = trio.Event(), RecordingEcho()
    app = App().with_websocket_route("/ws", websocket_handler(echo))
    app.with_shutdown(shutdown, Drain(code=1012, spread=20, retry_after=7))
    async with in_memory(shutdown, app) as stage:
        clients = [await stage.open() for _ in range(40)]
        stage.drain()
        closings = await receive_all_until_closed(clients)
        assert {(closing.code, closing.reason) for closing in closings} == {(1012, "retry-after=7")}
        moments = [stage.since(closing.at) for closing in closings]
        assert all(0 <= moment <= 20 + SWEEP for moment in moments)
        # The times are random. These fail in fewer than one of 10 ** 12 runs.
        assert len(set(moments)) > 10
        assert min(moments) < 10 < max(moments)
        assert moments != sorted(moments)
        await stage.http.returned.wait()
        assert stage.now == max(moments)
    assert echo.codes == [1012] * 40


async def test_websocket_handler_that_goes_on_in_a_drain(autojump_clock: Clock) -> None:
    """A coroutine that goes on after the close is cancelled after ``Timeouts.disconnect``."""
    shutdown = trio.Event()

    async def go_on(stream: WebsocketStream, state: None) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await stream.receive()
        codes.append(caught.value.code)
        await trio.sleep_forever()

    codes: list[int] = []
    app = App(timeouts=Timeouts(disconnect=3)).with_websocket_route("/ws", websocket_handler(go_on))
    async with in_memory(shutdown, app.with_shutdown(shutdown)) as stage:
        client = await stage.open()
        stage.drain()
        closing = await receive_until_closed(client)
        assert (closing.code, stage.since(closing.at)) == (1001, 0)
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(3)
    assert codes == [1001]


@pytest.mark.parametrize("event", ["none", "another", "another that was set"])
async def test_http_app_drains_without_the_websocket_app(event: str, autojump_clock: Clock) -> None:
    """The HTTP app closes the streams of a WebSocket app that has no or another event; that app goes on."""
    shutdown, other, disconnected = trio.Event(), trio.Event(), DisconnectRecorder()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(disconnected)
    if event != "none":
        websocket_app.with_shutdown(other, Drain(code=4000, spread=20))
    app = linked(websocket_app).with_shutdown(shutdown, Drain(code=1012))
    async with in_memory(shutdown, app, websocket_app, cancelled=[websocket_app]) as stage:
        clients = [await stage.open() for _ in range(3)]
        if event == "another that was set":
            other.set()
            await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        closings = await receive_all_until_closed(clients)
        codes = [4000, 4000, 4000] if event == "another that was set" else [1012, 1012, 1012]
        assert [closing.code for closing in closings] == codes
        assert (stage.now == 0) == (event != "another that was set")
        await stage.http.returned.wait()
        assert stage.websockets[0].returned.is_set() == (event == "another that was set")
    assert disconnected.codes == codes


async def test_linked_apps_with_one_shutdown_event(autojump_clock: Clock) -> None:
    """With a common event, the WebSocket app closes its streams with its own code, spread and patience."""
    shutdown, handler, disconnected = trio.Event(), Slow(3), DisconnectRecorder()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(handler)
    websocket_app.with_disconnect_handler(disconnected).with_shutdown(shutdown, Drain(code=4000, spread=10))
    app = linked(websocket_app).with_shutdown(shutdown, Drain(code=1012))
    async with in_memory(shutdown, app, websocket_app) as stage:
        clients = [await stage.open() for _ in range(5)]
        await clients[0].send("a")
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        closings = await receive_all_until_closed(clients)
        assert closings[0].messages == ["a is answered"]
        assert [round(stage.since(closing.at), 6) for closing in closings] == [3, 2, 4, 6, 8]
        assert [closing.code for closing in closings] == [4000] * 5
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(8)
    assert disconnected.codes == [4000] * 5


async def test_drain_of_streams_in_a_channel(autojump_clock: Clock) -> None:
    """The HTTP app closes streams that were sent to a channel, whether they were received from it or not."""
    shutdown = trio.Event()
    hook, incoming = trio.open_memory_channel[WebsocketStream](10)
    app = App().with_websocket_route("/ws", async_websocket_handler(hook)).with_shutdown(shutdown, BUSY)
    async with in_memory(shutdown, app) as stage:
        clients = [await stage.open() for _ in range(2)]
        taken = await incoming.receive()
        stage.drain()
        closings = await receive_all_until_closed(clients)
        assert [(closing.code, closing.reason) for closing in closings] == [(1012, BUSY.reason)] * 2
        assert stage.now == 0
        assert taken.close_code == 1012


async def test_drain_of_an_internally_linked_app(autojump_clock: Clock) -> None:
    """An internally linked app drains its HTTP app together with itself, and keeps its spread."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    websocket_app = AsyncWebsocketApp().with_address(ANY_PORT).with_disconnect_handler(disconnected)
    websocket_app.with_shutdown(shutdown, Drain(code=1012, spread=4, retry_after=9))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            streams = [await Link.PLAIN.connect(address) for _ in range(4)]
            clients = [await open_websocket(stream, "/anywhere") for stream in streams]
            late = RawClient(await Link.PLAIN.connect(address))
            began = trio.current_time()
            await trio.testing.wait_all_tasks_blocked(0.01)
            shutdown.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await is_refused(address)
            await late.send(request_bytes("GET / HTTP/1.1"))
            reply = await late.reply()
            assert_last(reply, 503)
            assert reply.headers.get("Retry-After") == "9"
            closings = await receive_all_until_closed(clients)
            assert [(closing.code, closing.reason) for closing in closings] == [(1012, "retry-after=9")] * 4
            moments = [closing.at - began for closing in closings]
            assert moments == pytest.approx([0, 1, 2, 3], abs=0.1)
            for stream in (*streams, late.stream):
                await trio.aclose_forcefully(stream)
    assert disconnected.codes == [1012] * 4


@each_link
async def test_drain_of_two_runs_of_one_app(link: Link) -> None:
    """One event drains both runs of an App that runs twice."""
    shutdown, held = trio.Event(), Held()
    app, websocket_app = linked_pair(shutdown)
    app.with_stateless_route("/", held)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket_app.run)
            addresses = [(await nursery.start(link.run(app), ANY_PORT))[0] for _ in range(2)]
            streams = [await link.connect(address) for address in addresses * 2]
            clients = [await open_websocket(stream, "/ws") for stream in streams[:2]]
            others = [RawClient(stream) for stream in streams[2:]]
            for other in others:
                await other.send(get())
            await trio.testing.wait_all_tasks_blocked(0.01)
            shutdown.set()
            assert [closing.code for closing in await receive_all_until_closed(clients)] == [1001] * 2
            assert [await is_refused(address) for address in addresses] == [True] * 2
            held.release.set()
            for other in others:
                assert_last(await other.reply())
            for stream in streams:
                await trio.aclose_forcefully(stream)


# ------------------------------------------------------------------------------------------- TCP and TLS


@each_link
async def test_drain_of_a_pair_over_sockets(link: Link, autojump_clock: Clock) -> None:
    """Over sockets, a drain sends Close frames and last responses, and closes idle connections."""
    shutdown, held = trio.Event(), Held()
    app, websocket_app = linked_pair(shutdown, BUSY)
    app.with_stateless_route("/", hello).with_stateless_route("/held", held)
    async with on_sockets(shutdown, app, websocket_app, link=link) as stage:
        client, idle, busy = await stage.open(), await stage.raw(), await stage.raw()
        await idle.send(get())
        assert (await idle.reply()).status == 200
        await busy.send(get("/held"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        stage.drain()
        assert await idle.at_end()
        closing = await receive_until_closed(client)
        assert (closing.code, closing.reason) == (1012, BUSY.reason)
        assert await is_refused(stage.addresses[0])
        assert not stage.http.returned.is_set()
        held.release.set()
        assert_last(await busy.reply())
        assert await busy.at_end()
