"""Cancelling one or both apps at every step of an exchange leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncWebsocketApp,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import WebsocketClient
from humphrey_trio.websocket import Upgrade
from tests.support import ANY_PORT
from tests.support.cancellation import BOTH, Connect, Handlers, cancel_at_every_step, echo, name_all, serve_stream
from tests.support.links import Link

# -------------------------------------------------------------------------------------------------- apps


def linked_pair(handlers: Handlers) -> tuple[App, AsyncWebsocketApp]:
    websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked())
    return App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook())), websocket_app


def in_memory(handlers: Handlers) -> Any:
    app, websocket_app = linked_pair(handlers)
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> trio.abc.Stream:
        return ours

    return {"http": (serve_stream, (app, theirs)), "websocket": (websocket_app.run, ())}, lambda started: connect


def connect_to(name: str, link: Link = Link.PLAIN) -> Callable[[dict[str, Any]], Connect]:
    """A function that connects to the address of the app with that name."""

    def connect_to_started(started: dict[str, Any]) -> Connect:
        async def connect() -> trio.abc.Stream:
            (address,) = started[name]
            return await link.connect(address)

        return connect

    return connect_to_started


def over_sockets(handlers: Handlers, link: Link = Link.PLAIN) -> Any:
    app, websocket_app = linked_pair(handlers)
    apps = {"http": (link.run(app), (ANY_PORT,)), "websocket": (websocket_app.run, ())}
    return apps, connect_to("http", link)


def over_tls(handlers: Handlers) -> Any:
    return over_sockets(handlers, Link.TLS)


def by_own_route(handlers: Handlers, link: Link = Link.PLAIN) -> Any:
    websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked())
    hook_route = async_websocket_handler(websocket_app.connect_hook())

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        await trio.lowlevel.checkpoint()
        return await hook_route(upgrade, state)

    app = App().with_websocket_route("/", route)
    apps = {"http": (link.run(app), (ANY_PORT,)), "websocket": (websocket_app.run, ())}
    return apps, connect_to("http", link)


def by_own_route_over_tls(handlers: Handlers) -> Any:
    return by_own_route(handlers, Link.TLS)


def internally_linked(handlers: Handlers) -> Any:
    websocket_app = handlers.attach(AsyncWebsocketApp().with_address(ANY_PORT))
    return {"websocket": (websocket_app.run, ())}, connect_to("websocket")


def own_coroutine(handlers: Handlers, link: Link = Link.PLAIN) -> Any:
    async def converse(stream: WebsocketStream, state: None) -> None:
        handlers.connected.append(stream.id)
        try:
            async for message in stream:
                await stream.send(message)
        finally:
            handlers.disconnecting.append(stream.id)
            handlers.disconnected.append(stream.id)

    app = App().with_websocket_route("/", websocket_handler(converse))
    return {"http": (link.run(app), (ANY_PORT,))}, connect_to("http", link)


def own_coroutine_over_tls(handlers: Handlers) -> Any:
    return own_coroutine(handlers, Link.TLS)


async def echo_slowly(client: WebsocketClient) -> None:
    await client.send("sleep")
    await client.ping()
    await client.send("behind")
    assert [(await client.receive()).text for _ in range(2)] == ["sleep", "behind"]


# ------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
@pytest.mark.parametrize("make", [in_memory, over_sockets, over_tls, by_own_route, by_own_route_over_tls])
async def test_cancelled_at_every_step(make: Any, cancelled: set[str]) -> None:
    """A pair that is cancelled at any step of an exchange leaves no task or file, and disconnects once."""
    await cancel_at_every_step(make, echo, cancelled)


@pytest.mark.parametrize(
    ("make", "name"),
    [(internally_linked, "websocket"), (own_coroutine, "http"), (own_coroutine_over_tls, "http")],
)
async def test_single_app_cancelled_at_every_step(make: Any, name: str) -> None:
    """The same, for an internally linked app, and for a route with a coroutine."""
    await cancel_at_every_step(make, echo, {name})


@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
async def test_cancelled_at_every_step_of_a_slow_handler(
    cancelled: set[str], autojump_clock: trio.testing.MockClock
) -> None:
    """The same, while a handler is slow and messages are read ahead."""
    await cancel_at_every_step(in_memory, echo_slowly, cancelled)
