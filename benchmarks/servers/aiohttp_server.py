"""aiohttp with its compiled parsers, on the event loop of asyncio."""

from __future__ import annotations

from pathlib import Path

from aiohttp import WSMessage, WSMsgType, web

from benchmarks.payload import JSON, JSON_FIELDS
from benchmarks.servers.arguments import Arguments

connections: set[web.WebSocketResponse] = set()


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="Hello, world!")


async def json(request: web.Request) -> web.Response:
    return web.Response(body=JSON, headers=JSON_FIELDS)


async def echo_body(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="text/plain")


async def file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(arguments.folder or "") / request.match_info["name"])


async def accepted(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(compress=False, max_msg_size=16 * 2**20)
    await websocket.prepare(request)
    return websocket


async def send(websocket: web.WebSocketResponse, message: WSMessage) -> None:
    if message.type is WSMsgType.TEXT:
        await websocket.send_str(message.data)
    else:
        await websocket.send_bytes(message.data)


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = await accepted(request)
    async for message in websocket:
        await send(websocket, message)
    return websocket


async def broadcast(request: web.Request) -> web.WebSocketResponse:
    websocket = await accepted(request)
    connections.add(websocket)
    try:
        async for message in websocket:
            for client in list(connections):
                await send_to(client, message)
    finally:
        connections.discard(websocket)
    return websocket


async def send_to(client: web.WebSocketResponse, message: WSMessage) -> None:
    try:
        await send(client, message)
    except ConnectionError:
        connections.discard(client)


if __name__ == "__main__":
    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_get("/", hello)
    app.router.add_get("/json", json)
    app.router.add_get("/files/{name}", file)
    app.router.add_post("/echo", echo_body)
    app.router.add_get("/ws", echo)
    app.router.add_get("/broadcast", broadcast)
    arguments = Arguments.read()
    web.run_app(
        app,
        host="127.0.0.1",
        port=arguments.port,
        ssl_context=arguments.context(),
        access_log=None,
        print=None,
        backlog=4096,
    )
