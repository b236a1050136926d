"""AsyncWebsocketApp: options, ``run``, links, and ``max_connections``."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Timeouts, async_websocket_handler
from humphrey_trio.testing import open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError, LinkError
from tests.support import ANY_PORT
from tests.support.apps import linked, served_in_memory
from tests.support.event_recorder import EventRecorder, echo, echo_once
from tests.support.wire import close_frame


async def test_max_connections(autojump_clock: trio.testing.MockClock) -> None:
    """An app serves ``max_connections`` streams at once; the others wait for their turn."""
    recorder = EventRecorder()
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=2).with_message_handler(echo)

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        recorder.entries.append(stream.request.query)

    websocket_app.with_connect_handler(on_connect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery, served_in_memory(app) as connect:
        clients = [await open_websocket(connect(), f"/?{number}") for number in range(5)]
        await nursery.start(websocket_app.run)
        await trio.testing.wait_all_tasks_blocked()
        for number, client in enumerate(clients):
            assert sorted(recorder.entries) == [str(served) for served in range(min(number + 2, 5))]
            await echo_once(client, "my turn")
            await client.close()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("left", ["a task", "a disconnect handler"])
async def test_max_connections_counts_closing_streams(left: str, autojump_clock: trio.testing.MockClock) -> None:
    """A stream counts until its tasks and its disconnect handler have ended."""
    running = most_running = 0

    async def take_time() -> None:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        running -= 1

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        if left == "a task":
            stream.start_soon(take_time)

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        if left == "a disconnect handler":
            await take_time()

    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=2)
    websocket_app.with_connect_handler(on_connect).with_disconnect_handler(on_disconnect)
    async with linked(websocket_app) as app, served_in_memory(app) as connect:
        for number in range(20):
            client = await open_websocket(connect())
            await client.send_raw(close_frame(1000))
            await trio.testing.wait_all_tasks_blocked()
            assert websocket_app.statistics().connections == min(number + 1, 2)
        await trio.sleep(30)
        assert websocket_app.statistics().connections == 0
    assert most_running == 2


@pytest.mark.parametrize("make", [AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
@pytest.mark.parametrize("options", [{"max_connections": 0}, {"max_read_ahead": 0}, {"max_outbox_bytes": 0}])
def test_invalid_options(make: Callable[..., object], options: dict[str, int]) -> None:
    """An option below its least value is a ValueError of the constructor that names it."""
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


async def test_app_runs_once(autojump_clock: trio.testing.MockClock) -> None:
    """A second ``run`` is a RuntimeError, during the first one and after it."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    async with linked(websocket_app):
        with pytest.raises(RuntimeError, match="once"):
            await websocket_app.run()
    with pytest.raises(RuntimeError, match="once"):
        await websocket_app.run()


def test_link_errors() -> None:
    """A link that an app does not have is a LinkError that says what to do."""
    with pytest.raises(LinkError, match="new_unlinked"):
        AsyncWebsocketApp().connect_hook()
    with pytest.raises(LinkError, match="HTTP app"):
        AsyncWebsocketApp.new_unlinked().with_address(ANY_PORT)


async def test_internally_linked_app() -> None:
    """``AsyncWebsocketApp()`` listens at its address, and serves WebSockets on every path, and nothing else."""
    websocket_app = AsyncWebsocketApp().with_address(ANY_PORT).with_message_handler(echo)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            assert address.host == "127.0.0.1"
            for path in ("/", "/any/path?at=all"):
                async with await trio.open_tcp_stream(address.host, address.port) as stream:
                    client = await open_websocket(stream, path)
                    await echo_once(client, "hello")
                    await client.close()
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 426 ")
            nursery.cancel_scope.cancel()


async def test_internally_linked_app_checks_origins() -> None:
    """Pages of other origins may connect to an internally linked app only if ``origins`` has them."""
    websocket_app = AsyncWebsocketApp(origins={"https://friend.example"}).with_address(ANY_PORT)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await open_websocket(stream, headers={"Origin": "https://friend.example"})
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                with pytest.raises(HandshakeError) as refused:
                    await open_websocket(stream, headers={"Origin": "https://foe.example"})
                assert refused.value.status == 403
            nursery.cancel_scope.cancel()


async def test_address_that_cannot_be_listened_on() -> None:
    """An address in use is an OSError of ``run``, an invalid address a ValueError, without a group."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="cannot listen on") as failed:
            await AsyncWebsocketApp().with_address(f"127.0.0.1:{taken.getsockname()[1]}").run()
        assert failed.value.errno == errno.EADDRINUSE
    with pytest.raises(ValueError, match="is not an address"):
        await AsyncWebsocketApp().with_address("somewhere").run()


async def sleep_in_disconnect(stream: AsyncStream[Any], name: str) -> None:
    if name == "disconnect":
        await trio.sleep(100)


@pytest.mark.parametrize("limit", [0.5, 7])
@pytest.mark.parametrize("disconnecting", [False, True])
async def test_cancelled_app_bounds_its_disconnect_handlers(
    disconnecting: bool, limit: float, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A cancelled app gives its disconnect handlers ``Timeouts.disconnect``, including those that already run."""
    recorder = EventRecorder(sleep_in_disconnect)
    websocket_app = recorder.app(timeouts=Timeouts(disconnect=limit))
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with served_in_memory(app) as connect:
        async with trio.open_nursery() as nursery:
            await nursery.start(websocket_app.run)
            client = await open_websocket(connect())
            await recorder.until("connect")
            if disconnecting:
                await client.close()
                await recorder.until("disconnect...")
                await trio.sleep(10)
            cancelled = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - cancelled == pytest.approx(limit)
    assert recorder.entries == ["connect...", "connect", "disconnect...", "disconnect cancelled"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_slow_disconnect_handler(autojump_clock: trio.testing.MockClock) -> None:
    """While its app runs, a disconnect handler may take any time, and delays no other client."""
    recorder = EventRecorder(sleep_in_disconnect)
    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_message_handler(echo).with_disconnect_handler(recorder.disconnect)
    )
    async with linked(websocket_app) as app, websocket_client(app) as other:
        async with websocket_client(app):
            pass
        await recorder.until("disconnect...")
        begun = trio.current_time()
        await echo_once(other, "hello")
        assert trio.current_time() == begun
        await recorder.until("disconnect")
        assert trio.current_time() - begun == pytest.approx(100)
