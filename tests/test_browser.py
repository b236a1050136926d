"""A real browser: an App serves a page, and the script of the page opens a WebSocket."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    async_websocket_handler,
)
from humphrey_trio.http import Address

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Seconds for a browser to begin, on a machine that is busy.
PATIENCE = 60

# What the page shows is what it reports, once the WebSocket has done its part.
PAGE = """<!doctype html>
<p>nothing yet</p>
<script>
  const text = document.querySelector("p")
  const report = () => fetch("/shown", {method: "POST", body: text.textContent})
  const socket = new WebSocket("ws://ADDRESS/ws")
  socket.onopen = () => socket.send("Grüße aus dem Browser")
  socket.onmessage = event => { text.textContent = event.data; socket.close(3000, "read") }
  socket.onclose = event => { if (!event.wasClean) text.textContent = "refused"; report() }
</script>
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (Debian's package chromium)")


@asynccontextmanager
async def browsing(url: str, profile: Path) -> AsyncGenerator[None]:
    """A browser that opens a page, with a new profile."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(PATIENCE) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
                await process.wait()


class Pair:
    """An HTTP app with a page, linked to a WebSocket app that echoes and records its messages."""

    def __init__(self) -> None:
        self._report, self.shown = trio.open_memory_channel[str](1)
        self.ends: list[tuple[int | None, str | None]] = []
        self.ended = trio.Event()
        self.page = ""
        self._websocket_app = (
            AsyncWebsocketApp.new_unlinked()
            .with_message_handler(self._echo)
            .with_disconnect_handler(self._keep_end)
        )
        self._app = (
            App()
            .with_stateless_route(
                "/", lambda _: Response(200, self.page, [("Content-Type", "text/html; charset=utf-8")])
            )
            .with_stateless_route("/shown", self._keep_shown)
            .with_websocket_route("/ws", async_websocket_handler(self._websocket_app.connect_hook()))
        )

    async def start(self, nursery: trio.Nursery) -> Address:
        nursery.start_soon(self._websocket_app.run)
        address: Address = (await nursery.start(self._app.run, "127.0.0.1:0"))[0]
        return address

    async def _keep_shown(self, request: Request) -> Response:
        await self._report.send(request.content.decode())
        return Response.empty(204)

    async def _echo(self, stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    async def _keep_end(self, stream: AsyncStream, state: None) -> None:
        self.ends.append((stream.close_code, stream.close_reason))
        self.ended.set()


async def test_page_with_a_websocket(tmp_path: Path) -> None:
    """A page shows the echo of its message, and closes with its own code."""
    pair = Pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            address = await pair.start(nursery)
            pair.page = PAGE.replace("ADDRESS", str(address))
            async with browsing(f"http://{address}/", tmp_path):
                assert await pair.shown.receive() == "Grüße aus dem Browser"
                await pair.ended.wait()
            assert pair.ends == [(3000, "read")]
            nursery.cancel_scope.cancel()


async def test_page_of_another_origin(tmp_path: Path) -> None:
    """A page of another origin gets no WebSocket."""
    pair, other = Pair(), Pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            address, others = await pair.start(nursery), await other.start(nursery)
            other.page = PAGE.replace("ADDRESS", str(address))
            async with browsing(f"http://{others}/", tmp_path):
                assert await other.shown.receive() == "refused"
            assert pair.ends == []
            nursery.cancel_scope.cancel()
