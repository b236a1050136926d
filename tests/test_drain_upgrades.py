"""Upgrades in a drain: streams in the hook, and responses with 503."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncWebsocketApp,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.http import Drain
from humphrey_trio.websocket import HandshakeError, Upgrade
from tests.support.drain_clients import assert_last, get, receive_all_until_closed, receive_until_closed
from tests.support.drain_handlers import DisconnectRecorder, hello
from tests.support.draining import BUSY, Clock, in_memory, linked, linked_pair
from tests.support.wire import request_bytes

# --------------------------------------------------------------------------- streams that wait in the hook


async def test_streams_in_the_hook_are_closed(autojump_clock: Clock) -> None:
    """Streams in the hook are closed with the Drain's code and reason, without any handler."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=1).with_disconnect_handler(disconnected)
    app = linked(websocket_app.with_shutdown(shutdown, BUSY))
    async with in_memory(shutdown, app, websocket_app, cancelled=[app]) as stage:
        clients = [await stage.open() for _ in range(3)]
        assert websocket_app.statistics().waiting_in_hook == 2
        stage.drain()
        closings = await receive_all_until_closed(clients)
        assert [(closing.code, closing.reason) for closing in closings] == [(1012, BUSY.reason)] * 3
    assert disconnected.codes == [1012]


@pytest.mark.parametrize("http_drains", [False, True])
async def test_upgrades_that_wait_for_the_hook_get_503(http_drains: bool, autojump_clock: Clock) -> None:
    """An upgrade that waits for a place in a full hook gets a 503."""
    shutdown = trio.Event()
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=1)
    app = linked(websocket_app)
    draining = app if http_drains else websocket_app
    draining.with_shutdown(shutdown, BUSY)
    async with in_memory(shutdown, app, websocket_app, cancelled={app, websocket_app} - {draining}) as stage:
        clients = [await stage.open() for _ in range(65)]
        late = await stage.raw()
        await late.send(request_bytes("GET /ws HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        assert websocket_app.statistics().waiting_for_hook == 1
        stage.drain()
        reply = await late.reply()
        assert (reply.status, reply.headers.get("Retry-After")) == (503, "30" if http_drains else "1")
        assert (reply.headers.get("Connection") == "close") == http_drains
        assert stage.now <= http_drains
        assert {closing.code for closing in await receive_all_until_closed(clients)} == {1012}


@pytest.mark.parametrize("http_drains", [False, True])
async def test_stream_that_opens_as_the_drain_begins(http_drains: bool, autojump_clock: Clock) -> None:
    """A stream that passes the hook in the step in which the drain begins is closed with the Drain's code."""
    for _ in range(20):
        shutdown, disconnected = trio.Event(), DisconnectRecorder()

        async def end(request: Request, state: None, shutdown: trio.Event = shutdown) -> None:
            shutdown.set()  # no checkpoint follows until the 101

        websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(disconnected)
        route = async_websocket_handler(websocket_app.connect_hook(), accept=end)
        app = App().with_websocket_route("/ws", route)
        if http_drains:
            app.with_shutdown(shutdown, BUSY)
        websocket_app.with_shutdown(shutdown, BUSY)
        cancelled = [] if http_drains else [app]
        async with in_memory(shutdown, app, websocket_app, cancelled=cancelled) as stage:
            closing = await receive_until_closed(await stage.open())
            assert (closing.code, closing.reason) == (1012, BUSY.reason)
        assert disconnected.codes in ([], [1012])


# ------------------------------------------------------------------------------------------------- upgrades


async def test_upgrades_while_the_websocket_app_drains(autojump_clock: Clock) -> None:
    """While only the WebSocket app drains, upgrades get 503 with Retry-After, and the connection stays open."""
    shutdown = trio.Event()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_shutdown(shutdown, Drain(spread=5))
    app = linked(websocket_app).with_stateless_route("/", hello)
    async with in_memory(shutdown, app, websocket_app, cancelled=[app]) as stage:
        clients = [await stage.open() for _ in range(2)]
        late = await stage.raw()
        stage.drain()
        for _ in range(3):
            await trio.sleep(1)
            await late.send(request_bytes("GET /ws HTTP/1.1"))
            reply = await late.reply()
            assert (reply.status, reply.headers.get("Retry-After")) == (503, "1")
            assert "Connection" not in reply.headers
        await late.send(get())
        assert (await late.reply()).status == 200
        assert [stage.since(closing.at) for closing in await receive_all_until_closed(clients)] == [3, 3]


class Upgrades:
    """Routes that decide an upgrade only after ``go_on`` is set."""

    def __init__(self, hook: Any) -> None:
        self.go_on = trio.Event()
        self.refused: list[HandshakeError] = []
        self._hook_route = async_websocket_handler(hook)

    async def accept(self, request: Request, state: None) -> None:
        await self.go_on.wait()

    async def converse(self, stream: WebsocketStream, state: None) -> None:
        raise AssertionError("no upgrade is accepted")

    async def own(self, upgrade: Upgrade, state: None) -> Response | None:
        await self.go_on.wait()
        try:
            await upgrade.accept()
        except HandshakeError as exc:
            self.refused.append(exc)
            raise
        raise AssertionError("no upgrade is accepted")

    async def through_the_hook(self, upgrade: Upgrade, state: None) -> Response | None:
        await self.go_on.wait()
        return await self._hook_route(upgrade, state)


@pytest.mark.parametrize("path", ["/accept", "/accept-hook", "/own", "/through-the-hook"])
async def test_upgrades_that_are_pending_get_503(path: str, autojump_clock: Clock) -> None:
    """An upgrade that a route accepts after the drain has begun gets the Drain's 503."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, BUSY)
    upgrades = Upgrades(websocket_app.connect_hook())
    app.with_websocket_route("/accept", websocket_handler(upgrades.converse, accept=upgrades.accept))
    hook_route = async_websocket_handler(websocket_app.connect_hook(), accept=upgrades.accept)
    app.with_websocket_route("/accept-hook", hook_route)
    app.with_websocket_route("/own", upgrades.own).with_websocket_route(
        "/through-the-hook", upgrades.through_the_hook
    )
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.raw()
        await client.send(request_bytes(f"GET {path} HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        await trio.sleep(3)
        assert not stage.http.returned.is_set()
        upgrades.go_on.set()
        reply = await client.reply()
        assert_last(reply, 503)
        assert reply.headers.get("Retry-After") == "30"
        assert await client.at_end()
        assert stage.now == pytest.approx(3)
    assert [exc.status for exc in upgrades.refused] == [503] * (path == "/own")


@pytest.mark.parametrize("served", [True, False], ids=["kept alive", "new"])
async def test_partial_upgrade_head_gets_503(served: bool, autojump_clock: Clock) -> None:
    """An upgrade whose head was incomplete when the drain began gets a 503, on any open connection."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, BUSY)
    app.with_stateless_route("/", hello)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.raw()
        if served:
            await client.send(get())
            assert (await client.reply()).status == 200
        head = request_bytes("GET /ws HTTP/1.1")
        await client.send(head[:20])
        await trio.testing.wait_all_tasks_blocked()
        stage.drain()
        await trio.sleep(3)
        await client.send(head[20:])
        reply = await client.reply()
        assert_last(reply, 503)
        assert reply.headers.get("Retry-After") == "30"
        assert await client.at_end()
