"""AsyncWebsocketApp: the clients that a broadcast reaches."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, ConnectionClosed, Message
from humphrey_trio._websocket._app import _broadcaster
from humphrey_trio.testing import open_websocket, websocket_client
from tests.support.apps import linked, served_in_memory


async def test_broadcast_reaches_connected_clients(autojump_clock: trio.testing.MockClock) -> None:
    """A broadcast reaches all clients, its sender and one that connects, but not one that disconnects."""
    disconnecting = trio.Event()

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        if stream.request.query == "joining":
            await stream.broadcast("hello from a new client")

    async def on_message(stream: AsyncStream[None], message: Message, state: None) -> None:
        await stream.broadcast(message)

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        if stream.request.query == "guest":
            await stream.broadcast("the guest has left")
            with pytest.raises(ConnectionClosed):
                await stream.send("are you still there?")
            disconnecting.set()

    websocket_app = (
        AsyncWebsocketApp.new_unlinked()
        .with_connect_handler(on_connect)
        .with_message_handler(on_message)
        .with_disconnect_handler(on_disconnect)
    )
    async with (
        linked(websocket_app) as app,
        websocket_client(app) as member,
        websocket_client(app, "/?joining") as joining,
        websocket_client(app, "/?guest") as guest,
    ):
        assert (await joining.receive()).text == "hello from a new client"
        await member.send("hello from a member")
        await trio.testing.wait_all_tasks_blocked()
        await guest.close()
        await disconnecting.wait()
        hellos = ["hello from a new client", "hello from a member", "the guest has left"]
        assert [(await member.receive()).text for _ in range(3)] == hellos
        assert [(await joining.receive()).text for _ in range(2)] == hellos[1:]


async def test_broadcast_does_not_reach_later_clients(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that connects during a broadcast does not get it, but gets the next one."""
    monkeypatch.setattr(_broadcaster, "_TURN", 1)
    broadcasting = False
    came_in_between = False

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        nonlocal came_in_between
        if stream.request.query == "late":
            came_in_between = broadcasting

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect)
    sender = websocket_app.sender()

    async def broadcast() -> None:
        nonlocal broadcasting
        broadcasting = True
        await sender.broadcast("first")
        broadcasting = False

    async with (
        linked(websocket_app) as app,
        served_in_memory(app) as connect,
        trio.open_nursery() as nursery,
    ):
        for _ in range(100):
            await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(broadcast)
        late = await open_websocket(connect(), "/?late")
        await trio.testing.wait_all_tasks_blocked()
        assert came_in_between
        await sender.broadcast("second")
        assert (await late.receive()).text == "second"
