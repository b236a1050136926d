"""Both variants of humphrey_trio: an app for HTTP, and a WebSocket app for each WebSocket path; or an ASGI app."""

from __future__ import annotations

from typing import Literal

import trio

from benchmarks.payload import JSON, JSON_FIELDS
from benchmarks.servers.arguments import Arguments
from benchmarks.servers.asgi import app_of
from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    StatusCode,
    async_websocket_handler,
)


def hello(request: Request) -> Response:
    return Response(StatusCode.OK, "Hello, world!")


def json(request: Request) -> Response:
    return Response(StatusCode.OK, JSON, JSON_FIELDS)


def echo_body(request: Request) -> Response:
    return Response(StatusCode.OK, request.content)


async def echo(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.send(message)


async def broadcast(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.broadcast(message)


async def serve(arguments: Arguments, parser: Literal["h11", "fast"]) -> None:
    if arguments.app is not None:
        app = App(parser=parser).with_asgi("*", app_of(arguments))
        await app.run(f"127.0.0.1:{arguments.port}")
        return
    echo_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    broadcast_app = AsyncWebsocketApp.new_unlinked().with_message_handler(broadcast)
    app = (
        (App() if parser == "h11" else App(parser=parser))  # earlier revisions have no other parser than h11
        .with_stateless_route("/", hello)
        .with_stateless_route("/json", json)
        .with_stateless_route("/echo", echo_body)
        .with_websocket_route("/ws", async_websocket_handler(echo_app.connect_hook()))
        .with_websocket_route("/broadcast", async_websocket_handler(broadcast_app.connect_hook()))
    )
    if arguments.folder is not None:
        from humphrey_trio.handlers import serve_dir  # earlier revisions do not have it

        app = app.with_path_aware_route("/files/*", serve_dir(arguments.folder))
    run = app.run
    if arguments.cert is not None:
        run = app.with_cert(arguments.cert, arguments.key).run_tls
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, f"127.0.0.1:{arguments.port}")
        nursery.start_soon(echo_app.run)
        nursery.start_soon(broadcast_app.run)
