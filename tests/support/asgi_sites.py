"""ASGI apps that an ``App`` serves below a path, on a port, and real clients for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import trio
from websockets.trio.client import connect

from humphrey_trio import App
from humphrey_trio.testing import HttpClient, ServerSentEvent, StreamedResponse

from . import ANY_PORT

PATH = "/api"
MAX_BODY = 10_000_000
#: Seconds after which a test fails because it hangs: a bound for a machine that is busy.
PATIENCE = 30


@dataclass(frozen=True)
class Site:
    """An ASGI app that is served.

    Attributes:
        host: the address and the port of the server, as in a Host field.
        path: the path below which the app is mounted, without a slash at its end.
        client: a client whose URLs are relative to the path.
        shutdown: begins the graceful end of the server.
    """

    host: str
    path: str
    client: httpx.AsyncClient
    shutdown: trio.Event

    def url(self, target: str) -> str:
        """The URL of a target of the app."""
        return f"http://{self.host}{self.path}{target}"

    def websocket(self, target: str, **options: Any) -> connect:
        """Open a WebSocket, with the options of ``websockets.trio.client.connect``."""
        return connect(f"ws://{self.host}{self.path}{target}", proxy=None, **options)

    @asynccontextmanager
    async def streaming(self, target: str) -> AsyncGenerator[StreamedResponse]:
        """Get a target on a connection of its own, and read the response while it arrives."""
        async with self._strict_client() as client, client.stream("GET", f"{self.path}{target}") as response:
            yield response

    @asynccontextmanager
    async def events(self, target: str, **options: Any) -> AsyncGenerator[AsyncGenerator[ServerSentEvent]]:
        """Receive server-sent events on a connection of its own."""
        async with (
            self._strict_client() as client,
            client.events(f"{self.path}{target}", **options) as events,
        ):
            yield events

    def _strict_client(self) -> HttpClient:
        host, _, port = self.host.partition(":")
        return HttpClient(partial(trio.open_tcp_stream, host, int(port)))

    @asynccontextmanager
    async def another_client(self) -> AsyncGenerator[httpx.AsyncClient]:
        """A client with connections of its own, which are closed at the end of the block."""
        async with http_client(f"http://{self.host}{self.path}") as client:
            yield client


def http_client(base_url: str) -> httpx.AsyncClient:
    """A client that uses no settings of the environment."""
    return httpx.AsyncClient(base_url=base_url, trust_env=False, verify=False, timeout=PATIENCE)


@asynccontextmanager
async def mounted(asgi_app: Any, path: str = PATH, *, app: App[Any] | None = None) -> AsyncGenerator[Site]:
    """Serve an ASGI app below a path until the end of the block, and then wait for the graceful end.

    Args:
        asgi_app: the app.
        path: the path, or ``*``.
        app: the app in which it is mounted; None for one without other routes.

    Yields:
        The site.
    """
    shutdown = trio.Event()
    app = (app or App()).with_asgi(path, asgi_app, max_body=MAX_BODY).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, ANY_PORT)
            host, prefix = f"{address.host}:{address.port}", path.removesuffix("*")
            async with http_client(f"http://{host}{prefix}") as client:
                yield Site(host, prefix, client, shutdown)
            shutdown.set()
