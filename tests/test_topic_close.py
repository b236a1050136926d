"""``subscribers``, ``value``, ``close`` and ``close_subscribers`` of a sender: who is in a room, and removal."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import Accept, App, AsyncStream, AsyncWebsocketApp, Request
from humphrey_trio.testing import websocket_client
from humphrey_trio.websocket import ConnectionClosed
from tests.support.topics import TopicApp

USER = ("user", "ann")


async def test_subscribers() -> None:
    """``subscribers`` has the ids of the open streams of a topic, for ``send`` and ``close``."""
    async with TopicApp().served() as topic_app:
        sender = topic_app.app.sender()
        first, _ = await topic_app.join("first", "news"), await topic_app.join("second")
        stream = topic_app.streams["first"]
        assert sender.subscribers("news") == {stream.id}
        assert sender.subscribers("weather") == frozenset()
        for stream_id in sender.subscribers("news"):
            await sender.send(stream_id, "only you")
        assert (await first.receive()).text == "only you"
        await stream.close()
        assert sender.subscribers("news") == frozenset()


async def test_who_is_in_a_room() -> None:
    """``value`` of a sender is the value that ``accept`` has given an open stream."""
    joined: list[AsyncStream] = []

    async def accept(request: Request, state: None) -> Accept:
        return Accept(value=request.query)

    async def join(stream: AsyncStream, state: None) -> None:
        stream.subscribe("room")
        joined.append(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(join)
    app, sender = App().with_websocket_app("/", websocket_app, accept=accept), websocket_app.sender()
    async with websocket_client(app, "/?ann"), websocket_client(app, "/?bob"):
        await trio.testing.wait_all_tasks_blocked()
        assert {sender.value(one) for one in sender.subscribers("room")} == {"ann", "bob"}
        await joined[0].close()
        assert sender.value(joined[0].id) is None
        assert sender.value(-1) is None
        wrong: Any = joined[1]
        with pytest.raises(TypeError, match="takes the id of a stream"):
            sender.value(wrong)


async def test_close_subscribers() -> None:
    """All streams of a user are closed, in whatever other topics they are, and no other stream."""
    async with TopicApp().served() as topic_app:
        sender = topic_app.app.sender()
        rooms = [await topic_app.join(room, room, USER) for room in ("tea", "coffee")]
        other = await topic_app.join("other", "tea")
        await sender.publish("tea", "the last words")
        assert await sender.close_subscribers(USER, 4003, "banned") == 2
        assert await sender.close_subscribers(USER) == 0
        assert (await rooms[0].receive()).text == "the last words"
        for client in rooms:
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            assert (closed.value.code, closed.value.reason) == (4003, "banned")
        assert await topic_app.received_by(other) == [["the last words"]]


async def test_close_many_subscribers() -> None:
    """Closing many streams executes checkpoints, and a client that unsubscribes meanwhile stays."""
    async with TopicApp().served() as topic_app, trio.open_nursery() as nursery:
        clients = [await topic_app.join(number, "news") for number in range(250)]
        nursery.start_soon(topic_app.app.sender().close_subscribers, "news")
        await trio.lowlevel.checkpoint()
        while not topic_app.streams["0"].closed:
            await trio.lowlevel.checkpoint()
        assert not topic_app.streams["249"].closed
        topic_app.streams["249"].unsubscribe("news")
        await trio.testing.wait_all_tasks_blocked()
        assert [stream.closed for stream in topic_app.streams.values()] == [True] * 249 + [False]
        assert await topic_app.received_by(clients[-1]) == [[]]


async def test_close_one() -> None:
    """``close`` closes one stream by its id, once."""
    async with TopicApp().served() as topic_app:
        client, sender = await topic_app.join("client"), topic_app.app.sender()
        stream_id = topic_app.streams["client"].id
        assert await sender.close(stream_id, 4000, "away") is True
        assert await sender.close(stream_id) is False
        assert await sender.close(stream_id + 1000) is False
        assert [message async for message in client] == []
        assert client.close_code == 4000


async def test_a_handler_that_closes_its_own_topic_may_finish() -> None:
    """A handler that closes its own stream through the sender is not cancelled."""
    topic_app, finished = TopicApp(), trio.Event()

    async def leave(*_: object) -> None:
        await topic_app.app.sender().close_subscribers(USER)
        await trio.testing.wait_all_tasks_blocked()
        finished.set()

    async with topic_app.served():
        topic_app.app.with_message_handler(leave)
        client = await topic_app.join("client", USER)
        await client.send("go")
        assert [message async for message in client] == []
        with trio.fail_after(5):
            await finished.wait()


async def test_invalid_arguments() -> None:
    """A code that may not be sent is an error, also without a client to close."""
    sender = AsyncWebsocketApp.new_unlinked().sender()
    with pytest.raises(ValueError, match="1005 may not be sent"):
        await sender.close(1, 1005)
    with pytest.raises(ValueError, match="at most 123 bytes"):
        await sender.close_subscribers("news", 4000, "x" * 124)
    with pytest.raises(TypeError, match="unhashable"):
        sender.subscribers([])  # type: ignore[arg-type]
