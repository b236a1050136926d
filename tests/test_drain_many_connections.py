"""A drain of a thousand connections."""

from __future__ import annotations

import resource
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream
from humphrey_trio.http import Drain, Timeouts
from tests.support.clients import RawClient
from tests.support.drain_clients import is_closed
from tests.support.drain_handlers import DisconnectRecorder
from tests.support.draining import SMALL, AnyWebsocketApp, Clock, Stage, in_memory, linked_pair, on_sockets
from tests.support.links import Link
from tests.support.times import SWEEP
from tests.support.wire import CLOSE, TEXT, close_frame

CONNECTIONS, NOT_READING = 1000, 10

NEWS = [f"news {number} {'x' * 8000}" for number in range(8)]


@contextmanager
def enough_files(count: int) -> Generator[None]:
    """Raise the limit of open files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def drain_many(
    stage: Stage, websocket_app: AnyWebsocketApp, streams: Sequence[AsyncStream[Any]], count: int = CONNECTIONS
) -> dict[int, float]:
    """Open connections, send all the news, and drain. Returns when each client that reads was closed."""
    clients = [await (await stage.raw()).open("/ws") for _ in range(count)]
    not_reading = set(range(0, count, count // NOT_READING))
    while websocket_app.statistics().connections < count:  # the app takes a stream after its 101
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(streams) == count
    for text in NEWS:
        await websocket_app.sender().broadcast(text)
    assert all(stream.statistics().queued_messages > len(NEWS) / 4 for stream in streams)
    closed_at: dict[int, float] = {}

    async def receive_one(number: int, client: RawClient) -> None:
        for text in NEWS:
            assert await client.frame() == (TEXT, text.encode())
        assert await client.frame() == (CLOSE, (1012).to_bytes(2, "big") + b"retry-after=2")
        closed_at[number] = stage.now
        await client.send(close_frame(1012))
        assert await is_closed(client)

    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            if number not in not_reading:
                nursery.start_soon(receive_one, number, client)
        stage.drain()
    assert len(closed_at) == count - NOT_READING
    await stage.http.returned.wait()
    await stage.websockets[0].returned.wait()
    return closed_at


def recorded_pair(
    shutdown: trio.Event, spread: float, timeouts: Timeouts
) -> tuple[App, AnyWebsocketApp, DisconnectRecorder, list[Any]]:
    """A linked pair, its recorder, and the streams of the WebSocket app in order of their connection."""
    app, websocket_app = linked_pair(shutdown, Drain(code=1012, spread=spread, retry_after=2), timeouts=timeouts)
    disconnected, streams = DisconnectRecorder(), list[Any]()

    async def note(stream: AsyncStream[Any], state: Any) -> None:
        streams.append(stream)

    return (
        app,
        websocket_app.with_connect_handler(note).with_disconnect_handler(disconnected),
        disconnected,
        streams,
    )


async def test_drain_of_a_thousand_connections(autojump_clock: Clock) -> None:
    """Each of 990 clients that read gets all queued messages and a Close frame, at its time in the spread.

    Ten clients never read. The drain ends by its deadline, and a disconnect handler runs for every client.
    """
    shutdown = trio.Event()
    app, websocket_app, disconnected, streams = recorded_pair(shutdown, 10, Timeouts())
    async with in_memory(shutdown, app, websocket_app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        moments = await drain_many(stage, websocket_app, streams)
        for number, moment in moments.items():
            assert moment == pytest.approx(10 * number / CONNECTIONS)
        assert stage.now < 10 + 5 + 2 * SWEEP  # the close timeout of the last client that does not read
    assert len(disconnected.records) == CONNECTIONS
    assert set(disconnected.codes) == {1012}
    assert websocket_app.statistics().slow_closes == NOT_READING


@pytest.mark.parametrize(("link", "count"), [(Link.PLAIN, CONNECTIONS), (Link.TLS, 200)], ids=["plain", "tls"])
async def test_drain_of_many_connections_over_sockets(link: Link, count: int) -> None:
    """The same, over sockets and in real time."""
    shutdown = trio.Event()
    app, websocket_app, disconnected, streams = recorded_pair(shutdown, 1, Timeouts(close=4, drain=20))
    with enough_files(2 * count + 200):
        async with on_sockets(shutdown, app, websocket_app, link=link, buffer=SMALL) as stage:
            moments = await drain_many(stage, websocket_app, streams, count)
            assert stage.now < 15
            # A busy machine may delay a close. No close may be early.
            assert all(moment >= number / count for number, moment in moments.items())
    assert len(disconnected.records) == count
    assert set(disconnected.codes) == {1012}
    assert websocket_app.statistics().slow_closes == NOT_READING
