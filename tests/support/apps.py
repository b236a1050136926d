"""Apps that are served in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
import trio.testing

from humphrey_trio import App, AsyncWebsocketApp, async_websocket_handler

from . import ANY_PORT, PATIENCE

#: Makes the two ends of a connection.
StreamPair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


@asynccontextmanager
async def linked(websocket_app: AsyncWebsocketApp[Any, Any], path: str = "/") -> AsyncGenerator[App]:
    """An App with a route to a WebSocket app, which runs until the end of the block."""
    app = App().with_websocket_route(path, async_websocket_handler(websocket_app.connect_hook()))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(websocket_app.run)
            yield app
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def served_in_memory(
    app: App[Any],
    stream_pair: StreamPair = trio.testing.memory_stream_pair,
) -> AsyncGenerator[Callable[[], trio.abc.Stream]]:
    """Serve an app on pairs of streams.

    The app also runs on a port, to which no client connects, because all connections of one run share a server.

    Args:
        app: the app, which must not be running.
        stream_pair: makes the two ends of a connection.

    Yields:
        A function that makes a connection and returns the client's end.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)

        def connect() -> trio.abc.Stream:
            ours, theirs = stream_pair()
            nursery.start_soon(app.serve_stream, theirs)
            return ours

        yield connect
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Stage:
    """A linked pair in memory. Each app can be cancelled by itself.

    Attributes:
        connect: makes a connection and returns the client's end.
        http, websocket: the cancel scopes of the apps.
    """

    connect: Callable[[], trio.abc.Stream]
    http: trio.CancelScope
    websocket: trio.CancelScope


@asynccontextmanager
async def staged(
    websocket_app: AsyncWebsocketApp[Any, Any],
    app: App[Any] | None = None,
    stream_pair: StreamPair = trio.testing.memory_stream_pair,
) -> AsyncGenerator[Stage]:
    """Link two apps at ``/``, run both, and serve connections in memory."""
    if app is None:
        app = App()
    app.with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))

    async def run_websocket_app(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(websocket_app.run)
                task_status.started(scope)

    async def serve(*, task_status: trio.TaskStatus[tuple[Any, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with served_in_memory(app, stream_pair) as connect:
                task_status.started((connect, scope))
                await trio.sleep_forever()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            websocket = await nursery.start(run_websocket_app)
            connect, http = await nursery.start(serve)
            yield Stage(connect, http, websocket)
            nursery.cancel_scope.cancel()
