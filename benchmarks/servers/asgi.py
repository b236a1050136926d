"""The ASGI applications: a bare one, which hypercorn and uvicorn serve, and those of frameworks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from benchmarks.payload import HELLO, JSON, JSON_FIELDS
from benchmarks.servers.arguments import Arguments

Event = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

connections: set[Send] = set()


def app_of(arguments: Arguments) -> App:
    """Return the app that a server serves."""
    if arguments.app == "starlette":
        return starlette()
    if arguments.app == "fastapi":
        return fastapi()
    return app


def starlette() -> App:
    """Return an app of Starlette."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(HELLO)

    return Starlette(routes=[Route("/", hello)])


def fastapi() -> App:
    """Return an app of FastAPI."""
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/", response_class=PlainTextResponse)
    async def hello() -> str:
        return HELLO.decode()

    return app


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await answer(scope["path"], receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await (echo if scope["path"] == "/ws" else broadcast)(receive, send)
    else:
        await start_and_stop(receive, send)


async def start_and_stop(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


async def answer(path: str, receive: Receive, send: Send) -> None:
    if path == "/json":
        body, headers = JSON, [(name.encode(), value.encode()) for name, value in JSON_FIELDS.items()]
    else:
        body, headers = HELLO if path == "/" else await whole_body(receive), [(b"content-type", b"text/plain")]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def whole_body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    return b"".join(parts)


def reply(event: Event) -> Event:
    return {"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")}


async def echo(receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        await send(reply(event))


async def broadcast(receive: Receive, send: Send) -> None:
    connections.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            message = reply(event)
            for client in list(connections):
                await send_to(client, message)
    finally:
        connections.discard(send)


async def send_to(client: Send, message: Event) -> None:
    try:
        await client(message)
    except Exception:  # each server raises its own exception if the client has disconnected
        connections.discard(client)
