"""Ctrl-C is raised in handlers, so that it can end a busy one, and never inside the library's own work.

trio raises KeyboardInterrupt at the point where the signal arrives, unless that code is protected. Then the main
task gets it. Each test asks trio whether the code is protected.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.lowlevel import currently_ki_protected

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    WebsocketStream,
    websocket_handler,
)
from humphrey_trio._server._socket import SocketTransport
from humphrey_trio._server._tls import TlsTransport
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio.testing import http_client, open_websocket, websocket_client
from tests.support import ANY_PORT
from tests.support.apps import linked, served_in_memory
from tests.support.links import Link, each_link


async def test_http_handlers_can_be_interrupted() -> None:
    """Ctrl-C is raised in HTTP handlers, plain and async, and in the error handler."""
    protected: dict[str, bool] = {}

    def plain(request: Request) -> Response:
        protected["plain"] = currently_ki_protected()
        return Response(200)

    async def asynchronous(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        protected["async"] = currently_ki_protected()
        return Response(200)

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        protected["error"] = currently_ki_protected()
        return Response(status)

    app = App().with_stateless_route("/plain", plain).with_stateless_route("/async", asynchronous)
    async with http_client(app.with_error_handler(on_error)) as client:
        for path in ("/plain", "/async", "/unknown"):
            await client.get(path)
    assert protected == {"plain": False, "async": False, "error": False}


async def test_websocket_handlers_can_be_interrupted() -> None:
    """Ctrl-C is raised in connect, message and disconnect handlers."""
    protected: dict[str, bool] = {}

    async def on_connect(stream: AsyncStream, state: None) -> None:
        protected["connect"] = currently_ki_protected()

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        protected["message"] = currently_ki_protected()

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        protected["disconnect"] = currently_ki_protected()

    app = AsyncWebsocketApp.new_unlinked()
    app.with_connect_handler(on_connect).with_message_handler(on_message).with_disconnect_handler(on_disconnect)
    async with linked(app) as http_app:
        async with websocket_client(http_app) as client:
            await client.send("text")
        await trio.testing.wait_all_tasks_blocked()
    assert protected == {"connect": False, "message": False, "disconnect": False}


async def test_websocket_handler_can_be_interrupted() -> None:
    """Ctrl-C is raised in the coroutine of ``websocket_handler``."""
    protected: list[bool] = []

    async def handler(stream: WebsocketStream, state: None) -> None:
        async for _ in stream:
            protected.append(currently_ki_protected())

    async with websocket_client(App().with_websocket_route("/", websocket_handler(handler))) as client:
        await client.send("text")
    assert protected == [False]


async def test_reading_and_writing_cannot_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C never interrupts a read, a write or the accounting of a message, even one that a handler sends."""
    protected: dict[str, set[bool]] = {"read": set(), "write": set(), "put": set()}

    def look(place: str) -> None:
        protected[place].add(currently_ki_protected())

    async def look_at_read() -> None:
        look("read")

    def stream_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        ours, theirs = trio.testing.memory_stream_pair()
        to_ours = theirs.send_stream
        pump = to_ours.send_all_hook
        assert pump is not None

        async def look_at_write() -> None:
            look("write")
            await pump()

        to_ours.send_all_hook = look_at_write
        theirs.receive_stream.receive_some_hook = look_at_read
        return ours, theirs

    put = Outbox.put

    def look_and_put(outbox: Outbox, frame: bytes) -> None:
        look("put")
        put(outbox, frame)

    monkeypatch.setattr(Outbox, "put", look_and_put)

    async def echo(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)
        await stream.broadcast(message)

    async def echo_once(stream: WebsocketStream, state: None) -> None:
        await stream.send(await stream.receive())

    async with linked(AsyncWebsocketApp.new_unlinked().with_message_handler(echo)) as app:
        app.with_websocket_route("/own", websocket_handler(echo_once))
        async with served_in_memory(app, stream_pair) as connect:
            for path in ("/", "/own"):
                client = await open_websocket(connect(), path)
                await client.send("text")
                assert await client.receive() == Message("text")
                await client.close()
    assert protected == {"read": {True}, "write": {True}, "put": {True}}


@each_link
async def test_sockets_cannot_be_interrupted(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C never interrupts a TLS handshake, a read, a write or a close; handlers are unprotected."""
    protected: dict[str, set[bool]] = {}

    def watch(transport: type[SocketTransport], name: str) -> None:
        method = getattr(transport, name)

        def look(self: SocketTransport, *args: Any) -> Any:
            protected.setdefault(name, set()).add(currently_ki_protected())
            return method(self, *args)

        monkeypatch.setattr(transport, name, look)

    names = ["receive_some", "send_now", "send_eof", "close", *(["handshake"] if link is Link.TLS else [])]
    for name in names:
        watch(SocketTransport if link is Link.PLAIN else TlsTransport, name)

    async def echo(stream: AsyncStream, message: Message, state: None) -> None:
        protected.setdefault("handler", set()).add(currently_ki_protected())
        await stream.broadcast(message)

    async with (
        linked(AsyncWebsocketApp.new_unlinked().with_message_handler(echo)) as app,
        trio.open_nursery() as nursery,
    ):
        (address,) = await nursery.start(link.run(app), ANY_PORT)
        async with await link.connect(address) as stream:
            client = await open_websocket(stream)
            await client.send("text")
            assert await client.receive() == Message("text")
            await client.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert protected.pop("handler") == {False}
    assert protected == {name: {True} for name in names}
