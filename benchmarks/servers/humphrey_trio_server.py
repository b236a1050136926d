"""humphrey_trio: one app for HTTP, and one WebSocket app for each WebSocket path."""

from __future__ import annotations

import trio

from benchmarks.servers.arguments import Arguments
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


def echo_body(request: Request) -> Response:
    return Response(StatusCode.OK, request.content)


async def echo(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.send(message)


async def broadcast(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.broadcast(message)


async def main(arguments: Arguments) -> None:
    echo_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    broadcast_app = AsyncWebsocketApp.new_unlinked().with_message_handler(broadcast)
    app = (
        App()
        .with_stateless_route("/", hello)
        .with_stateless_route("/echo", echo_body)
        .with_websocket_route("/ws", async_websocket_handler(echo_app.connect_hook()))
        .with_websocket_route("/broadcast", async_websocket_handler(broadcast_app.connect_hook()))
    )
    run = app.run
    if arguments.cert is not None:
        run = app.with_cert(arguments.cert, arguments.key).run_tls
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, f"127.0.0.1:{arguments.port}")
        nursery.start_soon(echo_app.run)
        nursery.start_soon(broadcast_app.run)


if __name__ == "__main__":
    trio.run(main, Arguments.read())
