"""Apps with one ``websocket_handler``, its coroutines, and their clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from humphrey_trio import App, ConnectionClosed, Timeouts, WebsocketStream, websocket_handler
from tests.support.apps import StreamPair, served_in_memory
from tests.support.clients import RawClient

Handler = Callable[[WebsocketStream, None], Awaitable[object]]

#: Bytes that a connection reads at once.
CHUNK = 65536


def app_with(handler: Handler, *, timeouts: Timeouts = Timeouts(), **options: Any) -> App:  # noqa: B008  (frozen)
    """An app whose only route runs a handler."""
    return App(timeouts=timeouts).with_websocket_route("/", websocket_handler(handler, **options))


@asynccontextmanager
async def raw_client(
    app: App, stream_pair: StreamPair = trio.testing.memory_stream_pair
) -> AsyncGenerator[RawClient]:
    """A client with an open WebSocket that answers no frame."""
    with trio.fail_after(1000):
        async with served_in_memory(app, stream_pair) as connect:
            yield await RawClient(connect()).open()


async def echo(stream: WebsocketStream, state: None) -> None:
    """Echo all messages."""
    async for message in stream:
        await stream.send(message)


async def send_until_closed(stream: WebsocketStream) -> ConnectionClosed:
    """Send in a loop until the stream is closed."""
    try:
        while True:
            await stream.send(bytes(1000))
    except ConnectionClosed as exc:
        return exc


class ReceiveRecorder:
    """A handler that receives until the end.

    Attributes:
        stream: its stream.
        received: the messages.
        closed: the exception that ended it.
    """

    stream: WebsocketStream
    closed: ConnectionClosed

    def __init__(self) -> None:
        self.received: list[str | bytes] = []
        self.done = trio.Event()

    async def __call__(self, stream: WebsocketStream, state: None) -> None:
        self.stream = stream
        try:
            while True:
                self.received.append((await stream.receive()).data)
        except ConnectionClosed as exc:
            self.closed = exc
        self.done.set()
