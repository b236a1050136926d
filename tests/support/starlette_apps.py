"""An app of Starlette that uses most of the framework."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from .asgi_probes import Crowd, Probe

CROWD = 20


class Teapot(Exception):
    """An exception for which the app has a handler."""


async def homepage(request: Request) -> JSONResponse:
    """The quick start of Starlette."""
    return JSONResponse({"hello": "world"})


async def user(request: Request) -> JSONResponse:
    """Path parameters, the query, fields and cookies."""
    return JSONResponse(
        {
            "id": request.path_params["id"],
            "tags": request.query_params.getlist("tag"),
            "agent": request.headers["user-agent"],
            "cookie": request.cookies.get("session"),
            "client": request.client.host if request.client else None,
        }
    )


async def words(request: Request) -> PlainTextResponse:
    """The rest of a path."""
    return PlainTextResponse(request.path_params["rest"])


async def addresses(request: Request) -> JSONResponse:
    """The URLs that the app makes for its own routes."""
    return JSONResponse(
        {
            "user": str(request.url_for("user", id=3)),
            "inner": str(request.url_for("inner:page", name="x")),
            "static": str(request.url_for("static", path="a.txt")),
            "base": str(request.base_url),
            "url": str(request.url),
            "root_path": request.scope["root_path"],
        }
    )


async def json_back(request: Request) -> Response:
    """A body of JSON, and two cookies."""
    response = JSONResponse(await request.json(), status_code=201)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


async def form(request: Request) -> JSONResponse:
    """Fields and files of a form."""
    async with request.form() as data:
        file = data.get("file")
        content = b"" if file is None or isinstance(file, str) else await file.read()
        return JSONResponse({"name": data["name"], "size": len(content), "end": content[-3:].decode()})


async def count(request: Request) -> PlainTextResponse:
    """A body that is read while it arrives."""
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))


async def read_after_leaving(request: Request) -> PlainTextResponse:
    """A body whose client leaves."""
    probe: Probe = request.app.state.probe
    try:
        async for _ in request.stream():
            probe.note("piece")
    except ClientDisconnect:
        probe.note("left")
        raise
    return PlainTextResponse("complete")


def in_thread(request: Request) -> JSONResponse:
    """A handler that is a plain function."""
    return JSONResponse({"main": threading.current_thread() is threading.main_thread()})


async def later(probe: Probe, text: str) -> None:
    """A background task."""
    probe.note(f"{text} begins")
    await probe.gate.wait()
    probe.note(f"{text} ends")


async def in_background(request: Request) -> Response:
    """Two background tasks, the second in a thread."""
    probe: Probe = request.app.state.probe
    tasks = BackgroundTasks([BackgroundTask(later, probe, "task"), BackgroundTask(probe.note_in_thread, "thread")])
    return PlainTextResponse("accepted", background=tasks)


async def numbers(request: Request) -> StreamingResponse:
    """A stream from an asynchronous generator. Its second piece waits for the test."""
    probe: Probe = request.app.state.probe

    async def produce() -> AsyncIterator[str]:
        yield "one\n"
        await probe.gate.wait()
        yield "two\n"

    return StreamingResponse(produce(), media_type="text/plain")


async def lines(request: Request) -> StreamingResponse:
    """A stream from a generator, which runs in threads."""

    def produce() -> Iterator[bytes]:
        for number in range(20):
            yield b"%d\n" % number

    return StreamingResponse(produce())


async def endless(request: Request) -> StreamingResponse:
    """A stream that sends without a pause and never ends by itself, and a background task."""
    probe: Probe = request.app.state.probe

    async def produce() -> AsyncGenerator[bytes]:
        probe.note("stream begins")
        try:
            while True:
                yield bytes(1000)
                await trio.lowlevel.checkpoint()
        finally:
            probe.note("stream ends")

    return StreamingResponse(produce(), background=BackgroundTask(probe.note_in_thread, "after the stream"))


async def silent(request: Request) -> StreamingResponse:
    """A stream that sends one piece and then waits for ever."""
    probe: Probe = request.app.state.probe

    async def produce() -> AsyncGenerator[bytes]:
        try:
            yield b"one"
            await trio.sleep_forever()
        finally:
            probe.note("stream ends")

    return StreamingResponse(produce())


async def torn(request: Request) -> StreamingResponse:
    """A stream that fails after its first piece."""

    async def produce() -> AsyncIterator[bytes]:
        yield b"one"
        raise ValueError("no more")

    return StreamingResponse(produce())


async def events(request: Request) -> EventSourceResponse:
    """Server-sent events by sse-starlette."""
    probe: Probe = request.app.state.probe

    async def produce() -> AsyncGenerator[dict[str, Any]]:
        try:
            for number in range(3):
                yield {"event": "tick", "id": str(number), "data": f"{number}"}
            await trio.sleep_forever()
        finally:
            probe.note("events end")

    return EventSourceResponse(produce())


async def wait_for_departure(request: Request) -> PlainTextResponse:
    """Ask again and again whether the client has left."""
    probe: Probe = request.app.state.probe
    probe.note("waits")
    while not await request.is_disconnected():  # noqa: ASYNC110  (as the users of the framework do it)
        await anyio.sleep(0.01)
    probe.note("left")
    return PlainTextResponse("not read", background=BackgroundTask(probe.note_in_thread, "after leaving"))


async def crowd(request: Request) -> PlainTextResponse:
    """Answer when enough requests have arrived."""
    await request.app.state.crowd.join()
    return PlainTextResponse("together")


async def fail(request: Request) -> Response:
    """An exception that no handler takes."""
    raise RuntimeError("the secret cause")


async def teapot(request: Request) -> Response:
    """An exception that has a handler."""
    raise Teapot("short")


async def missing(request: Request) -> Response:
    """An exception that has a status."""
    raise HTTPException(404, "no such thing", headers={"X-Reason": "test"})


async def redirect(request: Request) -> Response:
    """A redirect to a route of the app."""
    return RedirectResponse(request.url_for("user", id=7))


async def state(request: Request) -> JSONResponse:
    """The state of the lifespan."""
    return JSONResponse({"database": request.state.database})


async def any_method(request: Request) -> PlainTextResponse:
    """The method, whatever it is."""
    return PlainTextResponse(request.method)


async def inner_page(request: Request) -> PlainTextResponse:
    """A page of a nested mount."""
    return PlainTextResponse(f"{request.path_params['name']} below {request.scope['root_path']}")


async def file(request: Request) -> FileResponse:
    """A file."""
    return FileResponse(request.app.state.folder / "large.bin", filename="caf\u00e9.bin")


async def echo(websocket: WebSocket) -> None:
    """Send messages back, until the client closes."""
    probe: Probe = websocket.app.state.probe
    await websocket.accept(headers=[(b"x-room", websocket.path_params["room"].encode())])
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect as left:
        probe.note(f"closed {left.code} {left.reason}")


async def simple_echo(websocket: WebSocket) -> None:
    """The first WebSocket of the documentations, which does not catch the exception of a disconnect."""
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())


async def false_disconnect(websocket: WebSocket) -> None:
    """Raise the exception of a disconnect while the client is there."""
    await websocket.accept()
    raise WebSocketDisconnect(1000)


async def chat(websocket: WebSocket) -> None:
    """Choose a subprotocol, answer JSON, and close with a code."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None)
    data = await websocket.receive_json()
    await websocket.send_json({"got": data, "state": websocket.state.database, "url": str(websocket.url)})
    await websocket.close(4001, "enough")


async def refuse(websocket: WebSocket) -> None:
    """Refuse before the handshake."""
    await websocket.close(1008)


async def deny(websocket: WebSocket) -> None:
    """Refuse with a response."""
    await websocket.send_denial_response(JSONResponse({"need": "token"}, 401, headers={"X-Deny": "yes"}))


async def break_down(websocket: WebSocket) -> None:
    """Fail after the handshake."""
    await websocket.accept()
    raise RuntimeError("the secret cause")


def starlette_app(probe: Probe, folder: Any = None, middleware: Sequence[Middleware] = ()) -> Starlette:
    """An app.

    Args:
        probe: what the handlers use.
        folder: the directory of the static files, with a file ``large.bin``.
        middleware: the middleware of the app.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        probe.note("startup")
        yield {"database": "connected"}
        probe.note("shutdown")

    async def serve_teapot(request: Request, exception: Exception) -> Response:
        return PlainTextResponse(str(exception), 418)

    app = Starlette(
        lifespan=lifespan,
        middleware=middleware,
        exception_handlers={Teapot: serve_teapot},
        routes=[
            Route("/", homepage),
            Route("/users/{id:int}", user, name="user"),
            Route("/words/{rest:path}", words),
            Route("/addresses", addresses),
            Route("/json", json_back, methods=["POST"]),
            Route("/form", form, methods=["POST"]),
            Route("/count", count, methods=["POST"]),
            Route("/read-after-leaving", read_after_leaving, methods=["POST"]),
            Route("/in-thread", in_thread),
            Route("/in-background", in_background),
            Route("/numbers", numbers),
            Route("/lines", lines),
            Route("/endless", endless),
            Route("/silent", silent),
            Route("/torn", torn),
            Route("/events", events),
            Route("/wait", wait_for_departure),
            Route("/crowd", crowd),
            Route("/fail", fail),
            Route("/teapot", teapot),
            Route("/missing", missing),
            Route("/redirect", redirect),
            Route("/state", state),
            Route("/method", any_method, methods=["PROPFIND", "PUT", "OPTIONS"]),
            Route("/file", file),
            Mount("/inner", routes=[Route("/{name}", inner_page, name="page")], name="inner"),
            Mount("/static", StaticFiles(directory=folder, check_dir=False), name="static"),
            WebSocketRoute("/echo/{room}", echo),
            WebSocketRoute("/simple-echo", simple_echo),
            WebSocketRoute("/false-disconnect", false_disconnect),
            WebSocketRoute("/chat", chat),
            WebSocketRoute("/refuse", refuse),
            WebSocketRoute("/deny", deny),
            WebSocketRoute("/break-down", break_down),
        ],
    )
    app.state.probe = probe
    app.state.folder = folder
    app.state.crowd = Crowd(CROWD)
    return app
