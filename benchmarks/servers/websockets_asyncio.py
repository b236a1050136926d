"""websockets with its asyncio server: WebSockets only."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.servers.arguments import Arguments

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
            broadcast(connections, message)
    finally:
        connections.discard(websocket)


async def main(arguments: Arguments) -> None:
    async with serve(
        handle,
        "127.0.0.1",
        arguments.port,
        ssl=arguments.context(),
        backlog=4096,
        compression=None,
        ping_interval=None,
        max_size=16 * 2**20,
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Arguments.read()))
