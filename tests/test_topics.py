"""Topics: who gets what is published, in which order and at which cost, and that nothing of who has left stays."""

from __future__ import annotations

import contextlib
import enum
import logging
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    WebsocketStream,
    async_websocket_handler,
)
from humphrey_trio._websocket._app import _broadcaster
from humphrey_trio._websocket._app._topics import Receiver, Topics
from humphrey_trio._websocket._protocol import _encoder
from humphrey_trio._websocket._stream._connection import WebsocketConnection
from humphrey_trio.testing import DirectStream, WebsocketClient, open_websocket
from humphrey_trio.websocket import Deflate, WhenFull
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import linked, served_in_memory
from tests.support.clients import RawClient
from tests.support.spies import spied_frames
from tests.support.steps import cancelled_at
from tests.support.wire import TEXT, client_frame, close_frame, request_bytes, split_frames

#: What ``Meeting.heard`` reads up to.
END = "that was all"


class Meeting:
    """An app whose streams are known by the names with which their clients came.

    Attributes:
        app: publishes, subscribes and so on for whoever says it; ``on_message`` is replaced by some tests.
        streams: those that are or were connected.
        parted: what each had subscribed to, as its disconnect handler sees it.
    """

    def __init__(self, **options: Any) -> None:
        self.streams: dict[str, AsyncStream[None]] = {}
        self.parted: dict[str, frozenset[Hashable]] = {}
        self.app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self._connect)
            .with_disconnect_handler(self._disconnect)
        )
        self._connect_to: Callable[[], trio.abc.Stream] | None = None

    async def _connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams[stream.request.query] = stream

    async def _disconnect(self, stream: AsyncStream[None], state: None) -> None:
        self.parted[stream.request.query] = stream.topics

    @asynccontextmanager
    async def held(
        self, stream_pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair
    ) -> AsyncGenerator[Meeting]:
        """Serve it in memory until the end of the block."""
        async with linked(self.app) as app, served_in_memory(app, stream_pair) as self._connect_to:
            yield self

    async def join(self, name: object, *topics: Hashable) -> WebsocketClient:
        """Connect a client and subscribe it."""
        assert self._connect_to is not None
        client = await open_websocket(self._connect_to(), f"/?{name}")
        await trio.testing.wait_all_tasks_blocked()
        for topic in topics:
            self.streams[str(name)].subscribe(topic)
        return client

    async def heard(self, *clients: WebsocketClient) -> list[list[str | None]]:
        """What each client has got and had not received yet."""
        await self.app.sender().broadcast(END)
        return [[message.text async for message in _up_to_end(client)] for client in clients]

    @property
    def subscribers(self) -> dict[Hashable, int]:
        """How many subscribers each topic has."""
        return dict(self.app.statistics().subscribers)


async def _up_to_end(client: WebsocketClient) -> AsyncGenerator[Message]:
    while (message := await client.receive()).text != END:
        yield message


async def publish_by(way: str, meeting: Meeting, topic: Hashable, text: str) -> None:
    """Publish in one of the ways there are; a handler's is that of the client ``publisher``."""
    sender = meeting.app.sender()
    match way:
        case "sender":
            await sender.publish(topic, text)
        case "thread":
            await trio.to_thread.run_sync(trio.from_thread.run, sender.publish, topic, text)
        case "stream":
            await meeting.streams["publisher"].publish(topic, text)
        case "task":
            meeting.streams["publisher"].start_soon(sender.publish, topic, text)
            await trio.testing.wait_all_tasks_blocked()


# --------------------------------------------------------------------------------------- who gets what


@pytest.mark.parametrize("way", ["sender", "thread", "stream", "task"])
async def test_a_publication_reaches_its_subscribers(way: str) -> None:
    """Wherever it is published from, a message reaches those who have subscribed to its topic, and nobody else."""
    async with Meeting().held() as meeting:
        await meeting.join("publisher")
        clients = [
            await meeting.join("news", "news"),
            await meeting.join("both", "news", "weather"),
            await meeting.join("weather", "weather"),
            await meeting.join("nothing"),
        ]
        await publish_by(way, meeting, "news", "extra")
        await publish_by(way, meeting, "weather", "rain")
        await publish_by(way, meeting, "sports", "nobody has subscribed to this")
        assert await meeting.heard(*clients) == [["extra"], ["extra", "rain"], ["rain"], []]


@pytest.mark.parametrize("kind", ["connect", "message", "disconnect"])
async def test_handlers_publish(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    """A handler of any kind can publish; its own client gets it if it has subscribed and is still there."""

    async def publish(stream: AsyncStream[None], *_: object) -> None:
        if stream.request.query == "subscribed" and not stream.closed:
            stream.subscribe("news")
        await stream.publish("news", stream.request.query)

    meeting = Meeting()
    async with meeting.held():
        listener = await meeting.join("listener", "news")
        getattr(meeting.app, f"with_{kind}_handler")(publish)
        publishers = [await meeting.join(name) for name in ("plain", "subscribed")]
        for publisher in publishers:
            if kind == "message":
                await publisher.send("go")
            elif kind == "disconnect":
                await publisher.close()
            await trio.testing.wait_all_tasks_blocked()
        if kind == "disconnect":
            assert await meeting.heard(listener) == [["plain", "subscribed"]]
        else:
            assert await meeting.heard(listener, *publishers) == [["plain", "subscribed"], [], ["subscribed"]]


async def test_subscribing_twice_is_subscribing() -> None:
    """Whoever subscribes twice gets a message once, and one ``unsubscribe`` ends it."""
    async with Meeting().held() as meeting:
        client = await meeting.join("client", "news", "news")
        sender = meeting.app.sender()
        await sender.publish("news", "once")
        assert meeting.subscribers == {"news": 1}
        meeting.streams["client"].unsubscribe("news")
        await sender.publish("news", "never")
        assert meeting.subscribers == {}
        assert await meeting.heard(client) == [["once"]]


async def test_unsubscribing() -> None:
    """Whoever unsubscribes gets no more of that topic, all of the others, and may subscribe again."""
    async with Meeting().held() as meeting:
        client, other = await meeting.join("client", "news", "weather"), await meeting.join("other", "news")
        stream, sender = meeting.streams["client"], meeting.app.sender()
        for turn in range(3):
            (stream.unsubscribe if turn == 1 else stream.subscribe)("news")
            assert stream.topics == ({"weather"} if turn == 1 else {"news", "weather"})
            await sender.publish("news", f"news {turn}")
            await sender.publish("weather", f"weather {turn}")
        assert await meeting.heard(client, other) == [
            ["news 0", "weather 0", "weather 1", "news 2", "weather 2"],
            ["news 0", "news 1", "news 2"],
        ]


async def test_unsubscribing_from_what_one_has_not() -> None:
    """Unsubscribing from a topic that one has not, or that nobody has, is no error and costs nobody else's."""
    async with Meeting().held() as meeting:
        await meeting.join("client")
        other = await meeting.join("other", "news")
        for topic in ("news", "weather"):
            meeting.streams["client"].unsubscribe(topic)
        meeting.streams["client"].subscribe("sports")
        meeting.streams["client"].unsubscribe("news")
        assert meeting.subscribers == {"news": 1, "sports": 1}
        await meeting.app.sender().publish("news", "extra")
        assert await meeting.heard(other) == [["extra"]]


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
async def test_a_topic_is_anything_hashable(topic: Hashable, equal: Hashable) -> None:
    """Whatever is hashable is a topic, and what is equal to it is the same topic."""
    async with Meeting().held() as meeting:
        client = await meeting.join("client", topic)
        await meeting.join("another", "another")
        assert meeting.streams["client"].topics == {equal}
        await meeting.app.sender().publish(equal, "hello")
        assert meeting.subscribers == {equal: 1, "another": 1}
        meeting.streams["client"].unsubscribe(equal)
        assert meeting.subscribers == {"another": 1}
        assert await meeting.heard(client) == [["hello"]]


@pytest.mark.parametrize("topic", [["list"], {"a", "set"}, ("in a tuple", [])], ids=repr)
async def test_an_unhashable_topic_is_refused(topic: Any) -> None:
    """What is not hashable is a TypeError everywhere; nothing has changed then, and the next call works."""
    subscribed = frozenset({"a", "set"})  # a set would discard it for a set that equals it
    async with Meeting().held() as meeting:
        client = await meeting.join("client", subscribed)
        fresh = await meeting.join("fresh")
        for stream in meeting.streams.values():
            with pytest.raises(TypeError):
                stream.subscribe(topic)
            with pytest.raises(TypeError):
                stream.unsubscribe(topic)
            with pytest.raises(TypeError):
                await stream.publish(topic, "hello")
        with pytest.raises(TypeError):
            await meeting.app.sender().publish(topic, "hello")
        assert meeting.streams["client"].topics == {subscribed}
        assert meeting.streams["fresh"].topics == frozenset()
        assert meeting.subscribers == {subscribed: 1}
        await meeting.app.sender().publish(subscribed, "still")
        assert await meeting.heard(client, fresh) == [["still"], []]
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert meeting.subscribers == {}


@pytest.mark.parametrize("bad", [{"message": 7}, {"when_full": "drop"}], ids=["message", "policy"])
async def test_what_cannot_be_published(bad: dict[str, Any]) -> None:
    """What cannot be sent, and what is no policy, is a TypeError even if nobody would get it; the next goes on."""
    async with Meeting().held() as meeting:
        client = await meeting.join("client", "news")
        for publish in (meeting.app.sender().publish, meeting.streams["client"].publish):
            for topic in ("news", "nobody's"):
                with pytest.raises(TypeError):
                    await publish(**{"topic": topic, "message": "hello", **bad})
        await meeting.app.sender().publish("news", "hello")
        assert await meeting.heard(client) == [["hello"]]


@pytest.mark.parametrize("message", ["text", b"bytes", Message("text"), Message(b"bytes")], ids=repr)
async def test_a_publication_is_any_message(message: str | bytes | Message) -> None:
    """Text arrives as text and bytes as binary, given as they are or as a ``Message``."""
    async with Meeting().held() as meeting:
        client = await meeting.join("client", "news")
        await meeting.app.sender().publish("news", message)
        expected = message if isinstance(message, Message) else Message(message)
        assert await client.receive() == expected


async def test_a_publication_has_the_policies_of_a_broadcast(autojump_clock: trio.testing.MockClock) -> None:
    """A subscriber that is full is closed with 1013, or does not get it if the policy says so; others get it."""
    meeting = Meeting(max_outbox_messages=1)
    async with (
        linked(meeting.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        slow, quick = [await open_websocket(connect(), f"/?{name}") for name in ("slow", "quick")]
        await trio.testing.wait_all_tasks_blocked()
        for stream in meeting.streams.values():
            stream.subscribe("news")
        for number in range(4):
            # The first is on its way, and the second waits.
            await meeting.app.sender().publish("news", str(number), when_full=WhenFull.DROP_NEWEST)
            assert (await quick.receive()).text == str(number)
        stream = meeting.streams["slow"]
        assert not stream.closed
        assert stream.statistics().dropped == 2
        await meeting.app.sender().publish("news", "last")
        assert (await quick.receive()).text == "last"
        assert stream.close_code == 1013
        assert [message.text async for message in slow] == ["0"]


# --------------------------------------------------------------------------------------- what it costs


@asynccontextmanager
async def not_reading(
    meeting: Meeting, count: int, headers: dict[str, str] | None = None
) -> AsyncGenerator[list[AsyncStream[None]]]:
    """Streams whose clients read nothing, so that every frame but the first waits."""
    async with linked(meeting.app) as app:
        app.with_websocket_route(
            "/deflate", async_websocket_handler(meeting.app.connect_hook(), deflate=Deflate(min_size=0))
        )
        async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
            for number in range(count):
                path = f"{'/deflate' if headers else '/'}?{number}"
                await open_websocket(connect(), path, headers=headers or {})
            await trio.testing.wait_all_tasks_blocked()
            yield list(meeting.streams.values())


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_publication_is_encoded_once(
    compressed: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """However many subscribers it has, a message is encoded once, compressed once, and shared by all outboxes."""
    made: dict[str, list[bytes]] = {"encode_message": [], "compress_frame": []}

    def encode(original: Callable[..., bytes], frames: list[bytes], *args: Any) -> bytes:
        frames.append(original(*args))
        return frames[-1]

    for name, frames in made.items():
        monkeypatch.setattr(_encoder, name, partial(encode, getattr(_encoder, name), frames))
    put = spied_frames(monkeypatch)
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"} if compressed else None
    async with not_reading(Meeting(), 20, offer) as streams:
        publisher, *subscribers = streams
        for stream in subscribers:
            stream.subscribe("news")
        for text in ("first", "second"):
            # The first occupies the writers, so that the second waits.
            await publisher.publish("news", text * 20)
            await trio.testing.wait_all_tasks_blocked()
        assert [stream.statistics().queued_messages for stream in subscribers] == [2] * 19
        assert len(made["encode_message"]) == 2
        assert len(made["compress_frame"]) == (2 if compressed else 0)
        assert len(put) == 38
        assert all(frame is made["compress_frame" if compressed else "encode_message"][1] for frame in put[19:])


async def test_a_publication_may_go_uncompressed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """With ``compress=False`` a publication is compressed for nobody."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    meeting = Meeting()
    async with not_reading(meeting, 3, offer) as streams:
        for stream in streams:
            stream.subscribe("news")
        monkeypatch.setattr(_encoder, "compress_frame", None)
        await streams[0].publish("news", "x" * 100, compress=False)
        await meeting.app.sender().publish("news", "x" * 100, compress=False)
        assert all(stream.statistics().messages_sent == 2 for stream in streams)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the streams to which messages for many are offered, in order."""
    names: list[str] = []
    offer = _broadcaster.offer

    def note(connection: WebsocketConnection, *args: Any) -> bool:
        names.append(connection.request.query)
        return offer(connection, *args)

    monkeypatch.setattr(_broadcaster, "offer", note)
    return names


async def test_a_publication_costs_its_subscribers(
    offered: list[str], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Of 500 clients, a publication to 3 looks at 3."""
    async with crowd(500) as (meeting, wires):
        for name in ("7", "77", "333"):
            meeting.streams[name].subscribe("news")
        await meeting.app.sender().publish("news", "hello")
        await trio.testing.wait_all_tasks_blocked()
        assert offered == ["7", "77", "333"]
        assert [name for name, wire in wires.items() if wire.texts()] == offered


async def test_leaving_costs_ones_own_topics(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that leaves takes itself out of its own topics, and looks at none of the 200 others."""
    looked_at: list[Hashable] = []
    unsubscribe = Topics.unsubscribe

    def note(topics: Topics, topic: Hashable, stream: Receiver) -> None:
        looked_at.append(topic)
        unsubscribe(topics, topic, stream)

    async with Meeting().held() as meeting:
        await meeting.join("other", *range(200))
        client = await meeting.join("client", "mine", 7, 77)
        monkeypatch.setattr(Topics, "unsubscribe", note)
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(map(str, looked_at)) == ["7", "77", "mine"]


@pytest.mark.parametrize("subscribers", [0, 1])
async def test_a_tight_loop_of_publish_lets_the_others_run(
    subscribers: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A tight loop of publications, to nobody as to somebody, gives the others turns."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with Meeting().held() as meeting, trio.open_nursery() as nursery:
        await meeting.join("client", *["news"] * subscribers)
        nursery.start_soon(count_turns)
        for _ in range(1000):
            await meeting.app.sender().publish("news", "is anybody there?")
        nursery.cancel_scope.cancel()
    assert turns >= 5


# --------------------------------------------------------------------------------------------- leaving


async def test_a_closed_stream_cannot_subscribe(autojump_clock: trio.testing.MockClock) -> None:
    """Subscribing on a closed stream raises ``ConnectionClosed``, in its disconnect handler too."""
    refused: list[int] = []

    async def disconnect(stream: AsyncStream[None], state: None) -> None:
        for topic in ("news", "weather"):
            with pytest.raises(ConnectionClosed) as closed:
                stream.subscribe(topic)
            refused.append(closed.value.code)
        assert stream.topics == {"news"}
        stream.unsubscribe("news")
        assert stream.topics == frozenset()

    meeting = Meeting()
    meeting.app.with_disconnect_handler(disconnect)
    async with meeting.held():
        client = await meeting.join("client", "news")
        stream = meeting.streams["client"]
        await stream.close(4000)
        with pytest.raises(ConnectionClosed) as closed:
            stream.subscribe("weather")
        assert closed.value.code == 4000
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert refused == [4000, 4000]
        with pytest.raises(ConnectionClosed):
            stream.subscribe("weather")
        assert meeting.subscribers == {}


@pytest.mark.parametrize("end", ["Close", "reset", "server", "1011", "too slow"])
async def test_leaving_ends_ones_own_topics(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """However a client leaves, its own topics end with it and nothing else; its disconnect handler sees them."""

    async def fail(stream: AsyncStream[None], message: Message, state: None) -> None:
        raise RuntimeError("on purpose")

    meeting = Meeting(max_outbox_messages=4)
    meeting.app.with_message_handler(fail)
    async with meeting.held(trio.testing.lockstep_stream_pair):
        leaver = await meeting.join("leaver", "shared", "own")
        stayer = await meeting.join("stayer", "shared", "other")
        stream, sender = meeting.streams["leaver"], meeting.app.sender()
        match end:
            case "Close":
                await leaver.close()
            case "reset":
                await leaver.disconnect()
            case "server":
                await stream.close()
                await leaver.close()
            case "1011":
                await leaver.send("fail!")
                await leaver.close()
            case "too slow":
                for _ in range(6):  # one is being written, four may wait
                    await sender.publish("own", "hello")
                await leaver.close()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.close_code == {"reset": 1006, "1011": 1011, "too slow": 1013}.get(end, 1000)
        assert meeting.parted == {"leaver": {"shared", "own"}}
        assert meeting.subscribers == {"shared": 1, "other": 1}
        assert stream.topics == {"shared", "own"}
        for topic in ("shared", "own", "other"):
            await sender.publish(topic, topic)
            await trio.testing.wait_all_tasks_blocked()
        assert await meeting.heard(stayer) == [["shared", "other"]]


@pytest.mark.parametrize("end", ["app cancelled", "app drained", "HTTP app cancelled", "HTTP app drained"])
async def test_the_end_of_an_app_ends_all_topics(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """However an app ends, and the one that feeds it, no topic stays; disconnect handlers see what there was."""
    meeting = Meeting()
    websocket_app, shutdown = meeting.app, trio.Event()
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    if end.endswith("drained"):
        (websocket_app if end.startswith("app") else app).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as websocket_side, trio.open_nursery() as http_side:
            await websocket_side.start(websocket_app.run)
            await http_side.start(app.run, ANY_PORT)
            clients = []
            for name in ("one", "two"):
                ours, theirs = trio.testing.memory_stream_pair()
                http_side.start_soon(app.serve_stream, theirs)
                clients.append(await open_websocket(ours, f"/?{name}"))
            await trio.testing.wait_all_tasks_blocked()
            for name, stream in meeting.streams.items():
                stream.subscribe("shared")
                stream.subscribe(name)
            assert meeting.subscribers == {"shared": 2, "one": 1, "two": 1}
            match end:
                case "app cancelled":
                    websocket_side.cancel_scope.cancel()
                case "HTTP app cancelled":
                    http_side.cancel_scope.cancel()
                case _:
                    shutdown.set()
            for client in clients:
                with trio.CancelScope(shield=True):
                    assert [message async for message in client] == []
                    assert client.close_code == 1001
                    await trio.sleep(1)
            assert meeting.parted == {"one": {"shared", "one"}, "two": {"shared", "two"}}
            assert meeting.subscribers == {}
            websocket_side.cancel_scope.cancel()
            http_side.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------- the same time


async def test_changes_while_a_publication_is_under_way(
    offered: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever unsubscribes or leaves before its turn does not get it, nor does whoever subscribes meanwhile."""
    async with crowd(401) as (meeting, wires), trio.open_nursery() as nursery:
        *streams, newcomer = meeting.streams.values()
        for stream in streams:
            stream.subscribe("news")
        nursery.start_soon(meeting.app.sender().publish, "news", "hello")
        while not offered:
            await trio.lowlevel.checkpoint()
        assert len(offered) in (100, 200)
        newcomer.subscribe("news")
        streams[0].unsubscribe("news")  # it has it already
        streams[-1].unsubscribe("news")
        wires["398"].reset()
        streams[-3].unsubscribe("news")
        streams[-3].subscribe("news")  # it was subscribed at the beginning, and is now
        await trio.testing.wait_all_tasks_blocked()
        assert len(set(offered)) == len(offered)
        assert {name for name, wire in wires.items() if wire.texts()} == set(wires) - {"398", "399", "400"}
        assert meeting.subscribers == {"news": 398}


async def test_a_topic_whose_last_subscriber_leaves_meanwhile(
    offered: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    """If all unsubscribe while a publication is under way, it ends; who subscribes then gets the next."""
    async with crowd(401) as (meeting, wires), trio.open_nursery() as nursery:
        *streams, newcomer = meeting.streams.values()
        for stream in streams:
            stream.subscribe("news")
        nursery.start_soon(meeting.app.sender().publish, "news", "first")
        while not offered:
            await trio.lowlevel.checkpoint()
        for stream in streams:
            stream.unsubscribe("news")
        assert meeting.subscribers == {}
        newcomer.subscribe("news")
        await trio.testing.wait_all_tasks_blocked()
        assert len(offered) in (100, 200)
        await meeting.app.sender().publish("news", "second")
        await trio.testing.wait_all_tasks_blocked()
        assert wires["400"].texts() == ["second"]


async def test_publications_reach_all_in_one_order(autojump_clock: trio.testing.MockClock) -> None:
    """Tasks that publish on several topics and broadcast at once: all see what they get in the same order."""
    topics = ("a", "b", "c")
    async with crowd(300) as (meeting, wires):
        for number, stream in enumerate(meeting.streams.values()):
            for bit, topic in enumerate(topics):
                if number % 8 & 1 << bit:
                    stream.subscribe(topic)
        sender = meeting.app.sender()

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
        order = wires["7"].texts()  # it has subscribed to everything
        assert Counter(text.split()[0] for text in order) == {"all": 20, "a": 20, "b": 20, "c": 20}
        # They did go out at once, not one task's behind the other's.
        assert len({text.split()[0] for text in order[:20]}) == 4
        for number, (name, wire) in enumerate(wires.items()):
            mine = {"all", *(topic for bit, topic in enumerate(topics) if number % 8 & 1 << bit)}
            assert wire.texts() == [text for text in order if text.split()[0] in mine], name


@pytest.mark.parametrize("full", [False, True], ids=["at once", "when there is room"])
@pytest.mark.parametrize("resumed", [False, True], ids=["blocked", "resumed"])
async def test_a_cancelled_publication_has_reached_a_prefix(
    resumed: bool, full: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Cancelled anywhere, a publication has reached the first so many subscribers, and the next reaches all."""
    wire = partial(Wire, 0) if full else Wire
    async with crowd(350, wire, max_outbox_messages=1) as (meeting, wires):
        for stream in meeting.streams.values():
            stream.subscribe("news")
        sender = meeting.app.sender()
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
        assert len({*reached}) >= 3  # it was cancelled at several places


@asynccontextmanager
async def another_under_way(meeting: Meeting) -> AsyncGenerator[None]:
    """For what is to wait its turn in the block."""
    async with meeting.app._streams.broadcaster.order:
        yield


@pytest.mark.parametrize("its_turn", [False, True], ids=["waiting", "just having its turn"])
async def test_a_publication_that_is_cancelled_while_it_waits(its_turn: bool) -> None:
    """Cancelled while it waits for its turn, one reaches nobody; it never holds up those behind it."""
    async with Meeting().held() as meeting, trio.open_nursery() as nursery:
        client = await meeting.join("client", "news")
        sender = meeting.app.sender()
        scope = trio.CancelScope()

        async def publish_in_vain() -> None:
            with scope:
                await sender.publish("news", "in vain")

        async with another_under_way(meeting):
            nursery.start_soon(publish_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sender.publish, "news", "behind it")
            await trio.testing.wait_all_tasks_blocked()
            if not its_turn:
                scope.cancel()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught is not its_turn
        assert await meeting.heard(client) == [["in vain"] * its_turn + ["behind it"]]


async def test_a_publication_begins_when_its_turn_comes() -> None:
    """One that waits for its turn reaches those who have subscribed when it comes, not those who had before."""
    async with Meeting().held() as meeting, trio.open_nursery() as nursery:
        clients = [
            await meeting.join("always", "news"),
            await meeting.join("early", "news"),
            await meeting.join("late"),
            await meeting.join("first"),
        ]
        async with another_under_way(meeting):
            for topic in ("news", "new topic"):
                nursery.start_soon(meeting.app.sender().publish, topic, topic)
            await trio.testing.wait_all_tasks_blocked()
            meeting.streams["early"].unsubscribe("news")
            meeting.streams["late"].subscribe("news")
            meeting.streams["first"].subscribe("new topic")
        await trio.testing.wait_all_tasks_blocked()
        assert await meeting.heard(*clients) == [["news"], [], ["news"], ["new topic"]]


# ------------------------------------------------------------------------------------ beside a model


class Wire(DirectStream):
    """A connection whose client has no task: what it sends is fed, what it gets is kept.

    Args:
        taken_now: how many bytes it takes at once: None for all of them, as a socket whose client reads; 0 for
            none, as TLS; another number leaves the rest of every longer frame to the writer.
    """

    def __init__(self, taken_now: int | None = None) -> None:
        self._taken_now = taken_now
        self._has_room = False  # because the server has waited for it
        self._received = bytearray()
        self._read = 0
        self._fed = bytearray()
        self._readers = trio.lowlevel.ParkingLot()
        self._notices = 0
        self._ended = self._gone = self._cut = False
        self.closed = False

    # The client's side...

    def feed(self, *data: bytes) -> None:
        """Send bytes to the server."""
        self._fed += b"".join(data)
        self._readers.unpark_all()

    def close_with(self, *frames: bytes) -> None:
        """Send frames and a Close, then an end of file."""
        self.feed(*frames, close_frame(1000))
        self._end()

    def end(self) -> None:
        """Send nothing more, without a Close, and read on."""
        self._cut = True
        self._end()

    def reset(self) -> None:
        """Send nothing more, and read nothing more."""
        self._gone = self._cut = True
        self._end()

    def frames(self) -> list[tuple[int, bytes]]:
        """The frames behind the handshake's answer."""
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") or self._cut
        frames, rest = split_frames(rest)
        assert not rest or self._cut
        return frames

    def texts(self) -> list[str]:
        """The messages."""
        return [payload.decode() for opcode, payload in self.frames() if opcode == TEXT]

    def new_texts(self) -> list[str]:
        """The messages that came since the last call."""
        texts = self.texts()
        new, self._read = texts[self._read :], len(texts)
        return new

    def _end(self) -> None:
        self._ended = True
        self._readers.unpark_all()

    # The server's side...

    def send_nowait(self, data: bytes | memoryview) -> int:
        self._check()
        if self._has_room:
            self._has_room = False
            taken = data[: max(self._taken_now or len(data), 50)]
        else:
            taken = data[: self._taken_now]
        self._received += taken
        return len(taken)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._has_room = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError("the server does not use it")

    def receive_nowait(self, max_bytes: int) -> bytes:
        self._check()
        if not self._fed:
            if not self._ended:
                raise trio.WouldBlock
            return b""
        data = bytes(self._fed[:max_bytes])
        del self._fed[:max_bytes]
        return data

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        notices = self._notices
        while not (self._fed or self._ended or self.closed) and self._notices == notices:
            await self._readers.park()
        if self.closed or self._notices != notices:
            raise trio.ClosedResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError("the server does not use it")

    def send_eof_nowait(self) -> None:
        self._check()

    async def send_eof(self) -> None:
        self._check()

    def notify_closing(self) -> None:
        self._notices += 1
        self._readers.unpark_all()

    def close(self) -> None:
        self.closed = True
        self._readers.unpark_all()

    async def aclose(self) -> None:
        self.close()

    @property
    def hung_up(self) -> bool:
        return self._ended

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        if self._gone:
            raise trio.BrokenResourceError


@asynccontextmanager
async def on_wires(app: App[Any]) -> AsyncGenerator[Callable[[str, Wire], None]]:
    """Serve an app on wires; what it gives connects one, under a name that the stream has as its query."""
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)

        def connect(name: str, wire: Wire) -> None:
            nursery.start_soon(app.serve_stream, wire)
            wire.feed(request_bytes(f"GET /?{name} HTTP/1.1"))

        yield connect
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def crowd(
    count: int, make_wire: Callable[[], Wire] = Wire, **options: Any
) -> AsyncGenerator[tuple[Meeting, dict[str, Wire]]]:
    """A meeting of many clients on wires, named by their numbers, in the order of these."""
    meeting = Meeting(**options)
    wires = {str(number): make_wire() for number in range(count)}
    async with linked(meeting.app) as app, on_wires(app) as connect:
        for name, wire in wires.items():
            connect(name, wire)
        await trio.testing.wait_all_tasks_blocked()
        meeting.streams = {name: meeting.streams[name] for name in wires}
        yield meeting, wires


#: The topic of broadcasts: everybody is subscribed to it from its beginning to its end.
EVERYTHING = "*"


@dataclass(frozen=True)
class Publication:
    """What was published, who has to get it, and who may.

    The two are the same if nobody has subscribed, unsubscribed or left while it was under way.
    """

    topic: str
    due: set[str]
    allowed: set[str]


class Model:
    """Who gets what: whoever has a topic from before a publication to behind it; nobody who did not in between.

    The number of a publication is its text.
    """

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self._subscribed: defaultdict[str, set[str]] = defaultdict(set)
        self._leaving: set[str] = set()
        self._cut: set[str] = set()
        self._under_way: list[Publication] = []

    def subscribe(self, client: str, topic: str) -> None:
        self._subscribed[topic].add(client)
        for publication in self._under_way:
            if publication.topic == topic:
                publication.allowed.add(client)

    def unsubscribe(self, client: str, topic: str) -> None:
        self._subscribed[topic].discard(client)
        for publication in self._under_way:
            if publication.topic == topic:
                publication.due.discard(client)

    def leave(self, client: str, *, cut: bool = False) -> None:
        """It has begun to leave, and nothing is due to it; cut off, it may also miss the last before."""
        self._leaving.add(client)
        if cut:
            self._cut.add(client)
        for publication in self._under_way:
            publication.due.discard(client)

    def forget(self, client: str) -> None:
        """It has left: from now on it may get nothing."""
        for clients in self._subscribed.values():
            clients.discard(client)

    @contextlib.contextmanager
    def publication(self, topic: str) -> Generator[str]:
        """Something is published in the block; its text."""
        clients = self._subscribed[topic]
        publication = Publication(topic, clients - self._leaving, set(clients))
        self.publications.append(publication)
        self._under_way.append(publication)
        try:
            yield str(len(self.publications) - 1)
        except BaseException:
            publication.due.clear()  # it has reached some
            raise
        finally:
            self._under_way.remove(publication)

    def subscribers(self) -> dict[str, int]:
        return {
            topic: len(clients) for topic, clients in self._subscribed.items() if clients and topic != EVERYTHING
        }

    def topics(self, client: str) -> set[str]:
        return {topic for topic, clients in self._subscribed.items() if client in clients and topic != EVERYTHING}

    def check(self, received: Mapping[str, Iterable[str]]) -> None:
        """Compare with what the clients have got."""
        due, allowed = ({client: set[int]() for client in received} for _ in range(2))
        for number, publication in enumerate(self.publications):
            for client in publication.due:
                due[client].add(number)
            for client in publication.allowed:
                allowed[client].add(number)
        for client, texts in received.items():
            got = [int(text) for text in texts]
            assert all(earlier < later for earlier, later in pairwise(got)), (client, got)
            assert allowed[client].issuperset(got), (client, set(got) - allowed[client])
            missing = due[client].difference(got)
            if client in self._cut:
                missing = {number for number in missing if got and number < got[-1]}
            assert not missing, (client, missing)


class Town:
    """An app whose clients subscribe, publish, leave and so on by what they say, beside a model."""

    def __init__(self, **options: Any) -> None:
        self.model = Model()
        self.streams: dict[str, AsyncStream[str]] = {}
        self.app: AsyncWebsocketApp[None, str] = (
            AsyncWebsocketApp.new_unlinked(stream_state=self._join, **options)
            .with_connect_handler(self._connect)
            .with_message_handler(self._message)
            .with_disconnect_handler(self._disconnect)
        )

    def _join(self, stream: WebsocketStream) -> str:
        self.model.subscribe(stream.request.query, EVERYTHING)
        return stream.request.query

    async def _connect(self, stream: AsyncStream[str], state: None) -> None:
        self.streams[stream.state] = stream

    async def _message(self, stream: AsyncStream[str], message: Message, state: None) -> None:
        verb, topic = (message.text or "").split()
        await self.do(stream, verb, topic)

    async def _disconnect(self, stream: AsyncStream[str], state: None) -> None:
        assert stream.topics == self.model.topics(stream.state)
        self.model.forget(stream.state)
        del self.streams[stream.state]

    async def do(self, stream: AsyncStream[str], verb: str, topic: str) -> None:
        """One command, given by the client or from outside."""
        model, client = self.model, stream.state
        match verb:
            case "subscribe":
                with contextlib.suppress(ConnectionClosed):
                    stream.subscribe(topic)
                    model.subscribe(client, topic)
            case "unsubscribe":
                stream.unsubscribe(topic)
                model.unsubscribe(client, topic)
            case "publish":
                with model.publication(topic) as text:
                    await stream.publish(topic, text)
            case "broadcast":
                with model.publication(EVERYTHING) as text:
                    await stream.broadcast(text)
            case "close":
                await stream.close(4000)
            case "fail":
                raise RuntimeError("on purpose")

    def check_subscriptions(self) -> None:
        """Compare what the app says of its subscriptions with the model; for a quiet moment."""
        assert self.app.statistics().subscribers == self.model.subscribers()
        for name, stream in self.streams.items():
            assert stream.topics == self.model.topics(name)


def command(verb: str, topic: object = EVERYTHING) -> bytes:
    """The frame with which a client says it."""
    return client_frame(TEXT, f"{verb} {topic}".encode())


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Handlers fail by the hundred; their tracebacks are not wanted, and cost most of the time."""
    caplog.set_level(logging.CRITICAL, logger="humphrey_trio.websocket")
    return


CLIENTS, TOPICS = 1000, 200


class Traffic:
    """1,000 clients on wires, and what they do at random.

    Args:
        town: the app.
        connect: connects a client.
        seed: of the chances.
        settled: whether everything else has been done when somebody leaves.

    Attributes:
        wires: the connections by their clients' names, those that have ended among them.
    """

    def __init__(self, town: Town, connect: Callable[[str, Wire], None], seed: int, *, settled: bool) -> None:
        self._town = town
        self._connect_wire = connect
        self.random = random.Random(seed)
        self._settled = settled
        self.wires: dict[str, Wire] = {}
        self.here: list[str] = []

    def arrive(self) -> None:
        """A client connects; some have subscribed before anything else happens."""
        name = str(len(self.wires))
        wire = self.wires[name] = Wire(self.random.choice((None, None, None, 0, 3)))
        self.here.append(name)
        self._connect_wire(name, wire)

    def say(self, verb: str) -> None:
        """A client says something."""
        self.wires[self._anybody()].feed(command(verb, self.topic()))

    def topic(self) -> str:
        """Some topics are more popular than others."""
        return str(int(TOPICS * self.random.random() ** 2))

    def depart(self, way: str) -> None:
        """A client leaves."""
        name = self._anybody()
        self.here.remove(name)
        wire, cut = self.wires[name], way in ("reset", "end")
        self._town.model.leave(name, cut=cut and not self._settled)
        if cut:
            (wire.reset if way == "reset" else wire.end)()
        elif way == "Close":
            wire.close_with()
        else:  # the application ends it, and the client answers; whichever is first
            wire.close_with(command(way))

    async def from_outside(self, verb: str) -> None:
        """The program does something for a client, or with the sender."""
        model, sender, topic = self._town.model, self._town.app.sender(), self.topic()
        match verb:
            case "publish":
                with model.publication(topic) as text:
                    await sender.publish(topic, text)
            case "broadcast":
                with model.publication(EVERYTHING) as text:
                    await sender.broadcast(text)
            case _:
                if (stream := self._town.streams.get(self._anybody())) is not None:
                    await self._town.do(stream, verb, topic)

    def _anybody(self) -> str:
        return self.random.choice(self.here)

    def check(self) -> None:
        """Compare what everybody has got with the model."""
        self._town.model.check({name: wire.texts() for name, wire in self.wires.items()})


@asynccontextmanager
async def traffic(seed: int, *, settled: bool, **options: Any) -> AsyncGenerator[tuple[Town, Traffic]]:
    """Traffic in a town, of which nothing is left at the end."""
    town = Town(**options)
    async with linked(town.app) as app, on_wires(app) as connect:
        run = Traffic(town, connect, seed, settled=settled)
        for _ in range(CLIENTS):
            run.arrive()
        await trio.testing.wait_all_tasks_blocked()
        assert town.app.statistics().connections == len(town.streams) == CLIENTS
        yield town, run
        run.check()
        while run.here:
            run.depart("Close")
        await trio.testing.wait_all_tasks_blocked()
        run.check()
        assert town.app.statistics().connections == 0
        assert town.app.statistics().subscribers == {}
        await trio.sleep(2)  # the closing handshakes end
        assert all(wire.closed for wire in run.wires.values())


DEPARTURES = ("Close", "Close", "reset", "end", "close", "fail")


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("seed", range(3))
async def test_everybody_gets_what_the_model_says(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """1,000 clients, 200 topics, random commands one after the other: all get exactly what the model says."""
    async with traffic(seed, settled=True) as (town, run):
        for step in range(3000):
            chance = run.random.random()
            verb = run.random.choices(("subscribe", "unsubscribe", "publish"), (5, 2, 3))[0]
            if chance < 0.02:
                run.depart(run.random.choice(DEPARTURES))
                run.arrive()
            elif chance < 0.03:
                verb = "broadcast"
            if chance >= 0.02:
                if chance < 0.5:
                    await run.from_outside(verb)
                else:
                    run.say(verb)
            await trio.testing.wait_all_tasks_blocked()
            if step % 300 == 0:
                town.check_subscriptions()
                await trio.sleep(0.3)  # the sweeps see nothing to do
        town.check_subscriptions()
        publications = town.model.publications
        assert all(one.due == one.allowed for one in publications)
        # It was not about nothing.
        assert len(publications) > 600
        assert sum(len(one.due) for one in publications if one.topic != EVERYTHING) > 5000


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize(("seed", "concurrency"), [(10, 1), (11, 4)])
async def test_everybody_gets_what_the_model_says_at_once(
    seed: int, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The same with hundreds of commands under way at once: all get what they must, nobody what it must not."""
    async with (
        traffic(seed, settled=False, concurrency=concurrency) as (town, run),
        trio.open_nursery() as nursery,
    ):
        for _ in range(16):
            for _ in range(150):
                chance = run.random.random()
                verb = run.random.choices(("subscribe", "unsubscribe", "publish"), (5, 2, 3))[0]
                if chance < 0.03:
                    run.depart(run.random.choice(DEPARTURES))
                    run.arrive()
                    continue
                if chance < 0.05:
                    verb = "broadcast"
                if chance < 0.4:
                    nursery.start_soon(run.from_outside, verb)
                else:
                    run.say(verb)
                if chance > 0.95:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            town.check_subscriptions()
            await trio.sleep(0.3)
        publications = town.model.publications
        assert len(publications) > 500
        # Some were under way while others subscribed or left, but few.
        doubts = sum(len(one.allowed - one.due) for one in publications)
        assert 0 < doubts < sum(len(one.due) for one in publications) / 10


#: Commands as clients give them; "settle" lets everything come to rest before the next.
VERBS = ("subscribe", "unsubscribe", "publish", "broadcast", "close", "fail", "Close", "end", "settle")
COMMANDS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(VERBS[:4]) | st.sampled_from(VERBS), st.sampled_from("abc")),
    max_size=30,
)


@pytest.mark.usefixtures("quiet_log")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=COMMANDS, turn=st.integers(1, 4), concurrency=st.integers(1, 2))
def test_any_commands_agree_with_the_model(
    commands: list[tuple[int, str, str]], turn: int, concurrency: int
) -> None:
    """Whatever four clients say, and wherever a publication lets others run, all get what the model says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_broadcaster, "_TURN", turn)
        trio.run(obey_all, commands, concurrency, clock=trio.testing.MockClock(autojump_threshold=0))


async def obey_all(commands: list[tuple[int, str, str]], concurrency: int) -> None:
    town = Town(concurrency=concurrency)
    async with linked(town.app) as app, served_in_memory(app) as connect:
        clients = [await RawClient(connect()).open(f"/?{number}") for number in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        here = set(range(4))
        for number, verb, topic in commands:
            client = clients[number]
            if verb == "settle":
                await trio.testing.wait_all_tasks_blocked()
                town.check_subscriptions()
            elif number not in here:
                continue
            elif verb in ("subscribe", "unsubscribe", "publish", "broadcast"):
                await client.send(command(verb, topic))
            else:
                here.discard(number)
                town.model.leave(str(number), cut=verb == "end")
                if verb == "end":
                    assert isinstance(client.stream, trio.StapledStream)
                    await client.stream.send_eof()
                else:
                    await client.send((b"" if verb == "Close" else command(verb)) + close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        town.check_subscriptions()
        for number in here:
            town.model.leave(str(number))
            await clients[number].send(close_frame(1000))
        rests = [await client.rest() for client in clients]
        town.model.check(
            {
                str(number): [payload.decode() for opcode, payload in rest if opcode == TEXT]
                for number, rest in enumerate(rests)
            }
        )
        await trio.testing.wait_all_tasks_blocked()
        assert town.app.statistics().connections == 0
        assert town.app.statistics().subscribers == {}
