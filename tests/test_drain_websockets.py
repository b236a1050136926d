"""WebSockets in a drain: close codes, queued messages, and the spread of the closes."""

from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp
from humphrey_trio.http import Drain, Timeouts
from tests.support.drain_clients import receive_all_until_closed, receive_until_closed
from tests.support.drain_handlers import DisconnectRecorder, Slow
from tests.support.draining import SMALL, Clock, in_memory, linked, linked_pair, on_sockets
from tests.support.links import Link, each_link


async def test_hard_stop_sends_the_code_of_the_drain(autojump_clock: Clock) -> None:
    """A client whose handler runs until the hard stop gets the Drain's code."""
    shutdown = trio.Event()
    drain = Drain(code=1012, retry_after=2, patience=60)
    app, websocket_app = linked_pair(shutdown, drain, timeouts=Timeouts(drain=10))
    websocket_app.with_message_handler(Slow(inf))
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open_busy()
        stage.drain()
        await trio.sleep(1)
        assert (await receive_until_closed(client)).code == 1012
        await stage.websockets[0].returned.wait()


DRAINS = [Drain(), Drain(code=1012, retry_after=2.5), Drain(code=4000, retry_after=30, spread=2)]


@pytest.mark.parametrize("drain", DRAINS, ids=lambda drain: str(drain.code))
async def test_drain_closes_every_stream(drain: Drain, autojump_clock: Clock) -> None:
    """The app closes every stream with the Drain's code and reason; the disconnect handler runs once for each."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(disconnected)
    websocket_app.with_shutdown(shutdown, drain)
    app = linked(websocket_app)
    async with in_memory(shutdown, app, websocket_app, cancelled=[app]) as stage:
        clients = [await stage.open() for _ in range(4)]
        stage.drain()
        closings = await receive_all_until_closed(clients)
        assert [(closing.code, closing.reason) for closing in closings] == [(drain.code, drain.reason)] * 4
        await stage.websockets[0].returned.wait()
        assert stage.now <= drain.spread
    assert len(disconnected.records) == 4
    for record in disconnected.records.values():
        assert record is not None
        assert (record.initiator, record.code, record.reason) == ("server", drain.code, drain.reason)
        assert record.cause == "the server is shutting down"
    assert websocket_app.statistics().connections == 0


QUEUED = [f"{number:04} {'x' * 1000}" for number in range(150)]


async def send_queued(stream: AsyncStream, state: None) -> None:
    for text in QUEUED:
        await stream.send(text)


async def test_queued_messages_precede_the_close(autojump_clock: Clock) -> None:
    """A slow reader gets all messages that were sent before the drain, in order, and then the Close frame."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown)
    websocket_app.with_connect_handler(send_queued)
    async with in_memory(shutdown, app, websocket_app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        client = await stage.open()
        await trio.testing.wait_all_tasks_blocked()
        assert websocket_app.statistics().queued_messages == len(QUEUED)
        stage.drain()
        messages = []
        for _ in QUEUED:
            await trio.sleep(0.05)  # more than the close timeout in total
            messages.append((await client.receive()).text)
        closing = await receive_until_closed(client)
        assert messages == QUEUED
        assert (closing.messages, closing.code) == ([], 1001)
        await trio.aclose_forcefully(client.stream)


@each_link
async def test_queued_messages_precede_the_close_over_sockets(link: Link) -> None:
    """Over sockets with small kernel buffers, queued messages precede the Close frame too."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown)
    websocket_app.with_connect_handler(send_queued)
    async with on_sockets(shutdown, app, websocket_app, link=link, buffer=SMALL) as stage:
        client = await stage.open()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert websocket_app.statistics().queued_messages > len(QUEUED) / 2
        stage.drain()
        closing = await receive_until_closed(client)
        assert (closing.messages, closing.code) == (QUEUED, 1001)


async def test_closes_are_spread(autojump_clock: Clock) -> None:
    """The closes are spread evenly over ``Drain.spread``; an early disconnect does not move the others."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, Drain(spread=5))
    async with in_memory(shutdown, app, websocket_app) as stage:
        clients = [await stage.open() for _ in range(10)]
        stage.drain()
        await clients[6].close()
        closings = await receive_all_until_closed(clients)
        moments = [round(stage.since(closing.at), 6) for closing in closings]
        assert moments == [0, 0.5, 1, 1.5, 2, 2.5, 0, 3.5, 4, 4.5]
        assert [closing.code for closing in closings] == [1001] * 6 + [1000] + [1001] * 3
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(4.5)
