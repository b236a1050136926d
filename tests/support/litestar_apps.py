"""An app of Litestar that uses most of the framework."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from litestar import Litestar, MediaType, Request, Response, Router, WebSocket, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import State, UploadFile
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException, WebSocketDisconnect
from litestar.handlers import websocket_listener, websocket_stream
from litestar.params import FromPath, FromQuery, JSONBody, MultipartBody, URLEncodedBody
from litestar.response import File, ServerSentEvent, ServerSentEventMessage, Stream
from litestar.static_files import create_static_files_router

from .asgi_probes import Crowd, Probe

CROWD = 20


@dataclass
class Book:
    """A body."""

    title: str
    pages: int


class Teapot(Exception):
    """An exception for which the app has a handler."""


@get("/", sync_to_thread=False)
def index() -> str:
    """The quick start of Litestar."""
    return "Hello, world!"


@get("/books/{book_id:int}", name="book", sync_to_thread=False)
def get_book(book_id: FromPath[int], tag: FromQuery[list[str] | None] = None) -> dict[str, Any]:
    """The second step of the quick start."""
    return {"book_id": book_id, "tags": tag}


@post("/books")
async def add_book(data: JSONBody[Book]) -> Book:
    """A body of JSON."""
    return Book(data.title.upper(), data.pages + 1)


@post("/form")
async def form(data: URLEncodedBody[dict[str, str]]) -> dict[str, str]:
    """A form."""
    return data


@post("/upload")
async def upload(data: MultipartBody[UploadFile]) -> dict[str, Any]:
    """A file."""
    return {"name": data.filename, "size": len(await data.read())}


@post("/count")
async def count(request: Request[Any, Any, Any]) -> int:
    """A body that is read while it arrives."""
    return sum([len(piece) async for piece in request.stream()])


@get("/thread", sync_to_thread=True)
def thread() -> bool:
    """A handler that is a plain function, in a thread."""
    return threading.current_thread() is threading.main_thread()


@get("/background")
async def background(state: State) -> Response[str]:
    """A background task."""

    async def later() -> None:
        await state.probe.gate.wait()
        state.probe.note("task ends")

    return Response("accepted", media_type=MediaType.TEXT, background=BackgroundTask(later))


@get("/numbers")
async def numbers(state: State) -> Stream:
    """A stream from an asynchronous generator."""

    async def produce() -> AsyncGenerator[str]:
        yield "one"
        await state.probe.gate.wait()
        yield "two"

    return Stream(produce())


@get("/lines")
async def lines() -> Stream:
    """A stream from a generator."""

    def produce() -> Iterator[str]:
        for number in range(20):
            yield f"{number}\n"

    return Stream(produce())


@get("/endless")
async def endless(state: State) -> Stream:
    """A stream that never ends by itself."""

    async def produce() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield bytes(1000)
                await trio.lowlevel.checkpoint()
        finally:
            state.probe.note("stream ends")

    return Stream(produce())


@get("/events")
async def events(state: State) -> ServerSentEvent:
    """Server-sent events."""

    async def produce() -> AsyncGenerator[ServerSentEventMessage]:
        try:
            for number in range(3):
                yield ServerSentEventMessage(f"{number}", event="tick", id=number)
            await trio.sleep_forever()
        finally:
            state.probe.note("events end")

    return ServerSentEvent(produce())


@get("/finite-events")
async def finite_events() -> ServerSentEvent:
    """Server-sent events that end."""

    async def produce() -> AsyncGenerator[str]:
        yield "one"
        yield "two"

    return ServerSentEvent(produce())


@get("/crowd")
async def crowd(state: State) -> str:
    """Answer when enough requests have arrived."""
    await state.crowd.join()
    return "together"


async def session(state: State) -> AsyncGenerator[str]:
    """A dependency that is closed after the handler."""
    state.probe.note("session opens")
    yield "session"
    state.probe.note("session closes")


@get("/session", dependencies={"it": Provide(session)})
async def use_session(it: NamedDependency[str], state: State) -> str:
    """A dependency with ``yield``."""
    state.probe.note("handler")
    return it


@get("/url")
async def url(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The URLs of a route, of the app and of the request."""
    return {
        "book": str(request.url_for("book", book_id=3)),
        "base": str(request.base_url),
        "url": str(request.url),
    }


@get("/lifespan")
async def lifespan_state(request: Request[Any, Any, Any], state: State) -> dict[str, str]:
    """The state of the lifespan."""
    return {"database": state.database}


@get("/large", media_type=MediaType.TEXT)
async def large() -> str:
    """A response that is compressed."""
    return "text " * 1000


@get("/file")
async def file(state: State) -> File:
    """A download."""
    return File(state.folder / "a.txt", filename="b.txt")


@get("/missing")
async def missing() -> None:
    """An exception with a status."""
    raise NotFoundException("no such book", headers={"X-Error": "there"})


@get("/teapot")
async def teapot() -> None:
    """An exception with a handler."""
    raise Teapot


@get("/fail")
async def fail() -> None:
    """An exception without a handler."""
    raise RuntimeError("the secret cause")


@get("/torn")
async def torn() -> Stream:
    """A stream that fails."""

    async def produce() -> AsyncGenerator[str]:
        yield "one"
        raise RuntimeError("no more")

    return Stream(produce())


@websocket("/ws/{name:str}")
async def chat(socket: WebSocket[Any, Any, Any], name: FromPath[str], state: State) -> None:
    """Echo with a subprotocol."""
    await socket.accept(subprotocols="b", headers={"x-name": name})
    try:
        while True:
            await socket.send_json({"name": name, "got": await socket.receive_json()})
    except WebSocketDisconnect as left:
        state.probe.note(f"left {left.code}")


@websocket_listener("/listener")
async def listener(data: str) -> str:
    """The listener of the documentation."""
    return data.upper()


@websocket_stream("/ticks")
async def ticks(state: State) -> AsyncGenerator[int, None]:
    """A stream of messages. Two tasks of Litestar use the WebSocket before it is open."""
    try:
        for number in range(3):
            yield number
        await trio.sleep_forever()
    finally:
        state.probe.note("ticks end")


@websocket("/refuse")
async def refuse(socket: WebSocket[Any, Any, Any]) -> None:
    """Refuse before the handshake."""
    await socket.close(code=4003)


@websocket("/close")
async def close(socket: WebSocket[Any, Any, Any]) -> None:
    """Close with a code."""
    await socket.accept()
    await socket.close(code=4001, reason="enough")


@websocket("/break-down")
async def break_down(socket: WebSocket[Any, Any, Any]) -> None:
    """Fail after the handshake."""
    await socket.accept()
    raise RuntimeError("the secret cause")


def answer_teapot(request: Request[Any, Any, Any], exception: Teapot) -> Response[str]:
    """The handler of an exception."""
    return Response("short", status_code=418, media_type=MediaType.TEXT)


def litestar_app(probe: Probe, folder: Path) -> Litestar:
    """An app with static files, a lifespan, CORS and compression."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None]:
        probe.note("startup")
        app.state.database = "connected"
        yield
        probe.note("shutdown")

    plain = [index, get_book, add_book, form, upload, count, thread, background, large, file, url, lifespan_state]
    streams = [numbers, lines, endless, events, finite_events, crowd, use_session]
    failing = [missing, teapot, fail, torn]
    sockets = [chat, listener, ticks, refuse, close, break_down]
    return Litestar(
        [
            *plain,
            *streams,
            *failing,
            *sockets,
            Router("/inner", route_handlers=[index]),
            create_static_files_router("/static", [folder]),
        ],
        lifespan=[lifespan],
        state=State({"probe": probe, "crowd": Crowd(CROWD), "folder": folder}),
        exception_handlers={Teapot: answer_teapot},
        cors_config=CORSConfig(allow_origins=["https://a.example"], allow_methods=["PUT"]),
        compression_config=CompressionConfig("gzip", minimum_size=500),
        logging_config=None,
        debug=False,
    )
