"""websockets with its trio server: WebSockets only."""

from __future__ import annotations

import sys

import trio
from websockets.trio.server import ServerConnection, broadcast, serve

connections: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    if websocket.request.path == "/ws":
        async for message in websocket:
            await websocket.send(message)
        return
    connections.add(websocket)
    try:
        async for message in websocket:
            await broadcast(list(connections), message)
    finally:
        connections.discard(websocket)


async def main(port: int) -> None:
    await serve(
        handle,
        port,
        host="127.0.0.1",
        backlog=4096,
        compression=None,
        ping_interval=None,
        max_size=16 * 2**20,
    )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
