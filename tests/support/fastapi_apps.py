"""An app of FastAPI that uses most of the framework."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import trio
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.requests import HTTPConnection
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from .asgi_probes import Crowd, Probe

#: More handlers in threads than this run only one after the other, because anyio has a limit of 40 threads.
CROWD = 20


class Item(BaseModel):
    """A body."""

    name: str
    price: float
    tags: list[str] = []


class Unicorn(Exception):
    """An exception for which the app has a handler."""


def probe_of(connection: HTTPConnection) -> Probe:
    """What the handlers use."""
    probe: Probe = connection.app.state.probe
    return probe


TheProbe = Annotated[Probe, Depends(probe_of)]


async def session(probe: TheProbe) -> AsyncGenerator[str]:
    """A dependency that is closed after the handler."""
    probe.note("session opens")
    try:
        yield "session"
    except ValueError:
        probe.note("session fails")
        raise
    finally:
        probe.note("session closes")


def plain_session(probe: TheProbe) -> Generator[str]:
    """The same as a plain generator, which runs in threads."""
    probe.note_in_thread("session opens")
    yield "plain session"
    probe.note_in_thread("session closes")


router = APIRouter()


@router.get("/")
async def root() -> dict[str, str]:
    """The quick start of FastAPI."""
    return {"message": "Hello World"}


@router.get("/items/{item_id}", name="item")
def read_item(item_id: int, q: str | None = None) -> dict[str, Any]:
    """The second step of the quick start, a plain function."""
    return {"item_id": item_id, "q": q}


@router.put("/items/{item_id}")
async def update_item(item_id: int, item: Item, x_token: Annotated[str, Header()] = "none") -> dict[str, Any]:
    """A body with a model, and a header field."""
    return {"id": item_id, "total": item.price * 2, "token": x_token, **item.model_dump()}


@router.get("/search")
async def search(tag: Annotated[list[str], Query()], limit: int = 10) -> dict[str, Any]:
    """A query with a list."""
    return {"tags": tag, "limit": limit}


@router.post("/login")
async def login(name: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict[str, str]:
    """A form."""
    return {"name": name, "password": password}


@router.post("/files")
async def upload(
    small: Annotated[bytes, File()], large: UploadFile, note: Annotated[str, Form()]
) -> dict[str, Any]:
    """A form with files."""
    return {"small": len(small), "large": len(await large.read()), "name": large.filename, "note": note}


@router.get("/thread")
def thread(request: Request) -> dict[str, bool]:
    """A handler that is a plain function."""
    return {"main": threading.current_thread() is threading.main_thread()}


@router.get("/crowd")
def crowd(request: Request) -> str:
    """A plain function that blocks its thread until enough others do."""
    trio.from_thread.run(request.app.state.crowd.join)
    return "together"


@router.post("/notify/{email}")
async def notify(email: str, tasks: BackgroundTasks, probe: TheProbe) -> dict[str, str]:
    """A background task in a thread, and one that waits for the test."""
    tasks.add_task(probe.note_in_thread, f"mail to {email}")
    tasks.add_task(wait_for_gate, probe)
    return {"message": "Notification sent in the background"}


async def wait_for_gate(probe: Probe) -> None:
    """A background task."""
    await probe.gate.wait()
    probe.note("task ends")


@router.get("/session")
async def use_session(it: Annotated[str, Depends(session)], probe: TheProbe) -> str:
    """A dependency with ``yield``."""
    probe.note("handler")
    return it


@router.get("/plain-session")
def use_plain_session(it: Annotated[str, Depends(plain_session)]) -> str:
    """A plain dependency with ``yield``."""
    return it


@router.get("/failing-session")
async def fail_in_session(it: Annotated[str, Depends(session)]) -> str:
    """A handler that fails while it uses a dependency."""
    raise ValueError("the secret cause")


@router.get("/stream")
async def stream(it: Annotated[str, Depends(session)], probe: TheProbe) -> StreamingResponse:
    """A stream that uses a dependency."""

    async def produce() -> AsyncGenerator[str]:
        yield "one"
        await probe.gate.wait()
        yield f" {it}"
        probe.note("stream ends")

    return StreamingResponse(produce())


@router.get("/events", response_class=EventSourceResponse)
async def events(probe: TheProbe, last_event_id: Annotated[int | None, Header()] = None) -> AsyncIterable[Any]:
    """Server-sent events by FastAPI."""
    try:
        for number in range(last_event_id or 0, 3):
            yield ServerSentEvent(data={"n": number}, event="tick", id=str(number))
        await trio.sleep_forever()
    finally:
        probe.note("events end")


@router.get("/wait")
async def wait(request: Request, probe: TheProbe) -> str:
    """Ask again and again whether the client has left."""
    probe.note("waits")
    while not await request.is_disconnected():  # noqa: ASYNC110  (as the users of the framework do it)
        await trio.sleep(0.01)
    probe.note("left")
    return "not read"


@router.get("/missing")
async def missing() -> None:
    """An exception with a status."""
    raise HTTPException(404, {"why": "no such item"}, {"X-Error": "there"})


@router.get("/unicorn")
async def unicorn() -> None:
    """An exception with a handler."""
    raise Unicorn


@router.get("/fail")
async def fail() -> None:
    """An exception without a handler."""
    raise RuntimeError("the secret cause")


@router.get("/state")
async def state(request: Request) -> str:
    """The state of the lifespan."""
    model: str = request.state.model
    return model


@router.get("/url")
async def url(request: Request) -> str:
    """The URL of a route."""
    return str(request.url_for("item", item_id=3))


async def token(websocket: WebSocket, token: str | None = None) -> str:
    """A dependency of a WebSocket."""
    if token is None:
        raise WebSocketException(1008, "a token is needed")
    return token


@router.websocket("/ws/{client_id}")
async def websocket_endpoint(
    websocket: WebSocket, client_id: int, token: Annotated[str, Depends(token)], probe: TheProbe
) -> None:
    """The chat of the documentation, for one client."""
    await websocket.accept()
    try:
        while True:
            text = await websocket.receive_text()
            await websocket.send_text(f"Client #{client_id} with {token} says: {text}")
    except WebSocketDisconnect as left:
        probe.note(f"left {left.code}")


@router.websocket("/late")
async def refuse_late(websocket: WebSocket) -> None:
    """Close after the handshake by an exception."""
    await websocket.accept()
    raise WebSocketException(1008, "too late")


def plain_app(probe: Probe) -> FastAPI:
    """An app without anything but its routes."""
    app = FastAPI()
    app.state.probe = probe
    app.include_router(router)
    return app


def fastapi_app(probe: Probe) -> FastAPI:
    """An app with a sub-application, a middleware, a lifespan and exception handlers."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        probe.note("startup")
        yield {"model": "loaded"}
        probe.note("shutdown")

    app = FastAPI(title="Items", lifespan=lifespan)
    app.state.probe = probe
    app.state.crowd = Crowd(CROWD)
    app.include_router(router)

    @app.middleware("http")
    async def add_time(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Process-Time"] = str(time.perf_counter() - start)
        return response

    @app.exception_handler(Unicorn)
    async def answer_unicorn(request: Request, exception: Unicorn) -> PlainTextResponse:
        return PlainTextResponse("a unicorn", 418)

    inner = FastAPI(title="Inner")

    @inner.get("/sub")
    def sub() -> dict[str, str]:
        return {"message": "Hello World from sub API"}

    app.mount("/subapi", inner)
    return app
