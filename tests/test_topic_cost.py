"""Topics: the cost of a publication and of a disconnect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, async_websocket_handler
from humphrey_trio._websocket._app._topics import Receiver, Topics
from humphrey_trio._websocket._protocol import _encoder
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import Deflate
from tests.support.apps import linked, served_in_memory
from tests.support.spies import spied_frames, spied_offers
from tests.support.steps import TurnCounter
from tests.support.topics import TopicApp
from tests.support.wires import topic_app_on_wires


@asynccontextmanager
async def not_reading(
    topic_app: TopicApp, count: int, headers: dict[str, str] | None = None
) -> AsyncGenerator[list[AsyncStream[None]]]:
    """Streams whose clients read nothing, so that every frame but the first waits."""
    async with linked(topic_app.app) as app:
        app.with_websocket_route(
            "/deflate", async_websocket_handler(topic_app.app.connect_hook(), deflate=Deflate(min_size=0))
        )
        async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
            for number in range(count):
                path = f"{'/deflate' if headers else '/'}?{number}"
                await open_websocket(connect(), path, headers=headers or {})
            await trio.testing.wait_all_tasks_blocked()
            yield list(topic_app.streams.values())


@pytest.mark.parametrize("compressed", [False, True])
async def test_publish_encodes_once(
    compressed: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A publication is encoded and compressed once, and its frame is shared by all outboxes."""
    made: dict[str, list[bytes]] = {"encode_message": [], "compress_frame": []}

    def encode(original: Callable[..., bytes], frames: list[bytes], *args: Any) -> bytes:
        frames.append(original(*args))
        return frames[-1]

    for name, frames in made.items():
        monkeypatch.setattr(_encoder, name, partial(encode, getattr(_encoder, name), frames))
    put = spied_frames(monkeypatch)
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"} if compressed else None
    async with not_reading(TopicApp(), 20, offer) as streams:
        publisher, *subscribers = streams
        for stream in subscribers:
            stream.subscribe("news")
        for text in ("first", "second"):
            # The first message is being written, so the second waits.
            await publisher.publish("news", text * 20)
            await trio.testing.wait_all_tasks_blocked()
        assert [stream.statistics().queued_messages for stream in subscribers] == [2] * 19
        assert len(made["encode_message"]) == 2
        assert len(made["compress_frame"]) == (2 if compressed else 0)
        assert len(put) == 38
        assert all(frame is made["compress_frame" if compressed else "encode_message"][1] for frame in put[19:])


async def test_publish_uncompressed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """With ``compress=False`` a publication is not compressed for any subscriber."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    topic_app = TopicApp()
    async with not_reading(topic_app, 3, offer) as streams:
        for stream in streams:
            stream.subscribe("news")
        monkeypatch.setattr(_encoder, "compress_frame", None)
        await streams[0].publish("news", "x" * 100, compress=False)
        await topic_app.app.sender().publish("news", "x" * 100, compress=False)
        assert all(stream.statistics().messages_sent == 2 for stream in streams)


async def test_publish_costs_its_subscribers(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A publication to 3 of 500 clients touches 3 streams."""
    offered = spied_offers(monkeypatch)
    async with topic_app_on_wires(500) as (topic_app, wires):
        for name in ("7", "77", "333"):
            topic_app.streams[name].subscribe("news")
        await topic_app.app.sender().publish("news", "hello")
        await trio.testing.wait_all_tasks_blocked()
        assert offered == ["7", "77", "333"]
        assert [name for name, wire in wires.items() if wire.texts()] == offered


async def test_disconnect_costs_the_topics_of_the_stream(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A disconnect removes the stream from its own topics, and touches none of the 200 others."""
    looked_at: list[Hashable] = []
    unsubscribe = Topics.unsubscribe

    def note(topics: Topics, topic: Hashable, stream: Receiver) -> None:
        looked_at.append(topic)
        unsubscribe(topics, topic, stream)

    async with TopicApp().served() as topic_app:
        await topic_app.join("other", *range(200))
        client = await topic_app.join("client", "mine", 7, 77)
        monkeypatch.setattr(Topics, "unsubscribe", note)
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(map(str, looked_at)) == ["7", "77", "mine"]


@pytest.mark.parametrize("subscribers", [0, 1])
async def test_publish_in_a_tight_loop_lets_other_tasks_run(
    subscribers: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A tight loop of ``publish``, with or without subscribers, lets other tasks run."""
    counter = TurnCounter()
    async with TopicApp().served() as topic_app, trio.open_nursery() as nursery:
        await topic_app.join("client", *["news"] * subscribers)
        nursery.start_soon(counter.run)
        for _ in range(1000):
            await topic_app.app.sender().publish("news", "is the server there?")
        nursery.cancel_scope.cancel()
    assert counter.turns >= 5
