"""Warnings about WebSocket apps that should run and do not, or that should have ended and have not."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Response,
    Upgrade,
    WebsocketStream,
    async_websocket_handler,
)
from humphrey_trio.testing import open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support.apps import served_in_memory
from tests.support.drain_clients import receive_until_closed
from tests.support.draining import Clock, in_memory
from tests.support.times import SWEEP, soon_after


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of the warnings that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def linked(websocket_app: AsyncWebsocketApp, path: str = "/ws", **options: Any) -> App:
    return App().with_websocket_route(path, async_websocket_handler(websocket_app.connect_hook(), **options))


async def never(stream: AsyncStream[None], message: Message, state: None) -> None:
    await trio.sleep_forever()


# ----------------------------------------------------------------------------------------- apps that do not run


async def test_app_that_does_not_run(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """If nothing takes a stream for a second, a WARNING names the route and the remedy, once in a minute."""
    app = linked(AsyncWebsocketApp.new_unlinked(), "/rooms/{name}")
    async with websocket_client(app, "/rooms/a") as client:
        await trio.sleep(1 - SWEEP)
        assert warnings(caplog) == []
        await trio.sleep(2 * SWEEP)
        (warning,) = warnings(caplog)
        assert "/rooms/{name}" in warning
        assert "run the AsyncWebsocketApp" in warning
        closing = await receive_until_closed(client)
        assert (closing.code, closing.at) == (1013, soon_after(10, sweeps=2))
    for _ in range(4):
        async with websocket_client(app, "/rooms/b"):
            await trio.sleep(5)
    assert len(warnings(caplog)) == 1
    await trio.sleep(60)
    async with websocket_client(app, "/rooms/c"):
        await trio.sleep(5)
    assert len(warnings(caplog)) == 2


async def test_each_route_warns(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """Each route has its own WARNING."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    app = linked(websocket_app, "/a")
    app.with_websocket_route("/b", async_websocket_handler(websocket_app.connect_hook()))
    async with websocket_client(app, "/a"), websocket_client(app, "/b"), websocket_client(app, "/a"):
        await trio.sleep(5)
    assert sorted(line.partition("route ")[2].partition(" ")[0] for line in warnings(caplog)) == ["/a", "/b"]


@pytest.mark.parametrize("seconds", [0.5, 1, 1.5])
async def test_short_take_timeout(seconds: float, caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """The WARNING does not change ``take_timeout``, even if it is shorter than a second."""
    app = linked(AsyncWebsocketApp.new_unlinked(), take_timeout=seconds)
    async with websocket_client(app, "/ws") as client:
        closing = await receive_until_closed(client)
        assert (closing.code, closing.at) == (1013, soon_after(seconds, sweeps=2))
    assert len(warnings(caplog)) == 1


async def test_full_hook_warns(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """A channel without a place from which nothing receives is a 503 for the client, and a WARNING."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    app = App().with_websocket_route("/ws", async_websocket_handler(hook))
    with pytest.raises(HandshakeError):
        async with websocket_client(app, "/ws"):
            pass
    assert len(warnings(caplog)) == 1
    streams.close()
    with pytest.raises(HandshakeError):
        async with websocket_client(app, "/ws"):
            pass
    assert len(warnings(caplog)) == 1


async def test_route_of_ones_own(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """If a route of one's own calls the hook route, the WARNING names the path of the client."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    hook_route = async_websocket_handler(hook)

    async def own(upgrade: Upgrade, state: None) -> Response | None:
        return await hook_route(upgrade, state)

    app = App().with_websocket_route("*", own)
    async with websocket_client(app, "/own/7"):
        await trio.sleep(2)
    (warning,) = warnings(caplog)
    assert "/own/7" in warning
    streams.close()


async def test_no_warning_for_an_app_that_is_full(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """Clients that wait because the WebSocket app has ``max_connections`` are no reason for a WARNING."""
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        async with websocket_client(linked(websocket_app), "/ws"), websocket_client(linked(websocket_app), "/ws"):
            await trio.sleep(5)
        nursery.cancel_scope.cancel()
    hosted = App().with_websocket_app("/ws", AsyncWebsocketApp.new_unlinked(max_connections=1))
    async with websocket_client(hosted, "/ws"), websocket_client(hosted, "/ws"):
        await trio.sleep(5)
    assert warnings(caplog) == []


@pytest.mark.parametrize("late", [0.5, 3])
async def test_app_that_starts_late(late: float, caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """An app that starts within a second causes no WARNING. It serves the clients that wait in both cases."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    async with trio.open_nursery() as nursery:
        async with websocket_client(linked(websocket_app), "/ws") as client:
            await trio.sleep(late)
            await nursery.start(websocket_app.run)
            await trio.sleep(20)
            await client.ping()
            await client.close()
            assert client.close_code == 1000
        nursery.cancel_scope.cancel()
    assert len(warnings(caplog)) == (late > 1)


# ------------------------------------------------------------------------------------------ apps that run on


@pytest.mark.parametrize("cancelled_after", [0.0, 0.5, 3.0])
async def test_app_that_runs_on(
    cancelled_after: float, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """If the HTTP app has shut down and a linked app still runs a second later, a WARNING says what to do."""
    shutdown = trio.Event()
    websocket_app = AsyncWebsocketApp.new_unlinked()
    app = linked(websocket_app).with_shutdown(shutdown)
    async with in_memory(shutdown, app, websocket_app, cancelled=[websocket_app]) as stage:
        client = await stage.open()
        stage.drain()
        assert (await receive_until_closed(client)).code == 1001
        await stage.close()
        await stage.http.returned.wait()
        await trio.sleep(cancelled_after)
    assert len(warnings(caplog)) == (cancelled_after > 1)
    assert all("call its with_shutdown" in warning for warning in warnings(caplog))


@pytest.mark.parametrize("link", ["with_shutdown", "another app", "hosted", "ended"])
async def test_no_warning(link: str, caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """No WARNING for an app with a shutdown event, with clients of another App, or that has ended."""
    shutdown, websocket_app = trio.Event(), AsyncWebsocketApp.new_unlinked().with_message_handler(never)
    app = App().with_shutdown(shutdown)
    if link == "hosted":
        app.with_websocket_app("/ws", websocket_app)
    else:
        app.with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    if link == "with_shutdown":
        websocket_app.with_shutdown(trio.Event())
    scope = trio.CancelScope()

    async def run_websocket_app() -> None:
        with scope:
            await websocket_app.run()

    async with trio.open_nursery() as nursery:
        if link != "hosted":
            nursery.start_soon(run_websocket_app)
        async with in_memory(shutdown, app) as stage, served_in_memory(linked(websocket_app)) as connect:
            clients = [await stage.open()]
            if link == "another app":
                clients.append(await open_websocket(connect(), "/ws"))
            if link == "ended":
                scope.cancel()
            stage.drain()
            await receive_until_closed(clients[0])
            await stage.close()
            await stage.http.returned.wait()
            await trio.sleep(5)
        with suppress(trio.BrokenResourceError):
            nursery.cancel_scope.cancel()
    assert warnings(caplog) == []
