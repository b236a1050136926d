"""Types of an application: what type checkers accept and refuse. test_typing.py runs the checkers.

Nothing here is run. A line with an ``ignore`` comment is an error to both checkers; where there is no error, the
comment is one.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any, BinaryIO, assert_type
from uuid import UUID

import trio

from humphrey_trio import (
    App,
    AsyncSender,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Method,
    Request,
    RequestKey,
    Response,
    SetCookie,
    StatusCode,
    SubApp,
    WebsocketStream,
    async_websocket_handler,
    until_signal,
    websocket_handler,
)
from humphrey_trio.http import EventLog, EventSender, ServerSentEvent, UploadedFile, Write
from humphrey_trio.websocket import Upgrade


class Shared:
    """The state of an app."""


class Session:
    """The state of a stream."""

    def __init__(self, stream: WebsocketStream) -> None:
        self.name = stream.request.path


# ------------------------------------------------------------------------------- without any state


async def echo(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.send(message)
    assert_type(stream.state, None)


async def greet(stream: AsyncStream, state: None) -> None:
    await stream.broadcast("text")
    await stream.broadcast(b"bytes")


async def own(stream: WebsocketStream, state: None) -> None:
    async for message in stream:
        assert_type(message, Message)
        await stream.send(message)


async def mistakes_that_are_found(stream: AsyncStream, message: Message, state: None) -> None:
    await stream.subscribe("room")  # type: ignore[func-returns-value, misc]
    await stream.set_deadline(5)  # type: ignore[func-returns-value, misc]
    message.startswith("/")  # type: ignore[attr-defined]
    assert_type(message == "/join", bool)


def page(request: Request, state: None) -> Response:
    return Response(StatusCode.OK, request.path)


def the_first_program() -> None:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    assert_type(websocket_app, AsyncWebsocketApp[None, None])
    assert_type(websocket_app.connect_hook(), trio.MemorySendChannel[WebsocketStream])
    humphrey_app = (
        App()
        .with_stateless_route("/", lambda _: Response(StatusCode.OK, "Hello world!"))
        .with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    )
    assert_type(humphrey_app, App[None])


async def listeners(
    sock: socket.socket, listener: trio.SocketListener, tls: trio.SSLListener[trio.SocketStream]
) -> None:
    with until_signal() as shutdown:
        assert_type(shutdown, trio.Event)
        app = App().with_shutdown(shutdown)
        await app.run("127.0.0.1:8080", sock, listener, unix_mode=0o660)
        await app.run_tls(tls)  # type: ignore[arg-type]
        AsyncWebsocketApp().with_address(sock)


def internally_linked() -> None:
    app = AsyncWebsocketApp().with_address("127.0.0.1:8080").with_connect_handler(greet)
    assert_type(app.with_disconnect_handler(greet), AsyncWebsocketApp[None, None])


def routes_without_state() -> None:
    App().with_route("/", page).with_websocket_route("/ws", websocket_handler(own))
    App().with_path_aware_route("/*", lambda request, state, pattern: Response(200, pattern))


# ------------------------------------------------------------------------------- with the right state


async def shared_page(request: Request, state: Shared) -> Response:
    return Response(200, repr(state))


def shared_path_aware(request: Request, state: Shared, pattern: str) -> Response:
    return Response(200, pattern)


async def shared_own(stream: WebsocketStream, state: Shared) -> None:
    await stream.send(repr(state))


async def shared_upgrade(upgrade: Upgrade, state: Shared) -> Response | None:
    return Response(403)


async def shared_connect(stream: AsyncStream[Session], state: Shared) -> None:
    await stream.send(stream.state.name)


async def shared_message(stream: AsyncStream[Session], message: Message, state: Shared) -> None:
    await stream.send(message)


def right_states(websocket_app: AsyncWebsocketApp[Any, Any]) -> None:
    app = App(Shared())
    assert_type(app, App[Shared])
    assert_type(app.state, Shared)
    app.with_route("/", shared_page).with_path_aware_route("/*", shared_path_aware)
    app.with_websocket_route("/own", websocket_handler(shared_own)).with_websocket_route("/", shared_upgrade)
    # A hook's streams belong to another app; whatever state this one has is right.
    app.with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    app.with_default_subapp(SubApp[Shared]().with_route("/", shared_page))


def right_stream_states() -> None:
    app = AsyncWebsocketApp.new_unlinked(Shared(), stream_state=Session)
    assert_type(app, AsyncWebsocketApp[Shared, Session])
    app.with_connect_handler(shared_connect).with_disconnect_handler(shared_connect)
    assert_type(app.with_message_handler(shared_message), AsyncWebsocketApp[Shared, Session])
    assert_type(AsyncWebsocketApp(Shared(), stream_state=Session), AsyncWebsocketApp[Shared, Session])


# ---------------------------------------------------------------------------------------- parameters


def parameters(request: Request, upgrade: Upgrade) -> None:
    assert_type(request.path_param("id"), str)
    assert_type(request.path_param("id", int), int)
    assert_type(upgrade.request.path_param("id", UUID), UUID)
    assert_type(request.path_params["id"], str)
    request.path_params["id"] = "7"  # type: ignore[index]
    request.path_param("id", 7)  # type: ignore[call-overload]
    assert_type(request.path_param("id", len), int)


USER = RequestKey[Shared]("user")


def requests(request: Request) -> None:
    assert_type(request.query_param("page"), str)
    assert_type(request.query_param("page", int), int)
    assert_type(request.query_param("page", int, default=1), int)
    assert_type(request.query_param("page", int, default=None), int | None)
    assert_type(request.query_param("page", default=None), str | None)
    assert_type(request.query_params.get("page"), str | None)
    assert_type(request.form().files["f"].content, bytes)
    request.query_param("page", int, 1)  # type: ignore[call-overload]
    richer = request.with_value(USER, Shared())
    assert_type(richer[USER], Shared)
    assert_type(request.get(USER), Shared | None)
    assert_type(request.get(USER, 7), Shared | int)
    request.with_value(USER, "ann")  # type: ignore[misc]
    assert_type(request.replace(path="/", headers={"Host": "a"}), Request)
    request.replace(path=1)  # type: ignore[arg-type]
    request.path = "/"  # type: ignore[misc]
    request.content = b""  # type: ignore[misc]


async def streamed(request: Request) -> None:
    async for piece in request.body:
        assert_type(piece, bytes)
    async for part in request.parts():
        assert_type(part.name, str)
        assert_type(await part.read(), bytes)
        assert_type(await part.save("f", limit=1, replace=True), int)
    form = await request.read_form(spool=0, max_text=1, directory="/tmp")
    assert_type(form["a"], str)
    assert_type(dict(form), dict[str, str])
    assert_type(form.files.items(), tuple[tuple[str, UploadedFile], ...])
    assert_type(await form.files["f"].read(), bytes)
    assert_type(await form.files["f"].save("f", replace=True), int)
    assert_type(form.files["f"].open(), BinaryIO)
    assert_type(await request.read(limit=1), bytes)


async def produce(write: Write) -> None:
    await write("x")


async def tell(events: EventSender) -> None:
    await events.send("x", event="tick")
    await events.send_id("1")
    Response.events(EventLog().follow(""))
    log = EventLog(10)
    assert_type(log.append("x"), str)
    async for event in log.after(log.last_id):
        assert_type(event, ServerSentEvent)


async def close(sender: AsyncSender) -> None:
    assert_type(await sender.close(1, 4000, "away"), bool)
    assert_type(await sender.close_subscribers(("user", "ann")), int)
    assert_type(sender.subscribers("room"), frozenset[int])
    sender.value(1)


async def pieces() -> AsyncIterator[str]:
    yield "x"


def responses() -> None:
    assert_type(Response.json([1], status=201, headers={"X": "1"}).with_cookie(SetCookie("a", "1")), Response)
    Response.stream(produce)
    Response.stream(pieces(), length=1)
    Response.stream(pieces)  # type: ignore[arg-type]
    Response.stream(tell)  # type: ignore[arg-type]
    Response.events(tell)
    Response.events(produce)  # type: ignore[arg-type]
    Response.redirect("/", 301)  # type: ignore[call-arg]
    Response(200, {"a": 1})  # type: ignore[arg-type]


def routes_with_options() -> None:
    app = App().with_route("/a", page, methods=("GET", Method.POST), max_body=1)
    assert_type(app.with_stateless_route("/b", lambda _: Response(200), methods=["GET"]), App[None])
    assert_type(SubApp().with_path_aware_route("/c", lambda r, s, p: Response(200), methods={"GET"}), SubApp[None])
    app.with_route("/d", page, ("GET",))  # type: ignore[call-arg]
    app.with_route("/e", page, methods=(1,))  # type: ignore[arg-type]
    app.with_route("/f", page, stream=1)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- with a wrong one


class Other:
    """Another type than that of any state."""


def other_page(request: Request, state: Other) -> Response:
    return Response(200)


def other_path_aware(request: Request, state: Other, pattern: str) -> Response:
    return Response(200)


async def other_own(stream: WebsocketStream, state: Other) -> None: ...


async def other_upgrade(upgrade: Upgrade, state: Other) -> Response | None: ...


async def other_connect(stream: AsyncStream[Session], state: Other) -> None: ...


async def other_message(stream: AsyncStream[Session], message: Message, state: Other) -> None: ...


async def other_stream_connect(stream: AsyncStream[Other], state: Shared) -> None: ...


async def other_stream_message(stream: AsyncStream[Other], message: Message, state: Shared) -> None: ...


def not_async(stream: AsyncStream[Session], state: Shared) -> None: ...


def wrong_states() -> None:
    app = App(Shared())
    app.with_route("/", other_page)  # type: ignore[arg-type]
    app.with_path_aware_route("/", other_path_aware)  # type: ignore[arg-type]
    app.with_websocket_route("/", other_upgrade)  # type: ignore[arg-type]
    own_route = websocket_handler(other_own)
    app.with_websocket_route("/", own_route)  # type: ignore[arg-type]
    app.with_host("example.com", SubApp[Other]())  # type: ignore[arg-type]
    app.with_default_subapp(SubApp[Other]())  # type: ignore[arg-type]
    App().with_route("/", shared_page)  # type: ignore[arg-type]


def wrong_websocket_states() -> None:
    app = AsyncWebsocketApp.new_unlinked(Shared(), stream_state=Session)
    app.with_connect_handler(other_connect)  # type: ignore[arg-type]
    app.with_message_handler(other_message)  # type: ignore[arg-type]
    app.with_disconnect_handler(other_connect)  # type: ignore[arg-type]


def wrong_stream_states() -> None:
    app = AsyncWebsocketApp(Shared(), stream_state=Session)
    app.with_connect_handler(other_stream_connect)  # type: ignore[arg-type]
    app.with_message_handler(other_stream_message)  # type: ignore[arg-type]
    app.with_disconnect_handler(other_stream_connect)  # type: ignore[arg-type]
    AsyncWebsocketApp(stream_state=Shared)  # type: ignore[arg-type]


def wrong_in_other_ways() -> None:
    app = AsyncWebsocketApp(Shared(), stream_state=Session)
    app.with_connect_handler(not_async)  # type: ignore[arg-type]
    App().with_stateless_route("/", lambda _: "text")  # type: ignore[arg-type, return-value]
    AsyncWebsocketApp(max_messages=1)  # type: ignore[call-arg]


async def wrong_messages(stream: AsyncStream) -> None:
    await stream.send(1)  # type: ignore[arg-type]
    await stream.broadcast(None)  # type: ignore[arg-type]
