"""AsyncWebsocketApp: the sender, from any task, thread or run of trio."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncSender,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support.apps import linked
from tests.support.event_recorder import echo, echo_once


async def test_sender_before_during_and_after_the_run(autojump_clock: trio.testing.MockClock) -> None:
    """A sender reaches connected clients; otherwise ``send`` returns False."""
    ids: list[int] = []

    async def remember(stream: AsyncStream[None], state: None) -> None:
        ids.append(stream.id)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(remember)
    sender = websocket_app.sender()
    await sender.broadcast("no client")
    assert await sender.send(1, "no client") is False

    async with linked(websocket_app) as app:
        async with websocket_client(app) as client:
            await trio.testing.wait_all_tasks_blocked()
            assert await sender.send(ids[0], "to you") is True
            await sender.broadcast(b"to all")
            assert await websocket_app.sender().send(ids[0], Message("sent by another sender"))
            received = [(await client.receive()).data for _ in range(3)]
            assert received == ["to you", b"to all", "sent by another sender"]
            assert await sender.send(max(ids) + 1, "no client") is False
        await trio.testing.wait_all_tasks_blocked()
        assert await sender.send(ids[0], "too late") is False

        async with websocket_client(app):
            await trio.testing.wait_all_tasks_blocked()
    await sender.broadcast("too late")
    assert await sender.send(ids[1], "too late") is False


async def test_send_by_id_to_a_stream_that_is_closing(autojump_clock: trio.testing.MockClock) -> None:
    """``send`` by id to a stream whose Close was sent returns False, even before the client has answered."""
    stream_id: list[int] = []

    async def close(stream: AsyncStream[None], message: Message, state: None) -> None:
        stream_id.append(stream.id)
        await stream.close()

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(close)
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await client.send("close")
        await trio.testing.wait_all_tasks_blocked()
        assert await websocket_app.sender().send(stream_id[0], "too late") is False


async def test_sender_of_many_tasks(autojump_clock: trio.testing.MockClock) -> None:
    """Concurrent tasks that send lose no message, and the messages of each task stay in order."""
    stream_ids: list[int] = []

    async def remember(stream: AsyncStream[None], state: None) -> None:
        stream_ids.append(stream.id)

    websocket_app = AsyncWebsocketApp.new_unlinked(max_outbox_messages=3).with_connect_handler(remember)
    sender = websocket_app.sender()

    async def send_some(task: int) -> None:
        for number in range(50):
            assert await sender.send(stream_ids[0], f"{task} {number}")

    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for task in range(10):
                nursery.start_soon(send_some, task)
            received = [(await client.receive()).text or "" for _ in range(500)]
    for task in range(10):
        assert [text for text in received if text.split()[0] == str(task)] == [f"{task} {n}" for n in range(50)]


@pytest.mark.parametrize("foreign", [False, True])
async def test_sender_from_another_thread(foreign: bool) -> None:
    """A thread sends with ``trio.from_thread.run``; a thread that trio did not start passes the ``trio_token``."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    sender = websocket_app.sender()
    token = trio.lowlevel.current_trio_token() if foreign else None

    def speak() -> None:
        trio.from_thread.run(sender.broadcast, "from a thread", trio_token=token)

    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        if foreign:
            thread = threading.Thread(target=speak)
            thread.start()
            await trio.to_thread.run_sync(thread.join)
        else:
            await trio.to_thread.run_sync(speak)
        assert (await client.receive()).text == "from a thread"


OTHER_RUN: dict[str, Callable[[AsyncSender, AsyncStream[None]], Awaitable[object]]] = {
    "sender.send": lambda sender, stream: sender.send(stream.id, "x"),
    "sender.broadcast": lambda sender, stream: sender.broadcast("x"),
    "sender.publish": lambda sender, stream: sender.publish("topic", "x"),
    "stream.send": lambda sender, stream: stream.send("x"),
    "stream.broadcast": lambda sender, stream: stream.broadcast("x"),
    "stream.publish": lambda sender, stream: stream.publish("topic", "x"),
    "stream.ping": lambda sender, stream: stream.ping(),
    "stream.close": lambda sender, stream: stream.close(),
    "stream.start_soon": lambda sender, stream: at_once(stream.start_soon, trio.sleep_forever),
    "stream.set_deadline": lambda sender, stream: at_once(stream.set_deadline, 1),
}


async def at_once(function: Callable[..., object], *args: object) -> None:
    function(*args)


@pytest.mark.parametrize("call", OTHER_RUN)
async def test_call_from_another_run_of_trio(call: str) -> None:
    """A call in another run of trio is a RuntimeError that says what to do instead, and has no effect."""
    streams: list[AsyncStream[None]] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        streams.append(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(echo)
    sender = websocket_app.sender()
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"belongs to another run of trio: .* trio\.from_thread\.run"):
            await trio.to_thread.run_sync(trio.run, OTHER_RUN[call], sender, streams[0])
        assert websocket_app.statistics().tasks_running == 0
        await echo_once(client, "still here")
        await sender.broadcast("to all")
        assert (await client.receive()).text == "to all"


async def test_hook_of_another_run_of_trio(caplog: pytest.LogCaptureFixture) -> None:
    """A hook whose app runs in another run of trio answers 500, which is logged; the app still serves its own run.

    When the app has ended, the hook answers 503, as in one run.
    """
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    hook = websocket_app.connect_hook()

    async def connect() -> int:
        app = App().with_websocket_route("/", async_websocket_handler(hook))
        with pytest.raises(HandshakeError) as refused:
            async with websocket_client(app):
                pass
        return refused.value.status

    async with linked(websocket_app) as app:
        assert await trio.to_thread.run_sync(trio.run, connect) == 500
        assert "the WebSocket app of this hook belongs to another run of trio: run both apps in one" in caplog.text
        async with websocket_client(app) as client:
            await echo_once(client, "still here")
    assert await trio.to_thread.run_sync(trio.run, connect) == 503


@pytest.mark.parametrize("receiver", ["own reader", "channel"])
async def test_receive_in_another_run_of_trio(receiver: str) -> None:
    """``receive`` in another run of trio is a RuntimeError, too."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)

    async def own(stream: WebsocketStream, state: None) -> None:
        hook.send_nowait(stream)
        await trio.sleep_forever()

    route = websocket_handler(own) if receiver == "own reader" else async_websocket_handler(hook)
    async with websocket_client(App().with_websocket_route("/", route)) as client:
        stream = await streams.receive()
        await client.send("hello")
        with pytest.raises(RuntimeError, match="this stream belongs to another run of trio"):
            await trio.to_thread.run_sync(trio.run, stream.receive)
        assert (await stream.receive()).text == "hello"
        await stream.close()


@pytest.mark.parametrize("bad", [None, 7, ["a"]])
async def test_send_refuses_other_types(bad: Any, autojump_clock: trio.testing.MockClock) -> None:
    """``send`` of what is neither text nor bytes is a TypeError, and affects no client."""
    streams: list[AsyncStream[None]] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        streams.append(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(echo)
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        sender = websocket_app.sender()
        for call in (sender.broadcast, streams[0].broadcast, streams[0].send):
            with pytest.raises(TypeError):
                await call(bad)
        with pytest.raises(TypeError):
            await sender.send(streams[0].id, bad)
        await echo_once(client, "still here")
