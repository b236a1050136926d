"""WebSocket apps that an ``App`` runs, and what their clients do."""

from __future__ import annotations

from typing import Any

import trio

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message
from humphrey_trio.testing import WebsocketClient


async def send_back(stream: AsyncStream[None], message: Message, state: Any) -> None:
    """Send a message back."""
    await stream.send(message)


async def send_to_all(stream: AsyncStream[None], message: Message, state: Any) -> None:
    """Send a message to all clients."""
    await stream.broadcast(message)


def echo_app(**options: Any) -> AsyncWebsocketApp:
    """A WebSocket app that sends each message back."""
    return AsyncWebsocketApp.new_unlinked(**options).with_message_handler(send_back)


async def answers(client: WebsocketClient) -> bool:
    """Whether a client gets its echo."""
    await client.send("text")
    return (await client.receive()).text == "text"


async def serve_in_scope(
    app: App, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    """Serve one connection in a cancel scope."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await app.serve_stream(stream)
