"""trio-websocket: WebSockets only, on trio and wsproto."""

from __future__ import annotations

import contextlib
import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

connections: set[WebSocketConnection] = set()


async def serve(request: WebSocketRequest) -> None:
    websocket = await request.accept()
    with contextlib.suppress(ConnectionClosed):
        await (echo if request.path == "/ws" else broadcast)(websocket)


async def echo(websocket: WebSocketConnection) -> None:
    while True:
        await websocket.send_message(await websocket.get_message())


async def broadcast(websocket: WebSocketConnection) -> None:
    connections.add(websocket)
    try:
        while True:
            message = await websocket.get_message()
            for client in list(connections):
                await send_to(client, message)
    finally:
        connections.discard(websocket)


async def send_to(client: WebSocketConnection, message: str | bytes) -> None:
    try:
        await client.send_message(message)
    except ConnectionClosed:
        connections.discard(client)


async def main(port: int) -> None:
    await serve_websocket(serve, "127.0.0.1", port, ssl_context=None, max_message_size=16 * 2**20)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
