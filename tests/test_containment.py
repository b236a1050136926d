"""Failures stop at their connection, also when a cancelled handler raises them."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import websocket_client
from tests.support import ANY_PORT
from tests.support.apps import served_in_memory
from tests.support.links import Link, each_link
from tests.support.wire import HANDSHAKE_FIELDS, close_frame, request_bytes


async def fail_when_cancelled() -> None:
    """Wait in a nursery of one's own, whose worker fails while it is cancelled."""

    async def worker() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker)
        await trio.sleep_forever()


async def careless(stream: AsyncStream, message: Message, state: None) -> None:
    if message.text == "fail":
        await fail_when_cancelled()
    await stream.send(message)


@asynccontextmanager
async def careless_app() -> AsyncGenerator[tuple[App, trio.CancelScope]]:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(careless)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        yield app, nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def test_a_cancelled_handler_fails(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails while it is cancelled by a disconnect is logged, and affects no other stream."""
    async with careless_app() as (app, _), websocket_client(app) as other:
        async with websocket_client(app) as client:
            await client.send("fail")
        await trio.sleep(2)
        await other.send("still there?")

        assert await other.receive() == Message("still there?")
    assert "cleaning up failed" in caplog.text


async def test_a_handler_fails_while_the_app_is_cancelled(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelling a WebSocket app is no failure, whatever its handlers raise then."""
    async with careless_app() as (app, cancel_scope), served_in_memory(app), websocket_client(app) as client:
        await client.send("fail")
        await trio.testing.wait_all_tasks_blocked()
        cancel_scope.cancel()
    assert "cleaning up failed" in caplog.text


@pytest.mark.parametrize("kind", ["http", "route"])
async def test_a_handler_fails_while_the_server_is_cancelled(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelling an HTTP app is no failure, whatever its handlers raise then."""

    async def handler(request: Request) -> Response:
        await fail_when_cancelled()
        return Response(200)

    async def route(stream: WebsocketStream, state: None) -> None:
        await fail_when_cancelled()

    app = App().with_stateless_route("/", handler).with_websocket_route("/ws", websocket_handler(route))
    async with served_in_memory(app) as connect:
        stream = connect()
        fields = [("Host", "a")]
        if kind == "route":
            fields += [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ]
        target = "/" if kind == "http" else "/ws"
        await stream.send_all(request_bytes(f"GET {target} HTTP/1.1", fields))
        await trio.testing.wait_all_tasks_blocked()
    assert "cleaning up failed" in caplog.text


async def test_a_route_fails_after_its_client_has_left(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The error handler is not asked about a WebSocket that was open, however its route ends."""
    asked: list[int] = []

    def error_handler(status: int, request: Request | None, exception: Exception | None) -> Response:
        asked.append(status)
        return Response(status)

    async def route(stream: WebsocketStream, state: None) -> None:
        await fail_when_cancelled()

    app = App().with_error_handler(error_handler).with_websocket_route("/", websocket_handler(route))
    async with websocket_client(app):
        pass
    await trio.sleep(2)
    assert asked == []
    assert "cleaning up failed" in caplog.text


@each_link
async def test_a_full_read_ahead_hides_no_reset(link: Link, nursery: trio.Nursery) -> None:
    """A client that has sent more than is read ahead and has left is noticed, and its handler cancelled."""
    cancelled = trio.Event()

    async def handler(stream: AsyncStream, message: Message, state: None) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    websocket_app = AsyncWebsocketApp.new_unlinked(max_read_ahead=2).with_message_handler(handler)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    nursery.start_soon(websocket_app.run)
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    async with await link.connect(address) as stream:
        fields = [
            ("Host", "a"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        await stream.send_all(request_bytes("GET / HTTP/1.1", fields))
        await stream.receive_some()
        await stream.send_all(b"\x81\x80\x00\x00\x00\x00" * 18)
    with trio.fail_after(5):
        await cancelled.wait()
    nursery.cancel_scope.cancel()


async def test_ready_replies_do_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    """The reply to a pipelined request does not wait for the handler of the next."""

    async def slow(request: Request) -> Response:
        await trio.sleep(3)
        return Response(200, "slow")

    app = App().with_stateless_route("/slow", slow).with_stateless_route("/*", lambda _: Response(200, "quick"))
    async with served_in_memory(app) as connect:
        stream = connect()
        first, second = (request_bytes(f"GET {path} HTTP/1.1", [("Host", "a")]) for path in ("/", "/slow"))
        await stream.send_all(first + second)
        assert b"quick" in await stream.receive_some()
        assert trio.current_time() == 0
        assert b"slow" in await stream.receive_some()


async def test_close_without_receive() -> None:
    """A stream that only sends and closes ends with its client's Close, not with a deadline."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with trio.open_nursery() as nursery, served_in_memory(app) as connect:

        async def greet() -> None:
            stream = await streams.receive()
            await stream.send("hello")
            await stream.close()

        nursery.start_soon(greet)
        async with websocket_client(app) as client:
            assert [message async for message in client] == [Message("hello")]
            assert client.close_code == 1000
        assert connect is not None


@pytest.mark.parametrize("content", [5, [1, 2], None, {}])
def test_content_must_be_text_or_bytes(content: object) -> None:
    """A number or a list is no content; the error shows how a response is made."""
    make: Callable[..., Response] = Response
    with pytest.raises(TypeError, match="str or bytes"):
        make(200, content)
    with pytest.raises(TypeError, match="str or bytes"):
        make("hello")


def test_hook_must_be_a_channel() -> None:
    """An app given in the place of its hook is refused when the route is made."""
    make: Callable[..., Callable[..., Awaitable[object]]] = async_websocket_handler
    with pytest.raises(TypeError, match="connect_hook"):
        make(AsyncWebsocketApp.new_unlinked())


async def test_a_socket_file_that_cannot_be_removed(
    nursery: trio.Nursery, tmp_path: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A server ends though its socket's file cannot be removed, and says so."""
    folder = tmp_path / "folder"  # type: ignore[operator]
    folder.mkdir()
    path = folder / "socket"
    async with trio.open_nursery() as inner:
        await inner.start(App().run, f"unix:{path}")
        folder.rename(tmp_path / "moved")  # type: ignore[operator]
        folder.write_text("a file where the folder was")
        inner.cancel_scope.cancel()
    assert "cannot remove the socket file" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(str(tmp_path / "moved" / "socket"))  # type: ignore[operator]


async def test_close_with_a_cancelled_receive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A stream whose receiver is cancelled after the close ends with its client's Close, not with a deadline."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with trio.open_nursery() as nursery, served_in_memory(app) as connect:
        client = connect()
        await client.send_all(request_bytes("GET / HTTP/1.1", HANDSHAKE_FIELDS))
        stream = await streams.receive()
        await client.receive_some()
        receiving = trio.CancelScope()

        async def receive() -> None:
            with receiving:
                await stream.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await stream.close()
        await trio.testing.wait_all_tasks_blocked()
        receiving.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(close_frame(1000))
        assert await client.receive_some() == bytes.fromhex("88 02 03 e8")
        assert await client.receive_some() == b""
        assert trio.current_time() == 0
