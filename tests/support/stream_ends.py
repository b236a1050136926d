"""The ways in which the stream of an echoing app ends, and the app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message, Timeouts
from humphrey_trio.testing import WebsocketClient
from tests.support.apps import Stage
from tests.support.clients import half_close, read_away
from tests.support.times import SWEEP

End = Callable[[Stage, WebsocketClient, AsyncStream[Any], trio.Event], Awaitable[object]]


def new_app(
    on_connect: Callable[[AsyncStream[Any]], Awaitable[object]] | None = None,
    on_disconnect: Callable[[AsyncStream[Any]], object] | None = None,
    **options: Any,
) -> AsyncWebsocketApp[Any, Any]:
    """An app that echoes, with stateless handlers. Its disconnect handler is a plain function."""

    async def connect(stream: AsyncStream[Any], state: None) -> None:
        if on_connect is not None:
            await on_connect(stream)

    async def message(stream: AsyncStream[Any], message: Message, state: None) -> None:
        await stream.send(message)

    async def disconnect(stream: AsyncStream[Any], state: None) -> None:
        if on_disconnect is not None:
            on_disconnect(stream)

    return (
        AsyncWebsocketApp.new_unlinked(**options)
        .with_connect_handler(connect)
        .with_message_handler(message)
        .with_disconnect_handler(disconnect)
    )


def starting(*tasks: Callable[[AsyncStream[Any]], Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    """A connect handler that starts tasks."""

    async def on_connect(stream: AsyncStream[Any]) -> None:
        for task in tasks:
            stream.start_soon(task, stream)

    return on_connect


async def client_closes(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    """The client closes with 4000."""
    await client.close(4000)


async def client_resets(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    """The client resets the connection."""
    await client.disconnect()


async def client_ends(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    """The client sends an end of file without a Close frame."""
    await half_close(client.stream)


async def server_closes(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    """The server closes, and the client answers."""
    await stream.close()
    await read_away(client)


async def client_is_silent(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    """The server closes, and the client does not answer."""
    await stream.close()
    await trio.sleep(Timeouts().close + SWEEP)


async def deadline_passes(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    """The deadline of the stream passes."""
    stream.set_deadline(1)
    await read_away(client)


async def app_drains(stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event) -> None:
    """Both apps drain."""
    shutdown.set()
    await read_away(client)


async def websocket_app_is_cancelled(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    """The WebSocket app is cancelled."""
    stage.websocket.cancel()
    await read_away(client)


async def http_app_is_cancelled(
    stage: Stage, client: WebsocketClient, stream: AsyncStream, shutdown: trio.Event
) -> None:
    """The HTTP app is cancelled."""
    stage.http.cancel()
    await read_away(client)


ENDS: list[End] = [
    client_closes,
    client_resets,
    client_ends,
    client_is_silent,
    server_closes,
    deadline_passes,
    app_drains,
    websocket_app_is_cancelled,
    http_app_is_cancelled,
]
