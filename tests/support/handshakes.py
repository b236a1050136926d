"""Opening handshakes, and apps and clients for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio

from humphrey_trio import (
    App,
    Response,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio.websocket import Upgrade
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.wire import (
    HANDSHAKE_FIELDS,
    TEXT,
    client_frame,
    request_bytes,
)

Fields = Iterable[tuple[str, str]]
Route = Callable[[Upgrade, Any], Awaitable[Response | None]]

HANDSHAKE = request_bytes("GET /ws HTTP/1.1")
HELLO = request_bytes("GET /hello HTTP/1.1", [("Host", "testserver")])


async def echo(stream: WebsocketStream, state: None) -> None:
    """Echo all messages."""
    async for message in stream:
        await stream.send(message)


def app_with(route: Route) -> App:
    """An app with a WebSocket route at ``/ws`` and a page at ``/hello``."""
    return (
        App().with_stateless_route("/hello", lambda _: Response(200, "hello")).with_websocket_route("/ws", route)
    )


@asynccontextmanager
async def client_of(app: App[Any]) -> AsyncGenerator[RawClient]:
    """A raw client of an app in memory."""
    with trio.fail_after(10):
        async with served_in_memory(app) as connect:
            yield RawClient(connect())


@asynccontextmanager
async def client_of_echo() -> AsyncGenerator[RawClient]:
    """A raw client of an app that echoes messages at ``/ws``."""
    async with client_of(app_with(websocket_handler(echo))) as client:
        yield client


async def assert_still_http(client: RawClient) -> None:
    """Assert that the connection answers another request."""
    await client.send(HELLO)
    assert (await client.reply()).content == b"hello"


async def assert_echoes(client: RawClient) -> None:
    """Assert that the WebSocket echoes another message."""
    await client.send(client_frame(TEXT, b"hi"))
    assert await client.frame() == (TEXT, b"hi")


def without(name: str) -> list[tuple[str, str]]:
    """The fields of a valid handshake without those of a name."""
    return [field for field in HANDSHAKE_FIELDS if field[0] != name]


def with_value(name: str, *values: str) -> list[tuple[str, str]]:
    """The fields of a valid handshake, with other values of one field."""
    return [*without(name), *((name, value) for value in values)]


GET = "GET /ws HTTP/1.1"
