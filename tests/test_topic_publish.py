"""Topics: ``subscribe``, ``unsubscribe`` and ``publish``, and which clients a publication reaches."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, Message
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import WhenFull
from tests.support.apps import linked, served_in_memory
from tests.support.topics import TopicApp


async def publish_by(way: str, topic_app: TopicApp, topic: Hashable, text: str) -> None:
    """Publish with a sender, from a thread, or from a handler or a task of the client ``publisher``."""
    sender = topic_app.app.sender()
    match way:
        case "sender":
            await sender.publish(topic, text)
        case "thread":
            await trio.to_thread.run_sync(trio.from_thread.run, sender.publish, topic, text)
        case "stream":
            await topic_app.streams["publisher"].publish(topic, text)
        case "task":
            topic_app.streams["publisher"].start_soon(sender.publish, topic, text)
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("way", ["sender", "thread", "stream", "task"])
async def test_publish_reaches_the_subscribers(way: str) -> None:
    """A publication reaches the subscribers of its topic, and no other client, whichever task publishes it."""
    async with TopicApp().served() as topic_app:
        await topic_app.join("publisher")
        clients = [
            await topic_app.join("news", "news"),
            await topic_app.join("both", "news", "weather"),
            await topic_app.join("weather", "weather"),
            await topic_app.join("nothing"),
        ]
        await publish_by(way, topic_app, "news", "extra")
        await publish_by(way, topic_app, "weather", "rain")
        await publish_by(way, topic_app, "sports", "a topic without subscribers")
        assert await topic_app.received_by(*clients) == [["extra"], ["extra", "rain"], ["rain"], []]


@pytest.mark.parametrize("kind", ["connect", "message", "disconnect"])
async def test_publish_from_handlers(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    """Every kind of handler can publish; its client receives the message if it is subscribed and connected."""

    async def publish(stream: AsyncStream[None], *_: object) -> None:
        if stream.request.query == "subscribed" and not stream.closed:
            stream.subscribe("news")
        await stream.publish("news", stream.request.query)

    topic_app = TopicApp()
    async with topic_app.served():
        listener = await topic_app.join("listener", "news")
        getattr(topic_app.app, f"with_{kind}_handler")(publish)
        publishers = [await topic_app.join(name) for name in ("plain", "subscribed")]
        for publisher in publishers:
            if kind == "message":
                await publisher.send("go")
            elif kind == "disconnect":
                await publisher.close()
            await trio.testing.wait_all_tasks_blocked()
        if kind == "disconnect":
            assert await topic_app.received_by(listener) == [["plain", "subscribed"]]
        else:
            assert await topic_app.received_by(listener, *publishers) == [
                ["plain", "subscribed"],
                [],
                ["subscribed"],
            ]


async def test_subscribe_twice() -> None:
    """A client that has subscribed twice gets a message once, and one ``unsubscribe`` ends the subscription."""
    async with TopicApp().served() as topic_app:
        client = await topic_app.join("client", "news", "news")
        sender = topic_app.app.sender()
        await sender.publish("news", "once")
        assert topic_app.subscribers == {"news": 1}
        topic_app.streams["client"].unsubscribe("news")
        await sender.publish("news", "never")
        assert topic_app.subscribers == {}
        assert await topic_app.received_by(client) == [["once"]]


async def test_unsubscribe() -> None:
    """``unsubscribe`` ends one subscription, keeps the others, and a client may subscribe again."""
    async with TopicApp().served() as topic_app:
        client, other = await topic_app.join("client", "news", "weather"), await topic_app.join("other", "news")
        stream, sender = topic_app.streams["client"], topic_app.app.sender()
        for turn in range(3):
            (stream.unsubscribe if turn == 1 else stream.subscribe)("news")
            assert stream.topics == ({"weather"} if turn == 1 else {"news", "weather"})
            await sender.publish("news", f"news {turn}")
            await sender.publish("weather", f"weather {turn}")
        assert await topic_app.received_by(client, other) == [
            ["news 0", "weather 0", "weather 1", "news 2", "weather 2"],
            ["news 0", "news 1", "news 2"],
        ]


async def test_unsubscribe_without_a_subscription() -> None:
    """``unsubscribe`` from a topic without a subscription changes nothing."""
    async with TopicApp().served() as topic_app:
        await topic_app.join("client")
        other = await topic_app.join("other", "news")
        for topic in ("news", "weather"):
            topic_app.streams["client"].unsubscribe(topic)
        topic_app.streams["client"].subscribe("sports")
        topic_app.streams["client"].unsubscribe("news")
        assert topic_app.subscribers == {"news": 1, "sports": 1}
        await topic_app.app.sender().publish("news", "extra")
        assert await topic_app.received_by(other) == [["extra"]]


class Color(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Room:
    number: int


@pytest.mark.parametrize(
    ("topic", "equal"),
    [
        ("text", "text"),
        (b"bytes", b"bytes"),
        ("", ""),
        (7, 7),
        (None, None),
        (("room", 7), ("room", 7)),
        (frozenset({1, 2}), frozenset({2, 1})),
        (Color.RED, Color("red")),
        (Room(7), Room(7)),
    ],
    ids=repr,
)
async def test_topic_is_any_hashable(topic: Hashable, equal: Hashable) -> None:
    """Any hashable object is a topic, and equal objects are the same topic."""
    async with TopicApp().served() as topic_app:
        client = await topic_app.join("client", topic)
        await topic_app.join("another", "another")
        assert topic_app.streams["client"].topics == {equal}
        await topic_app.app.sender().publish(equal, "hello")
        assert topic_app.subscribers == {equal: 1, "another": 1}
        topic_app.streams["client"].unsubscribe(equal)
        assert topic_app.subscribers == {"another": 1}
        assert await topic_app.received_by(client) == [["hello"]]


@pytest.mark.parametrize("topic", [["list"], {"a", "set"}, ("in a tuple", [])], ids=repr)
async def test_unhashable_topic_is_a_type_error(topic: Any) -> None:
    """A topic that is not hashable is a TypeError of every method, and changes nothing."""
    subscribed = frozenset({"a", "set"})  # ``set.discard`` would treat it as the frozenset that equals it
    async with TopicApp().served() as topic_app:
        client = await topic_app.join("client", subscribed)
        fresh = await topic_app.join("fresh")
        for stream in topic_app.streams.values():
            with pytest.raises(TypeError):
                stream.subscribe(topic)
            with pytest.raises(TypeError):
                stream.unsubscribe(topic)
            with pytest.raises(TypeError):
                await stream.publish(topic, "hello")
        with pytest.raises(TypeError):
            await topic_app.app.sender().publish(topic, "hello")
        assert topic_app.streams["client"].topics == {subscribed}
        assert topic_app.streams["fresh"].topics == frozenset()
        assert topic_app.subscribers == {subscribed: 1}
        await topic_app.app.sender().publish(subscribed, "still")
        assert await topic_app.received_by(client, fresh) == [["still"], []]
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert topic_app.subscribers == {}


@pytest.mark.parametrize("bad", [{"message": 7}, {"when_full": "drop"}], ids=["message", "policy"])
async def test_publish_refuses_invalid_arguments(bad: dict[str, Any]) -> None:
    """``publish`` refuses what is no message or no policy with a TypeError, even without subscribers."""
    async with TopicApp().served() as topic_app:
        client = await topic_app.join("client", "news")
        for publish in (topic_app.app.sender().publish, topic_app.streams["client"].publish):
            for topic in ("news", "other"):
                with pytest.raises(TypeError):
                    await publish(**{"topic": topic, "message": "hello", **bad})
        await topic_app.app.sender().publish("news", "hello")
        assert await topic_app.received_by(client) == [["hello"]]


@pytest.mark.parametrize("message", ["text", b"bytes", Message("text"), Message(b"bytes")], ids=repr)
async def test_publish_text_bytes_and_messages(message: str | bytes | Message) -> None:
    """``publish`` sends str as text, bytes as binary, and a ``Message`` as what it is."""
    async with TopicApp().served() as topic_app:
        client = await topic_app.join("client", "news")
        await topic_app.app.sender().publish("news", message)
        expected = message if isinstance(message, Message) else Message(message)
        assert await client.receive() == expected


async def test_publish_has_the_policies_of_broadcast(autojump_clock: trio.testing.MockClock) -> None:
    """A policy decides whether a full subscriber is closed with 1013 or misses the message; others get it."""
    topic_app = TopicApp(max_outbox_messages=1)
    async with (
        linked(topic_app.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        slow, quick = [await open_websocket(connect(), f"/?{name}") for name in ("slow", "quick")]
        await trio.testing.wait_all_tasks_blocked()
        for stream in topic_app.streams.values():
            stream.subscribe("news")
        for number in range(4):
            # The first is being written, and the second waits.
            await topic_app.app.sender().publish("news", str(number), when_full=WhenFull.DROP_NEWEST)
            assert (await quick.receive()).text == str(number)
        stream = topic_app.streams["slow"]
        assert not stream.closed
        assert stream.statistics().dropped == 2
        await topic_app.app.sender().publish("news", "last")
        assert (await quick.receive()).text == "last"
        assert stream.close_code == 1013
        assert [message.text async for message in slow] == ["0"]
