"""Apps that drain, and the connections of their clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any

import trio
import trio.testing

from humphrey_trio import App, AsyncWebsocketApp, async_websocket_handler
from humphrey_trio.http import Address, Drain, Timeouts
from humphrey_trio.testing import WebsocketClient, open_websocket
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import StreamPair
from tests.support.clients import RawClient
from tests.support.links import Link, limit_send_buffers

#: The size in bytes of small socket buffers.
SMALL = 8 * 1024

Clock = trio.testing.MockClock

AnyWebsocketApp = AsyncWebsocketApp[Any, Any]


class Run:
    """Runs an app that has to return by itself, and records when it returns."""

    def __init__(self) -> None:
        self.returned = trio.Event()
        self.at = inf

    async def __call__(
        self, run: Callable[..., Awaitable[None]], *args: Any, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        await run(*args, task_status=task_status)
        self.at = trio.current_time()
        self.returned.set()


class Stage:
    """An App and its WebSocket apps while they run, and the connections of their clients."""

    def __init__(self, shutdown: trio.Event, connect: Callable[..., Awaitable[trio.abc.Stream]]) -> None:
        self._shutdown = shutdown
        self._connect = connect
        self._streams: list[trio.abc.Stream] = []
        self._begun = inf
        self.http = Run()
        self.websockets: list[Run] = []
        self.addresses: tuple[Address, ...] = ()

    async def connect(self, *args: Any) -> trio.abc.Stream:
        """A client's end of a new connection."""
        stream = await self._connect(*args)
        self._streams.append(stream)
        return stream

    async def raw(self) -> RawClient:
        """A client that sends any bytes."""
        return RawClient(await self.connect())

    async def open(self, path: str = "/ws") -> WebsocketClient:
        """A client with an open WebSocket."""
        return await open_websocket(await self.connect(), path)

    async def open_busy(self, text: str = "a", path: str = "/ws") -> WebsocketClient:
        """A client with an open WebSocket, whose message ``text`` has reached its handler."""
        client = await self.open(path)
        await client.send(text)
        await trio.testing.wait_all_tasks_blocked()
        return client

    def drain(self) -> None:
        """Begin to drain."""
        self._begun = trio.current_time()
        self._shutdown.set()

    def since(self, moment: float) -> float:
        """Seconds from the beginning of the drain to a moment."""
        return moment - self._begun

    @property
    def now(self) -> float:
        """Seconds since the drain began."""
        return self.since(trio.current_time())

    async def close(self) -> None:
        """Close the connections of all clients, without a closing handshake."""
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def staged(
    shutdown: trio.Event,
    app: App[Any],
    websocket_apps: Iterable[AnyWebsocketApp],
    serve: Callable[..., Awaitable[None]],
    connect: Callable[..., Awaitable[trio.abc.Stream]],
    cancelled: Collection[object] = (),
) -> AsyncGenerator[Stage]:
    """Run apps. They have to return by themselves at the end of the block if the shutdown event is set.

    Args:
        shutdown: the event that begins the drain.
        app, websocket_apps: the apps.
        serve: runs ``app``.
        connect: makes a connection, and returns the client's end.
        cancelled: the apps without this shutdown event. They are cancelled at the end of the block.
    """
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            stage = Stage(shutdown, connect)
            draining = [] if app in cancelled else [stage.http]
            for websocket_app in websocket_apps:
                stage.websockets.append(run := Run())
                await nursery.start(run, websocket_app.run)
                draining += [] if websocket_app in cancelled else [run]
            stage.addresses = await nursery.start(stage.http, serve)
            try:
                yield stage
                if shutdown.is_set():
                    for run in draining:
                        await run.returned.wait()
            finally:
                await stage.close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def in_memory(
    shutdown: trio.Event,
    app: App[Any],
    *websocket_apps: AnyWebsocketApp,
    stream_pair: StreamPair = trio.testing.memory_stream_pair,
    cancelled: Collection[object] = (),
) -> AsyncGenerator[Stage]:
    """Run an App on pairs of streams, and its WebSocket apps."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def connect() -> trio.abc.Stream:
                ours, theirs = stream_pair()
                nursery.start_soon(app.serve_stream, theirs)
                return ours

            serve = partial(app.run, ANY_PORT)
            async with staged(shutdown, app, websocket_apps, serve, connect, cancelled) as stage:
                yield stage


@asynccontextmanager
async def on_sockets(
    shutdown: trio.Event,
    app: App[Any],
    *websocket_apps: AnyWebsocketApp,
    addresses: Sequence[str] = (ANY_PORT,),
    link: Link = Link.PLAIN,
    buffer: int | None = None,
) -> AsyncGenerator[Stage]:
    """Run an App on sockets, with a buffer size if one is given, and its WebSocket apps."""

    async def connect(number: int = 0) -> trio.abc.Stream:
        return await link.connect(stage.addresses[number], buffer=buffer)

    async with staged(shutdown, app, websocket_apps, partial(link.run(app), *addresses), connect) as stage:
        if buffer is not None:
            for address in stage.addresses:
                limit_send_buffers(address, buffer)
        yield stage


over_tls = partial(on_sockets, link=Link.TLS)


def linked(websocket_app: AnyWebsocketApp, **options: Any) -> App:
    """An App with a route to a WebSocket app."""
    return App(**options).with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))


def linked_pair(
    shutdown: trio.Event,
    drain: Drain = Drain(),  # noqa: B008  (frozen)
    *,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
    **options: Any,
) -> tuple[App, AnyWebsocketApp]:
    """A linked pair. One event shuts down both apps."""
    websocket_app = AsyncWebsocketApp.new_unlinked(timeouts=timeouts, **options).with_shutdown(shutdown, drain)
    return linked(websocket_app, timeouts=timeouts).with_shutdown(shutdown, drain), websocket_app


BUSY = Drain(code=1012, retry_after=29.5)
