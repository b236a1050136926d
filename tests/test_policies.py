"""Slow clients: what a policy drops, what it never drops, and that everything is counted."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import CloseRecord, Deflate, KeepLatest, StreamStatistics, WhenFull
from tests.support import PATIENCE
from tests.support.apps import linked, served_in_memory
from tests.support.clients import RawClient
from tests.support.wire import BINARY, CLOSE, TEXT, client_frame

CLOSING, NEWEST, OLDEST = WhenFull.CLOSE, WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST
LATEST = KeepLatest("key")

Policy = WhenFull | KeepLatest
Connect = Callable[[], trio.abc.Stream]
#: A broadcast or a publication: a message and its options.
Give = Callable[..., Awaitable[None]]

TOPIC = "topic"


class Room:
    """An app, and the streams of its clients in the order in which they came; all subscribe to one topic.

    Attributes:
        records: how the streams ended that have ended.
    """

    def __init__(self, **options: Any) -> None:
        self.streams: list[AsyncStream] = []
        self.records: list[CloseRecord | None] = []
        self.app = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self._connected)
            .with_disconnect_handler(self._left)
        )
        self.sender = self.app.sender()

    async def _connected(self, stream: AsyncStream, state: None) -> None:
        stream.subscribe(TOPIC)
        self.streams.append(stream)

    async def _left(self, stream: AsyncStream, state: None) -> None:
        self.records.append(stream.close_record)

    @asynccontextmanager
    async def served(self, deflate: Deflate | None = None) -> AsyncGenerator[Connect]:
        """Serve clients whose messages stay in the outbox until they read; the block's end is theirs."""
        app = App().with_websocket_route("/", async_websocket_handler(self.app.connect_hook(), deflate=deflate))
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.app.run)
                async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
                    ends: list[trio.abc.Stream] = []

                    def connect_and_remember() -> trio.abc.Stream:
                        ends.append(connect())
                        return ends[-1]

                    yield connect_and_remember
                    # Else every client that does not read would get its time to hear the last words.
                    for end in ends:
                        await trio.aclose_forcefully(end)
                nursery.cancel_scope.cancel()

    async def enter(self, connect: Connect) -> tuple[RawClient, AsyncStream]:
        """A client that does not read, and its stream."""
        client = await RawClient(connect()).open()
        await trio.testing.wait_all_tasks_blocked()
        return client, self.streams[-1]


async def give_all(give: Give, texts: list[str], policy: Policy) -> None:
    """Give one text after the other; whoever reads gets each before the next."""
    for text in texts:
        await give(text, when_full=policy)
        await trio.testing.wait_all_tasks_blocked()


async def read_texts(client: RawClient, until: str) -> list[str]:
    """What a client reads at last: the texts up to a last one."""
    texts: list[str] = []
    while texts[-1:] != [until]:
        opcode, payload = await client.frame()
        assert opcode == TEXT, (texts, payload)
        texts.append(payload.decode())
    return texts


async def read_to_close(client: RawClient) -> tuple[list[str], int]:
    """What a client reads at last that is closed: the texts, and the code behind them."""
    texts: list[str] = []
    while (frame := await client.frame())[0] == TEXT:
        texts.append(frame[1].decode())
    assert frame[0] == CLOSE
    return texts, int.from_bytes(frame[1][:2], "big")


def numbers(*some: int) -> list[str]:
    """Texts of one size."""
    return [f"{number:02}" for number in some]


#: A frame of such a text has so many bytes.
SIZE = 4

# ------------------------------------------------------------------------------------ what a slow client gets

#: The same bound twice: one frame is being written, and three wait behind it.
BOUNDS = {"messages": {"max_outbox_messages": 3}, "bytes": {"max_outbox_bytes": 4 * SIZE}}

WAYS: dict[str, Callable[[Room], Give]] = {
    "sender.broadcast": lambda room: room.sender.broadcast,
    "sender.publish": lambda room: partial(room.sender.publish, TOPIC),
    "stream.broadcast": lambda room: room.streams[0].broadcast,
    "stream.publish": lambda room: partial(room.streams[0].publish, TOPIC),
}


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (NEWEST, numbers(0, 1, 2, 3)),
        (OLDEST, numbers(0, 5, 6, 7)),
        (LATEST, numbers(0, 7)),
    ],
    ids=["newest", "oldest", "latest"],
)
async def test_what_a_slow_client_gets(policy: Policy, kept: list[str], way: str, bounds: str) -> None:
    """A slow client gets what its policy keeps, exactly and in order, and stays; who reads gets everything."""
    room = Room(**BOUNDS[bounds])
    everything = numbers(*range(8))
    async with room.served() as connect, trio.open_nursery() as nursery:
        slow, stream = await room.enter(connect)
        quick = [(await room.enter(connect))[0] for _ in range(3)]
        read = {client: list[str]() for client in quick}

        async def read_everything(client: RawClient) -> None:
            read[client] = await read_texts(client, "the end")

        for client in quick:
            nursery.start_soon(read_everything, client)
        await give_all(WAYS[way](room), everything, policy)
        assert stream.statistics().queued_messages == len(kept)
        assert await read_texts(slow, kept[-1]) == kept
        await trio.testing.wait_all_tasks_blocked()
        assert (stream.closed, stream.statistics().queued_messages) == (False, 0)
        await room.sender.broadcast("the end")
        assert await read_texts(slow, "the end") == ["the end"]
        await trio.testing.wait_all_tasks_blocked()
        assert list(read.values()) == [[*everything, "the end"]] * 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"when_full": CLOSING}], ids=["by default", "said"])
async def test_a_slow_client_is_closed(options: dict[str, Policy], way: str, bounds: str) -> None:
    """Without another policy a slow client gets what had begun and 1013; who reads gets everything."""
    room = Room(**BOUNDS[bounds])
    everything = numbers(*range(8))
    async with room.served() as connect:
        slow, stream = await room.enter(connect)
        quick, _ = await room.enter(connect)
        give = WAYS[way](room)
        read = []
        for text in everything:
            await give(text, **options)
            read.append((await quick.frame())[1].decode())
            assert stream.close_code == (None if text <= "03" else 1013)
        assert read == everything
        assert await read_to_close(slow) == (["00"], 1013)
        assert stream.close_reason == "too slow"


EVERY = pytest.mark.parametrize(
    "policy", [CLOSING, NEWEST, OLDEST, LATEST], ids=["close", "newest", "oldest", "latest"]
)


@EVERY
@pytest.mark.parametrize("bounds", BOUNDS)
async def test_nothing_is_dropped_while_there_is_room(policy: Policy, bounds: str) -> None:
    """Up to its bound an outbox keeps every message, those with the same key too."""
    room = Room(**BOUNDS[bounds])
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        for _ in range(2):
            await give_all(room.sender.broadcast, numbers(0, 1, 2, 3), policy)
            assert await read_texts(client, "03") == numbers(0, 1, 2, 3)
            await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().dropped == 0


@EVERY
async def test_one_message_of_any_size(policy: Policy) -> None:
    """A client for which nothing waits gets one message of any size, and the next is one too many."""
    room = Room(max_outbox_bytes=10)
    long = "long " * 1000
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        for _ in range(2):
            await give_all(room.sender.broadcast, [long], policy)
            assert await read_texts(client, long) == [long]
            await trio.testing.wait_all_tasks_blocked()
        await give_all(room.sender.broadcast, [long, "next"], policy)
        assert stream.statistics().dropped == 1
        assert stream.closed == (policy in (CLOSING, LATEST))


@EVERY
async def test_a_newcomer_is_not_slow(policy: Policy) -> None:
    """The handshake's answer takes no room: a message of any size is kept for a client that just came."""
    long = "long " * 100

    async def greet(stream: AsyncStream, state: None) -> None:
        assert stream.statistics() == StreamStatistics(
            **dict.fromkeys(StreamStatistics.__dataclass_fields__, 0),
        )
        await stream.broadcast(long, when_full=policy)

    room = Room(max_outbox_bytes=10)
    room.app.with_connect_handler(greet)
    async with room.served() as connect:
        client = await RawClient(connect()).open()
        assert await read_texts(client, long) == [long]


# ------------------------------------------------------------------------------------- what is never dropped


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (NEWEST, ["sent", "close", "newest", "oldest", "latest"]),
        (OLDEST, ["sent", "close", "newest", "latest", "new"]),
        (LATEST, ["sent", "close", "newest", "oldest", "new"]),
        (CLOSING, None),
        (KeepLatest("other key"), None),
    ],
    ids=["newest", "oldest", "latest", "close", "other key"],
)
async def test_only_its_own_kind_is_dropped(policy: Policy, kept: list[str] | None) -> None:
    """For a new message none is dropped that was sent with ``send``, with another policy, or with another key."""
    room = Room(max_outbox_messages=5)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        await stream.send("begun")
        await stream.send("sent")
        await room.sender.broadcast("close", when_full=CLOSING)
        await room.sender.broadcast("newest", when_full=NEWEST)
        await room.sender.broadcast("oldest", when_full=OLDEST)
        await room.sender.broadcast("latest", when_full=LATEST)
        await room.sender.broadcast("new", when_full=policy)
        if kept is None:
            assert await read_to_close(client) == (["begun"], 1013)
        else:
            assert await read_texts(client, kept[-1]) == ["begun", *kept]
            assert not stream.closed


async def test_nothing_is_dropped_in_vain() -> None:
    """Where dropping all that a policy allows would not be enough, nothing is dropped for the new message."""
    room = Room(max_outbox_bytes=40)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        await stream.send("begun")
        await give_all(room.sender.broadcast, ["one", "two", "three"], OLDEST)
        await room.sender.broadcast("x" * 40, when_full=OLDEST)
        assert stream.statistics().dropped == 1
        assert await read_texts(client, "three") == ["begun", "one", "two", "three"]


async def test_a_long_message_takes_the_place_of_some() -> None:
    """For a long message as many of the oldest are dropped as it takes, and no more."""
    room = Room(max_outbox_bytes=40)
    async with room.served() as connect:
        client, _ = await room.enter(connect)
        texts = ["begun", *numbers(*range(8))]
        await give_all(room.sender.broadcast, texts, OLDEST)
        await room.sender.broadcast("x" * 10, when_full=OLDEST)
        assert await read_texts(client, "x" * 10) == ["begun", *numbers(3, 4, 5, 6, 7), "x" * 10]


async def test_send_waits_for_its_turn() -> None:
    """``send`` drops nothing and is not dropped: it waits for room, and comes behind what was broadcast before."""
    room = Room(max_outbox_messages=2)
    async with room.served() as connect, trio.open_nursery() as nursery:
        client, stream = await room.enter(connect)
        await give_all(room.sender.broadcast, ["begun", "one", "two"], OLDEST)
        nursery.start_soon(stream.send, "sent")
        await give_all(room.sender.broadcast, ["three", "four"], OLDEST)
        assert stream.statistics().queued_messages == 3
        assert await read_texts(client, "sent") == ["begun", "three", "four", "sent"]


async def test_send_takes_the_room_that_a_policy_makes() -> None:
    """A ``send`` that waits goes on when a long message was dropped for a short one, though nobody reads."""
    room = Room(max_outbox_bytes=100)
    async with room.served() as connect, trio.open_nursery() as nursery:
        client, stream = await room.enter(connect)
        await give_all(room.sender.broadcast, ["begun", "x" * 80], OLDEST)
        nursery.start_soon(stream.send, "y" * 60)
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().queued_messages == 2
        await give_all(room.sender.broadcast, ["z" * 20], OLDEST)
        assert stream.statistics().queued_messages == 3
        assert await read_texts(client, "y" * 60) == ["begun", "z" * 20, "y" * 60]


# --------------------------------------------------------------------------------------------- latest by key


@pytest.mark.parametrize(
    ("given_keys", "kept"),
    [
        # Room for four. The digit tells how many of the key came before.
        ("aaaa", "a0 a1 a2 a3"),
        ("aaaaa", "a4"),
        ("aaaaab", "a4 b0"),
        ("aabba", "b0 b1 a2"),  # what others outdate stays, since it need not go
        ("aabbc", "a1 b0 b1 c0"),  # only as much as is needed, from the key that has waited longest
        ("aabbcd", "a1 b1 c0 d0"),
        ("abcd" * 5, "a4 b4 c4 d4"),
        ("abcabc" + "c" * 10, "a0 a1 b1 c11"),
    ],
)
async def test_latest_by_key(given_keys: str, kept: str) -> None:
    """Of a full outbox the outdated messages of the key go, then those of other keys as far as needed."""
    room = Room(max_outbox_messages=4)
    counts = dict.fromkeys(given_keys, 0)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        await stream.send("begun")
        for key in given_keys:
            await room.sender.broadcast(f"{key}{counts[key]}", when_full=KeepLatest(key))
            counts[key] += 1
        last = kept.split()[-1]
        assert await read_texts(client, last) == ["begun", *kept.split()]
        assert stream.statistics().dropped == len(given_keys) - len(kept.split())


async def test_too_many_keys() -> None:
    """A client that has no room for the latest of every key is closed: it would never hear of the new one."""
    room = Room(max_outbox_messages=4)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        await stream.send("begun")
        for key in "abcde":
            assert not stream.closed
            await room.sender.broadcast(key, when_full=KeepLatest(key))
        assert await read_to_close(client) == (["begun"], 1013)


class Vague:
    """A key that takes any comparison for a question to somebody else, as the columns of databases do."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        return self

    def __ne__(self, other: object) -> Any:
        return self


ANY_KEY = pytest.mark.parametrize(
    "key", [float("nan"), None, (1, None), Vague()], ids=["nan", "None", "tuple", "vague"]
)


@ANY_KEY
async def test_any_key(key: Hashable) -> None:
    """A key is any hashable object, also one that does not equal itself, or that equals all."""
    room = Room(max_outbox_bytes=5 * SIZE)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        await give_all(room.sender.broadcast, numbers(*range(5)), KeepLatest(key))
        await room.sender.broadcast("x" * 14, when_full=KeepLatest(key))
        assert (stream.statistics().queued_bytes, stream.statistics().dropped) == (5 * SIZE, 4)
        assert await read_texts(client, "x" * 14) == ["00", "x" * 14]
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().queued_bytes == 0


@ANY_KEY
async def test_any_key_with_too_long_a_message(key: Hashable) -> None:
    """A message for which its own key cannot make room finds none elsewhere, however the key compares."""
    room = Room(max_outbox_bytes=5 * SIZE)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        await give_all(room.sender.broadcast, numbers(*range(5)), KeepLatest(key))
        await room.sender.broadcast("x" * 15, when_full=KeepLatest(key))
        assert stream.statistics().dropped == 5
        assert await read_to_close(client) == (["00"], 1013)


# ----------------------------------------------------------------------------------------------- wrong usage


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wrong", "named"), [("drop oldest", "str"), (None, "NoneType"), (KeepLatest, "type"), (1, "int")]
)
async def test_what_is_no_policy(wrong: Any, named: str, way: str) -> None:
    """What is no policy is refused with what it should be; nobody gets that message, and the next ones go on."""
    room = Room(max_outbox_messages=1)
    async with room.served() as connect:
        client, stream = await room.enter(connect)
        for _ in range(3):
            with pytest.raises(TypeError, match=rf"a WhenFull or a KeepLatest\(key\), not {named}$"):
                await WAYS[way](room)("never", when_full=wrong)
        await WAYS[way](room)("next")
        assert await read_texts(client, "next") == ["next"]
        assert not stream.closed


async def test_what_is_no_policy_without_a_client() -> None:
    """A wrong policy is refused also where nobody would notice: without clients, and without subscribers."""
    sender = AsyncWebsocketApp.new_unlinked().sender()
    with pytest.raises(TypeError, match="when_full"):
        await sender.broadcast("never", when_full="close")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="when_full"):
        await sender.publish(TOPIC, "never", when_full="close")  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [[], {}, ("a", [])])
def test_a_key_is_hashable(key: Any) -> None:
    """A key that is not hashable is refused when the policy is made, before any client is concerned."""
    with pytest.raises(TypeError, match="unhashable"):
        KeepLatest(key)


# ---------------------------------------------------------------------------------------------------- counts


DROPPING = pytest.mark.parametrize("policy", [NEWEST, OLDEST, LATEST], ids=["newest", "oldest", "latest"])


@DROPPING
async def test_drops_are_counted(policy: Policy) -> None:
    """Every message that is dropped is counted once, for its stream and the app, also after the stream's end."""
    count, waiting, dropped = 10, 4, 6
    room = Room(max_outbox_messages=3)
    async with room.served() as connect:
        (reader, reading), (leaver, leaving), (_, staying) = [await room.enter(connect) for _ in range(3)]
        quick, quick_stream = await room.enter(connect)
        for text in numbers(*range(count)):
            await room.sender.broadcast(text, when_full=policy)
            await quick.frame()
            await trio.testing.wait_all_tasks_blocked()
        for stream in (reading, leaving, staying):
            told = stream.statistics()
            assert (told.messages_sent, told.queued_messages, told.dropped) == (waiting, waiting, dropped)
            assert (told.queued_bytes, told.bytes_sent) == (waiting * SIZE, 0)
        told = quick_stream.statistics()
        assert (told.messages_sent, told.bytes_sent, told.dropped) == (count, count * SIZE, 0)
        app = room.app.statistics()
        assert (app.queued_messages, app.queued_bytes) == (3 * waiting, 3 * waiting * SIZE)
        assert (app.dropped, app.slow_closes, app.send_waits) == (3 * dropped, 0, 0)

        for _ in range(waiting):
            await reader.frame()
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(reader.stream)
        await trio.aclose_forcefully(leaver.stream)
        await trio.testing.wait_all_tasks_blocked()
        read, unread = reading.close_record, leaving.close_record
        assert read is not None
        assert unread is not None
        assert (read.messages_sent, read.bytes_sent, read.dropped) == (waiting, waiting * SIZE, dropped)
        assert (read.queued_messages, read.queued_bytes) == (0, 0)
        # What waited is dropped by the end, but for the one that was being written.
        assert (unread.messages_sent, unread.bytes_sent, unread.dropped) == (1, 0, dropped + waiting - 1)
        assert (unread.queued_messages, unread.queued_bytes) == (waiting, waiting * SIZE)
        app = room.app.statistics()
        assert (app.connections, app.queued_messages) == (2, waiting)
        assert app.dropped == 3 * dropped + waiting - 1
        ended = [record and replace(record, clean=None) for record in (read, unread)]
        assert room.records in (ended, ended[::-1])


@pytest.mark.parametrize("policy", [CLOSING, LATEST], ids=["close", "latest"])
async def test_a_slow_close_is_counted_once(policy: Policy, autojump_clock: trio.testing.MockClock) -> None:
    """A client that is closed for being slow counts as one, whether it reads its 1013 or is cut off later."""
    room = Room(max_outbox_messages=2)
    async with room.served() as connect:
        polite, rude = [await room.enter(connect) for _ in range(2)]
        for _, stream in (polite, rude):
            await stream.send("begun")
            await stream.send("one")
            await stream.send("two")
        await room.sender.broadcast("three", when_full=policy)
        assert room.app.statistics().slow_closes == 2
        assert await read_to_close(polite[0]) == (["begun"], 1013)
        await polite[0].send(client_frame(CLOSE, b"\x03\xf5"))
        await trio.sleep(60)
        assert (room.app.statistics().connections, room.app.statistics().slow_closes) == (0, 2)
        assert room.app.statistics().dropped == 6
        for record in room.records:
            assert record is not None
            assert (record.initiator, record.code, record.cause) == ("server", 1013, "its outbox was full")
            assert (record.messages_sent, record.dropped, record.queued_messages) == (1, 3, 3)


async def test_a_client_that_is_cut_off_is_a_slow_close(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes nothing for the write timeout is cut off and counted, whatever the policy."""
    room = Room(max_outbox_messages=2)
    async with room.served() as connect:
        _, stream = await room.enter(connect)
        for text in numbers(*range(10)):
            await room.sender.broadcast(text, when_full=OLDEST)
        await trio.sleep(29)
        assert not stream.closed
        await trio.sleep(2)
        assert (stream.close_code, stream.statistics().dropped) == (1006, 9)
        assert (room.app.statistics().slow_closes, room.app.statistics().dropped) == (1, 9)


async def test_waits_are_counted() -> None:
    """Every ``send`` that had to wait counts once, however long it waited and whether it was cancelled."""
    room = Room(max_outbox_messages=1)
    async with room.served() as connect, trio.open_nursery() as nursery:
        client, stream = await room.enter(connect)
        other, other_stream = await room.enter(connect)
        for one in (stream, other_stream):
            await one.send("begun")
            await one.send("waits")
        assert room.app.statistics().send_waits == 0
        for number in range(3):
            nursery.start_soon(stream.send, str(number))
            await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await other_stream.send("cancelled at once")
        assert other_stream.statistics().send_waits == 0
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_later, scope)
            await other_stream.send("cancelled")
        assert (stream.statistics().send_waits, other_stream.statistics().send_waits) == (3, 1)
        assert await read_texts(client, "2") == ["begun", "waits", "0", "1", "2"]
        assert await read_texts(other, "waits") == ["begun", "waits"]
        await trio.testing.wait_all_tasks_blocked()
        await stream.send("at once")
        assert (stream.statistics().send_waits, room.app.statistics().send_waits) == (3, 4)
        await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        assert (stream.statistics().send_waits, room.app.statistics().send_waits) == (3, 4)


async def cancel_later(scope: trio.CancelScope) -> None:
    """Cancel a scope when nothing else happens."""
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_pauses_are_counted(concurrency: int, autojump_clock: trio.testing.MockClock) -> None:
    """Reading that pauses because enough was read ahead counts once for each pause, however long it is."""
    go_on, handled = trio.Semaphore(0), list[str | None]()

    async def handler(stream: AsyncStream, message: Message, state: None) -> None:
        await go_on.acquire()
        handled.append(message.text)

    room = Room(max_read_ahead=2, concurrency=concurrency)
    room.app.with_message_handler(handler)
    async with room.served() as connect:
        _, idle = await room.enter(connect)
        client, stream = await room.enter(connect)
        await client.send(b"".join(client_frame(TEXT, text.encode()) for text in numbers(*range(8))))
        pauses = []
        for _ in range(8):
            await trio.sleep(5)
            pauses.append(stream.statistics().read_pauses)
            go_on.release()
        # Two are read ahead of those that are handled, and each that is handled lets one more be read.
        assert pauses == ([1, 2, 3, 4, 5, 6, 6, 6] if concurrency == 1 else [1, 2, 3, 4, 5, 5, 5, 5])
        await trio.sleep(5)
        assert handled == numbers(*range(8))
        await client.send(client_frame(CLOSE))
        await trio.sleep(5)
        assert stream.closed
        assert (stream.statistics().read_pauses, idle.statistics().read_pauses) == (pauses[-1], 0)
        assert room.app.statistics().read_pauses == pauses[-1]


async def test_pauses_of_a_coroutine_are_counted() -> None:
    """A stream of ``websocket_handler`` counts the same on itself."""
    pauses = []

    async def handler(stream: WebsocketStream, state: None) -> None:
        for _ in range(5):
            await trio.testing.wait_all_tasks_blocked()
            pauses.append(stream.statistics().read_pauses)
            await stream.receive()

    app = App().with_websocket_route("/", websocket_handler(handler, max_read_ahead=2))
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app) as connect:
            client = await RawClient(connect()).open()
            await client.send(client_frame(TEXT) * 5)
            assert await client.close_code() == 1000
    assert pauses == [1, 2, 3, 4, 4]


#: A message to one, a message to all with some policy, some reading, a leave.
happenings = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2)),
    st.sampled_from([NEWEST, OLDEST, CLOSING, *map(KeepLatest, "abc")]).map(lambda policy: ("all", policy)),
    st.tuples(st.just("read"), st.integers(0, 2)),
    st.tuples(st.just("leave"), st.integers(0, 2)),
)


@settings(deadline=None, max_examples=60)
@given(plan=st.lists(happenings, min_size=10, max_size=50), bound=st.integers(1, 4))
async def test_everything_adds_up(plan: list[tuple[str, Any]], bound: int) -> None:
    """What was given to a stream was sent or dropped, and the app's counts are those of its streams."""
    room = Room(max_outbox_messages=bound)
    put = [0, 0, 0]

    async def send(number: int) -> None:
        with suppress(ConnectionClosed):
            await room.streams[number].send("a message")
            put[number] += 1

    async with room.served() as connect, trio.open_nursery() as nursery:
        clients = [(await room.enter(connect))[0] for _ in put]
        for kind, what in plan:
            if kind == "all":
                for number, stream in enumerate(room.streams):
                    put[number] += not stream.closed
                await room.sender.broadcast("a message", when_full=what)
            elif kind == "send":
                nursery.start_soon(send, what)
            elif kind == "leave":
                await trio.aclose_forcefully(clients[what].stream)
            elif room.streams[what].statistics().queued_bytes:
                with suppress(trio.ClosedResourceError):
                    await clients[what].stream.receive_some(20)
            await trio.testing.wait_all_tasks_blocked()
        told = [stream.statistics() for stream in room.streams]
        app = room.app.statistics()
        assert [one.messages_sent + one.dropped for one in told] == put
        assert app.dropped == sum(one.dropped for one in told)
        assert app.send_waits == sum(one.send_waits for one in told)
        assert app.queued_messages == sum(one.queued_messages for one in told)
        for client in clients:
            await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
        app = room.app.statistics()
        records = [record for record in room.records if record is not None]
        assert len(records) == len(clients)
        assert sum(record.messages_sent + record.dropped for record in records) == sum(put)
        assert app.dropped == sum(record.dropped for record in records)
        assert app.slow_closes == sum(record.cause == "its outbox was full" for record in records)
        assert (app.connections, app.queued_messages, app.queued_bytes) == (0, 0, 0)


# ----------------------------------------------------------------------------------------------- compression

WORDS = ("slow", "clients", "get", "messages", "that", "refer", "to", "those", "before", "them")


class InflatingClient:
    """A client of the ``websockets`` package that reads some bytes at a time.

    Attributes:
        texts: what it has read.
        code: the close code that it has read.
    """

    def __init__(self, stream: trio.abc.Stream, extension: ClientPerMessageDeflateFactory) -> None:
        self.texts: list[str] = []
        self.code: int | None = None
        self._stream = stream
        self._protocol = ClientProtocol(parse_uri("ws://testserver/"), extensions=[extension], max_size=None)

    async def open(self) -> InflatingClient:
        self._protocol.send_request(self._protocol.connect())
        for data in self._protocol.data_to_send():
            await self._stream.send_all(data)
        await self.read(10_000)
        assert self._protocol.handshake_exc is None
        assert self._protocol.extensions
        return self

    async def read(self, size: int) -> None:
        """Read so many bytes at most, of which there have to be some."""
        self._protocol.receive_data(bytes(await self._stream.receive_some(size)))
        if self._protocol.parser_exc is not None:
            raise self._protocol.parser_exc
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                self.code = int.from_bytes(event.data[:2], "big")
            elif isinstance(event, Frame):
                self.texts.append(bytes(event.data).decode())


def text_of(number: int, rng: random.Random, size: int) -> str:
    """A text with a number, which refers to others and is not to be had without inflating it rightly."""
    return " ".join([str(number), *rng.choices(WORDS, k=size), f"{rng.getrandbits(64):x}"])


CLIENTS = {
    "takeover": lambda: ClientPerMessageDeflateFactory(client_max_window_bits=True),
    "small window": lambda: ClientPerMessageDeflateFactory(server_max_window_bits=9),
    "no takeover": lambda: ClientPerMessageDeflateFactory(server_no_context_takeover=True),
}

doings = st.one_of(
    st.tuples(st.just("send"), st.booleans()),
    st.tuples(st.just("drop"), st.booleans()),
    st.tuples(st.just("read"), st.integers(1, 300)),
)


@pytest.mark.parametrize("kind", CLIENTS)
@EVERY
@settings(deadline=None, max_examples=30)
@given(plan=st.lists(doings, min_size=10, max_size=50), bound=st.integers(1, 4), seed=st.integers(0, 10**6))
async def test_drops_between_compressed_messages(
    policy: Policy, kind: str, plan: list[tuple[str, Any]], bound: int, seed: int
) -> None:
    """Whatever is dropped between messages that were sent, all that arrives inflates to what was given."""
    rng = random.Random(seed)
    room = Room(max_outbox_messages=bound)
    sent: list[str] = []
    offered: list[str] = []

    async def send(text: str, compress: bool) -> None:
        sent.append(text)
        with suppress(ConnectionClosed):
            await stream.send(text, compress=compress)

    async with room.served(Deflate(min_size=20)) as connect, trio.open_nursery() as nursery:
        client = await InflatingClient(connect(), CLIENTS[kind]()).open()
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = room.streams
        for number, (what, how) in enumerate(plan):
            text = text_of(number, rng, rng.choice((0, 5, 30, 200)))
            if what == "send":
                nursery.start_soon(send, text, how)
            elif what == "drop":
                offered.append(text)
                await room.sender.broadcast(text, compress=how, when_full=policy)
            elif stream.statistics().queued_bytes:
                await client.read(how)
            await trio.testing.wait_all_tasks_blocked()
        dropped = stream.statistics().dropped
        while stream.statistics().queued_bytes or (stream.closed and client.code is None):
            await client.read(10_000)
            await trio.testing.wait_all_tasks_blocked()

        told = set(client.texts)
        assert len(told) == len(client.texts)
        assert [text for text in offered if text in told] == [text for text in client.texts if text in offered]
        assert [text for text in sent if text in told] == [text for text in client.texts if text in sent]
        assert (client.code == 1013) == stream.closed
        if not stream.closed:
            assert told >= set(sent)
            assert len(told) == len(sent) + len(offered) - dropped
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------- real sockets

KIB = 1024


@DROPPING
async def test_a_flood_for_some_who_do_not_read(policy: Policy, tmp_path: Path) -> None:
    """Of 50 MB, five that do not read cost a full outbox and stay; 195 others get all that is meant for them.

    Every thirtieth message, a smaller one, is for all 200; the others are for the five.
    """
    rounds, turn, size, small, bound, slow, readers = 30, 30, 64 * KIB, 4 * KIB, 256 * KIB, 5, 195
    count, frame = rounds * turn, 4 + small
    room = Room(max_outbox_bytes=bound)
    received = [0] * readers
    progress = trio.Event()

    async def read(number: int, stream: trio.abc.ReceiveStream) -> None:
        nonlocal progress
        while got := len(await stream.receive_some(size)):
            received[number] += got
            progress.set()
            progress = trio.Event()

    async with linked(room.app) as app, AsyncExitStack() as stack, trio.open_nursery() as nursery:
        await nursery.start(app.run, f"unix:{tmp_path}/socket")
        clients: list[trio.SocketStream] = []
        for _ in range(slow + readers):
            clients.append(await stack.enter_async_context(await trio.open_unix_socket(f"{tmp_path}/socket")))
            await open_websocket(clients[-1])
        while len(room.streams) < slow + readers:
            await trio.testing.wait_all_tasks_blocked(0.001)
        for number, client in enumerate(clients[slow:]):
            nursery.start_soon(read, number, client)
        for stream in room.streams[slow:]:
            stream.unsubscribe(TOPIC)

        tracemalloc.start()
        try:
            for number in range(count):
                for_all = number % turn == turn - 1
                give = room.sender.broadcast if for_all else partial(room.sender.publish, TOPIC)
                await give(number.to_bytes(4, "big") * ((small if for_all else size) // 4), when_full=policy)
                while for_all and min(received) < (number + 1) // turn * frame:
                    await progress.wait()
            _, most_allocated = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert rounds * (turn - 1) * size > 50 * 10**6
        assert most_allocated < 5 * 10**6
        assert received == [rounds * frame] * readers
        told = [stream.statistics() for stream in room.streams]
        assert all(one.queued_bytes <= bound for one in told)
        assert [one.messages_sent + one.dropped for one in told] == [count] * slow + [rounds] * readers
        assert [one.dropped > count * 0.9 for one in told] == [True] * slow + [False] * readers
        assert room.app.statistics().dropped == sum(one.dropped for one in told[:slow])
        assert not any(stream.closed for stream in room.streams)

        sleepers = [RawClient(client) for client in clients[:slow]]
        for sleeper, one in zip(sleepers, told[:slow], strict=True):
            kept = []
            for _ in range(one.messages_sent):
                opcode, payload = await sleeper.frame()
                assert (opcode, payload) == (BINARY, payload[:4] * (len(payload) // 4))
                kept.append(int.from_bytes(payload[:4], "big"))
            # First comes what the system has taken, then what the policy has kept.
            waited = one.queued_messages - 1
            assert waited > 0
            assert kept[:-waited] == list(range(len(kept) - waited))
            if policy is NEWEST:
                assert kept == sorted(set(kept))
                assert kept[-1] < count // 2
            else:
                assert kept[-waited:] == list(range(count))[-waited:]
        await room.sender.broadcast("later")
        for sleeper in sleepers:
            assert await sleeper.frame() == (TEXT, b"later")
        nursery.cancel_scope.cancel()
