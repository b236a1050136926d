"""quart-trio, a framework, on the trio worker of hypercorn."""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.trio import serve
from quart import Websocket, request, websocket
from quart_trio import QuartTrio

from benchmarks.payload import JSON, JSON_FIELDS
from benchmarks.servers.arguments import Arguments
from benchmarks.servers.hypercorn_settings import settings

PLAIN = {"content-type": "text/plain"}

app = QuartTrio(__name__)
connections: set[Websocket] = set()


@app.get("/")
async def hello() -> Any:
    return "Hello, world!", 200, PLAIN


@app.get("/json")
async def json() -> Any:
    return JSON, 200, JSON_FIELDS


@app.post("/echo")
async def echo_body() -> Any:
    return await request.get_data(), 200, PLAIN


@app.websocket("/ws")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/broadcast")
async def broadcast() -> None:
    own = websocket._get_current_object()  # type: ignore[attr-defined]
    await own.accept()
    connections.add(own)
    try:
        while True:
            message = await own.receive()
            for client in list(connections):
                await client.send(message)
    finally:
        connections.discard(own)


if __name__ == "__main__":
    trio.run(serve, app, settings(Arguments.read()))
