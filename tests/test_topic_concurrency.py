"""Topics: publications that run at the same time as other calls, wait for their turn, or are cancelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream
from tests.support.spies import spied_offers
from tests.support.steps import cancelled_at
from tests.support.topics import TopicApp
from tests.support.wires import Wire, topic_app_on_wires


@asynccontextmanager
async def publishing(
    text: str, offered: list[str]
) -> AsyncGenerator[tuple[TopicApp, dict[str, Wire], list[AsyncStream[None]], AsyncStream[None]]]:
    """Start to publish to 400 of 401 clients, and run the block when some of them have been offered the text.

    Args:
        text: what is published to the topic "news".
        offered: the list of ``spied_offers``.

    Yields:
        The app, the wires by the names of the clients, the 400 subscribed streams, and the other stream.
    """
    async with topic_app_on_wires(401) as (topic_app, wires), trio.open_nursery() as nursery:
        *streams, late = topic_app.streams.values()
        for stream in streams:
            stream.subscribe("news")
        nursery.start_soon(topic_app.app.sender().publish, "news", text)
        while not offered:
            await trio.lowlevel.checkpoint()
        yield topic_app, wires, streams, late


async def test_subscribe_and_disconnect_during_a_publish(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that unsubscribes or disconnects before its turn, or subscribes later, misses the publication."""
    offered = spied_offers(monkeypatch)
    async with publishing("hello", offered) as (topic_app, wires, streams, late):
        assert len(offered) in (100, 200)
        late.subscribe("news")
        streams[0].unsubscribe("news")  # it has the publication already
        streams[-1].unsubscribe("news")
        wires["398"].reset()
        streams[-3].unsubscribe("news")
        streams[-3].subscribe("news")  # it was subscribed at the beginning, and is subscribed now
        await trio.testing.wait_all_tasks_blocked()
        assert len(set(offered)) == len(offered)
        assert {name for name, wire in wires.items() if wire.texts()} == set(wires) - {"398", "399", "400"}
        assert topic_app.subscribers == {"news": 398}


async def test_last_subscriber_leaves_during_a_publish(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A publication ends when all subscribers have left; a later subscriber gets the next one."""
    offered = spied_offers(monkeypatch)
    async with publishing("first", offered) as (topic_app, wires, streams, late):
        for stream in streams:
            stream.unsubscribe("news")
        assert topic_app.subscribers == {}
        late.subscribe("news")
        await trio.testing.wait_all_tasks_blocked()
        assert len(offered) in (100, 200)
        await topic_app.app.sender().publish("news", "second")
        await trio.testing.wait_all_tasks_blocked()
        assert wires["400"].texts() == ["second"]


async def test_publish_and_broadcast_have_one_order(autojump_clock: trio.testing.MockClock) -> None:
    """Concurrent publications and broadcasts reach all clients in the same order."""
    topics = ("a", "b", "c")
    async with topic_app_on_wires(300) as (topic_app, wires):
        for number, stream in enumerate(topic_app.streams.values()):
            for bit, topic in enumerate(topics):
                if number % 8 & 1 << bit:
                    stream.subscribe(topic)
        sender = topic_app.app.sender()

        async def publish_some(topic: str) -> None:
            for number in range(20):
                if topic == "all":
                    await sender.broadcast(f"{topic} {number}")
                else:
                    await sender.publish(topic, f"{topic} {number}")

        async with trio.open_nursery() as nursery:
            for topic in ("all", *topics):
                nursery.start_soon(publish_some, topic)
        await trio.testing.wait_all_tasks_blocked()
        order = wires["7"].texts()  # it has subscribed to all topics
        assert Counter(text.split()[0] for text in order) == {"all": 20, "a": 20, "b": 20, "c": 20}
        # The tasks did send concurrently, and not one after the other.
        assert len({text.split()[0] for text in order[:20]}) == 4
        for number, (name, wire) in enumerate(wires.items()):
            mine = {"all", *(topic for bit, topic in enumerate(topics) if number % 8 & 1 << bit)}
            assert wire.texts() == [text for text in order if text.split()[0] in mine], name


@pytest.mark.parametrize("full", [False, True], ids=["at once", "when there is room"])
@pytest.mark.parametrize("resumed", [False, True], ids=["blocked", "resumed"])
async def test_cancelled_publish_has_reached_a_prefix(
    resumed: bool, full: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """A publication that is cancelled has reached a prefix of its subscribers; the next one reaches all."""
    wire = partial(Wire, 0) if full else Wire
    async with topic_app_on_wires(350, wire, max_outbox_messages=1) as (topic_app, wires):
        for stream in topic_app.streams.values():
            stream.subscribe("news")
        sender = topic_app.app.sender()
        reached: list[int] = []
        while True:
            number = len(reached)
            await sender.publish("news", "filling")
            went = await cancelled_at(number + 1, lambda: sender.publish("news", "maybe"), resumed=resumed)
            await trio.testing.wait_all_tasks_blocked()
            got = ["maybe" in wire.new_texts() for wire in wires.values()]
            reached.append(sum(got))
            assert got == [True] * reached[-1] + [False] * (350 - reached[-1])
            await sender.publish("news", "surely")
            await trio.testing.wait_all_tasks_blocked()
            assert all(wire.new_texts() == ["surely"] for wire in wires.values())
            if not went:
                break
        assert reached[-1] == 350
        assert len({*reached}) >= 3  # it was cancelled at several steps


@asynccontextmanager
async def other_publication(topic_app: TopicApp) -> AsyncGenerator[None]:
    """Hold the turn of a publication for the block, so that the next ones wait."""
    async with topic_app.app._streams.broadcaster.order:
        yield


@pytest.mark.parametrize("its_turn", [False, True], ids=["waiting", "just having its turn"])
async def test_publish_cancelled_while_it_waits(its_turn: bool) -> None:
    """A publication that is cancelled while it waits for its turn reaches no client, and delays no other."""
    async with TopicApp().served() as topic_app, trio.open_nursery() as nursery:
        client = await topic_app.join("client", "news")
        sender = topic_app.app.sender()
        scope = trio.CancelScope()

        async def publish_in_vain() -> None:
            with scope:
                await sender.publish("news", "in vain")

        async with other_publication(topic_app):
            nursery.start_soon(publish_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sender.publish, "news", "behind it")
            await trio.testing.wait_all_tasks_blocked()
            if not its_turn:
                scope.cancel()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught is not its_turn
        assert await topic_app.received_by(client) == [["in vain"] * its_turn + ["behind it"]]


async def test_publish_reaches_the_subscribers_at_its_turn() -> None:
    """A publication that has waited reaches the clients that are subscribed when its turn comes."""
    async with TopicApp().served() as topic_app, trio.open_nursery() as nursery:
        clients = [
            await topic_app.join("always", "news"),
            await topic_app.join("early", "news"),
            await topic_app.join("late"),
            await topic_app.join("first"),
        ]
        async with other_publication(topic_app):
            for topic in ("news", "new topic"):
                nursery.start_soon(topic_app.app.sender().publish, topic, topic)
            await trio.testing.wait_all_tasks_blocked()
            topic_app.streams["early"].unsubscribe("news")
            topic_app.streams["late"].subscribe("news")
            topic_app.streams["first"].subscribe("new topic")
        await trio.testing.wait_all_tasks_blocked()
        assert await topic_app.received_by(*clients) == [["news"], [], ["news"], ["new topic"]]
