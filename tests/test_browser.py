"""A browser opens WebSockets: of its own origin, of others, through layers, and when the server ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Deflate,
    Drain,
    Message,
    Request,
    Response,
    SetCookie,
)
from humphrey_trio.http import Address
from humphrey_trio.layers import CallNext
from tests.support.browser import Browser, Page, needs_chromium
from tests.support.http_clients import serving
from tests.support.visits import Visits, page

pytestmark = needs_chromium

# The page opens a WebSocket. "next" is the next message, or the Close frame as a list.
OPEN = """
    const seen = [], waiting = []
    const add = what => waiting.length ? waiting.shift()(what) : seen.push(what)
    globalThis.next = () => seen.length ? seen.shift() : new Promise(resolve => waiting.push(resolve))
    globalThis.socket = new WebSocket(url, protocols)
    socket.binaryType = "arraybuffer"
    socket.onmessage = ({data}) => add(typeof data === "string" ? data : data.byteLength)
    socket.onclose = event => add(["closed", event.code, event.reason, event.wasClean])
    return await new Promise(resolve => {
        socket.onopen = () => resolve(["open", socket.protocol, socket.extensions])
        socket.onerror = () => resolve(["refused"])
    })
"""
NEXT = "return await next()"


class Echo:
    """A WebSocket app that echoes, and the ends of its streams."""

    def __init__(self) -> None:
        self.app = (
            AsyncWebsocketApp.new_unlinked()
            .with_message_handler(self._echo)
            .with_disconnect_handler(self._keep_end)
        )
        self._ended, self.ends = trio.open_memory_channel[tuple[int | None, str | None]](10)

    async def _echo(self, stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    async def _keep_end(self, stream: AsyncStream, state: None) -> None:
        await self._ended.send((stream.close_code, stream.close_reason))


async def greeting(request: Request, state: Any, call_next: CallNext) -> Response:
    """A layer that adds a field and a cookie to every response, that of a handshake as well."""
    response = await call_next(request)
    return response.with_header("Seen-By", "layer").with_cookie(SetCookie("visited", "yes"))


@asynccontextmanager
async def echoing(echo: Echo, visits: Visits) -> AsyncGenerator[Address]:
    app = (
        App()
        .with_layer(visits)
        .with_layer(greeting, path="/ws")
        .with_stateless_route("/", page)
        .with_websocket_app("/ws", echo.app, subprotocols=["chat"], deflate=Deflate())
    )
    async with serving(app) as (address,):
        yield address


async def test_page_with_a_websocket(browser: Browser) -> None:
    """A page gets the echoes of its messages, short and long, and closes with its own code."""
    echo = Echo()
    async with echoing(echo, Visits()) as address, browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        opened = await tab.run(OPEN, url="/ws", protocols=["other", "chat"])
        assert opened[:2] == ["open", "chat"]
        assert opened[2].startswith("permessage-deflate")
        await tab.run("socket.send('Grüße aus dem Browser')")
        assert await tab.run(NEXT) == "Grüße aus dem Browser"
        await tab.run("socket.send(new Uint8Array(500_000))")
        assert await tab.run(NEXT) == 500_000
        await tab.run("socket.close(3000, 'gelesen: ü')")
        assert await tab.run(NEXT) == ["closed", 3000, "gelesen: ü", True]
        assert await echo.ends.receive() == (3000, "gelesen: ü")


async def test_websocket_through_a_layer(browser: Browser) -> None:
    """The browser keeps a cookie that a layer adds to the handshake."""
    visits = Visits()
    async with echoing(Echo(), visits) as address, browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        assert await tab.run("return document.cookie") == ""
        with tab.events("Network.webSocketHandshakeResponseReceived") as responses:
            await tab.listen("Network")
            assert (await tab.run(OPEN, url="/ws", protocols=[]))[0] == "open"
            response = (await responses.receive())["response"]
        assert response["status"] == 101
        assert response["headers"]["Seen-By"] == "layer"
        assert await tab.run("return document.cookie") == "visited=yes"
        assert visits.of("/ws") == [("GET", 101)]


async def test_page_of_another_origin(browser: Browser) -> None:
    """A page of another origin gets no WebSocket."""
    visits = Visits()
    pages = App().with_stateless_route("/", page)
    async with serving(pages) as (other,), echoing(Echo(), visits) as address, browser.profile() as profile:
        tab = await profile.open(f"http://{other}/")
        assert await tab.run(OPEN, url=f"ws://{address}/ws", protocols=[]) == ["refused"]
        assert await tab.run(NEXT) == ["closed", 1006, "", False]
        assert visits.of("/ws") == [("GET", 403)]


async def go_elsewhere(tab: Page) -> None:
    """Go elsewhere, from a page that then closes its WebSocket.

    Without that, Chromium keeps it open, because the user may go back to the page.
    """
    await tab.run('addEventListener("pagehide", () => socket.close(3001))')
    await tab.go("about:blank")


@pytest.mark.parametrize(("leave", "code"), [(Page.close, 1001), (Page.reload, 1001), (go_elsewhere, 3001)])
async def test_page_leaves_its_websocket(
    browser: Browser, leave: Callable[[Page], Awaitable[None]], code: int
) -> None:
    """The disconnect handler runs when the page is closed, is reloaded, or goes elsewhere."""
    echo = Echo()
    async with echoing(echo, Visits()) as address, browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await tab.run(OPEN, url="/ws", protocols=[])
        await leave(tab)
        assert await echo.ends.receive() == (code, "")


async def test_server_ends(browser: Browser) -> None:
    """In a graceful shutdown, the page gets the close code and the time after which it should reconnect."""
    echo, shutdown = Echo(), trio.Event()
    app = (
        App()
        .with_stateless_route("/", page)
        .with_websocket_app("/ws", echo.app)
        .with_shutdown(shutdown, Drain(code=1012, retry_after=2))
    )
    async with browser.profile() as profile:
        async with trio.open_nursery() as nursery:
            address = (await nursery.start(app.run, "127.0.0.1:0"))[0]
            tab = await profile.open(f"http://{address}/")
            await tab.run(OPEN, url="/ws", protocols=[])
            shutdown.set()
            begun = trio.current_time()
            assert await tab.run(NEXT) == ["closed", 1012, "retry-after=2", True]
        # The run has returned.
        assert trio.current_time() - begun < 10
