"""Policies for slow clients: which messages ``when_full`` drops, and which it never drops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp
from humphrey_trio.websocket import KeepLatest, StreamStatistics
from tests.support.clients import RawClient
from tests.support.policy_app import (
    CLOSING,
    EVERY,
    LATEST,
    NEWEST,
    OLDEST,
    SIZE,
    TOPIC,
    Policy,
    PolicyApp,
    numbers,
    read_texts,
    read_to_close,
)

#: A call of ``broadcast`` or ``publish``, with a message and its options.
Send = Callable[..., Awaitable[None]]


async def send_all(send: Send, texts: list[str], policy: Policy) -> None:
    """Send one text after the other. A client that reads gets each before the next one."""
    for text in texts:
        await send(text, when_full=policy)
        await trio.testing.wait_all_tasks_blocked()


# ---------------------------------------------------------------------------------------------- drop policies

#: Two ways to set one bound: one frame is being written, and three wait.
BOUNDS = {"messages": {"max_outbox_messages": 3}, "bytes": {"max_outbox_bytes": 4 * SIZE}}


WAYS: dict[str, Callable[[PolicyApp], Send]] = {
    "sender.broadcast": lambda policy_app: policy_app.sender.broadcast,
    "sender.publish": lambda policy_app: partial(policy_app.sender.publish, TOPIC),
    "stream.broadcast": lambda policy_app: policy_app.streams[0].broadcast,
    "stream.publish": lambda policy_app: partial(policy_app.streams[0].publish, TOPIC),
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
async def test_messages_of_a_slow_client(policy: Policy, kept: list[str], way: str, bounds: str) -> None:
    """A slow client gets the messages that its policy keeps, in order, and stays; a reader gets all messages."""
    policy_app = PolicyApp(**BOUNDS[bounds])
    everything = numbers(*range(8))
    async with policy_app.served() as connect, trio.open_nursery() as nursery:
        slow, stream = await policy_app.connect(connect)
        quick = [(await policy_app.connect(connect))[0] for _ in range(3)]
        read = {client: list[str]() for client in quick}

        async def read_everything(client: RawClient) -> None:
            read[client] = await read_texts(client, "the end")

        for client in quick:
            nursery.start_soon(read_everything, client)
        await send_all(WAYS[way](policy_app), everything, policy)
        assert stream.statistics().queued_messages == len(kept)
        assert await read_texts(slow, kept[-1]) == kept
        await trio.testing.wait_all_tasks_blocked()
        assert (stream.closed, stream.statistics().queued_messages) == (False, 0)
        await policy_app.sender.broadcast("the end")
        assert await read_texts(slow, "the end") == ["the end"]
        await trio.testing.wait_all_tasks_blocked()
        assert list(read.values()) == [[*everything, "the end"]] * 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"when_full": CLOSING}], ids=["by default", "explicit"])
async def test_slow_client_is_closed_with_1013(options: dict[str, Policy], way: str, bounds: str) -> None:
    """By default a slow client gets the message that was being written and 1013; a reader gets all messages."""
    policy_app = PolicyApp(**BOUNDS[bounds])
    everything = numbers(*range(8))
    async with policy_app.served() as connect:
        slow, stream = await policy_app.connect(connect)
        quick, _ = await policy_app.connect(connect)
        send = WAYS[way](policy_app)
        read = []
        for text in everything:
            await send(text, **options)
            read.append((await quick.frame())[1].decode())
            assert stream.close_code == (None if text <= "03" else 1013)
        assert read == everything
        assert await read_to_close(slow) == (["00"], 1013)
        assert stream.close_reason == "too slow"


@EVERY
@pytest.mark.parametrize("bounds", BOUNDS)
async def test_messages_are_kept_while_there_is_room(policy: Policy, bounds: str) -> None:
    """Up to its bound, an outbox keeps every message, including those with the same key."""
    policy_app = PolicyApp(**BOUNDS[bounds])
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        for _ in range(2):
            await send_all(policy_app.sender.broadcast, numbers(0, 1, 2, 3), policy)
            assert await read_texts(client, "03") == numbers(0, 1, 2, 3)
            await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().dropped == 0


@EVERY
async def test_broadcast_one_message_of_any_size(policy: Policy) -> None:
    """A client with an empty outbox gets one message of any size; the next one is too many."""
    policy_app = PolicyApp(max_outbox_bytes=10)
    long = "long " * 1000
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        for _ in range(2):
            await send_all(policy_app.sender.broadcast, [long], policy)
            assert await read_texts(client, long) == [long]
            await trio.testing.wait_all_tasks_blocked()
        await send_all(policy_app.sender.broadcast, [long, "next"], policy)
        assert stream.statistics().dropped == 1
        assert stream.closed == (policy in (CLOSING, LATEST))


@EVERY
async def test_new_client_is_not_slow(policy: Policy) -> None:
    """The response to the handshake takes no room: a new client gets a message of any size."""
    long = "long " * 100

    async def greet(stream: AsyncStream, state: None) -> None:
        assert stream.statistics() == StreamStatistics(
            **dict.fromkeys(StreamStatistics.__dataclass_fields__, 0),
        )
        await stream.broadcast(long, when_full=policy)

    policy_app = PolicyApp(max_outbox_bytes=10)
    policy_app.app.with_connect_handler(greet)
    async with policy_app.served() as connect:
        client = await RawClient(connect()).open()
        assert await read_texts(client, long) == [long]


# ----------------------------------------------------------------------------------------- messages that stay


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
async def test_drops_only_messages_of_the_same_policy(policy: Policy, kept: list[str] | None) -> None:
    """A new message drops none of ``send``, of another policy, or of another key."""
    policy_app = PolicyApp(max_outbox_messages=5)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        await stream.send("begun")
        await stream.send("sent")
        await policy_app.sender.broadcast("close", when_full=CLOSING)
        await policy_app.sender.broadcast("newest", when_full=NEWEST)
        await policy_app.sender.broadcast("oldest", when_full=OLDEST)
        await policy_app.sender.broadcast("latest", when_full=LATEST)
        await policy_app.sender.broadcast("new", when_full=policy)
        if kept is None:
            assert await read_to_close(client) == (["begun"], 1013)
        else:
            assert await read_texts(client, kept[-1]) == ["begun", *kept]
            assert not stream.closed


async def test_drops_nothing_if_it_is_not_enough() -> None:
    """If dropping all that a policy allows does not make enough room, nothing is dropped for the new message."""
    policy_app = PolicyApp(max_outbox_bytes=40)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        await stream.send("begun")
        await send_all(policy_app.sender.broadcast, ["one", "two", "three"], OLDEST)
        await policy_app.sender.broadcast("x" * 40, when_full=OLDEST)
        assert stream.statistics().dropped == 1
        assert await read_texts(client, "three") == ["begun", "one", "two", "three"]


async def test_long_message_drops_several() -> None:
    """For a long message, as many of the oldest are dropped as it takes, and no more."""
    policy_app = PolicyApp(max_outbox_bytes=40)
    async with policy_app.served() as connect:
        client, _ = await policy_app.connect(connect)
        texts = ["begun", *numbers(*range(8))]
        await send_all(policy_app.sender.broadcast, texts, OLDEST)
        await policy_app.sender.broadcast("x" * 10, when_full=OLDEST)
        assert await read_texts(client, "x" * 10) == ["begun", *numbers(3, 4, 5, 6, 7), "x" * 10]


async def test_send_is_not_dropped() -> None:
    """``send`` drops nothing and is not dropped: it waits for room, and follows earlier broadcasts."""
    policy_app = PolicyApp(max_outbox_messages=2)
    async with policy_app.served() as connect, trio.open_nursery() as nursery:
        client, stream = await policy_app.connect(connect)
        await send_all(policy_app.sender.broadcast, ["begun", "one", "two"], OLDEST)
        nursery.start_soon(stream.send, "sent")
        await send_all(policy_app.sender.broadcast, ["three", "four"], OLDEST)
        assert stream.statistics().queued_messages == 3
        assert await read_texts(client, "sent") == ["begun", "three", "four", "sent"]


async def test_send_uses_the_room_of_dropped_messages() -> None:
    """A waiting ``send`` gets the room of a long message that was dropped for a short one."""
    policy_app = PolicyApp(max_outbox_bytes=100)
    async with policy_app.served() as connect, trio.open_nursery() as nursery:
        client, stream = await policy_app.connect(connect)
        await send_all(policy_app.sender.broadcast, ["begun", "x" * 80], OLDEST)
        nursery.start_soon(stream.send, "y" * 60)
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().queued_messages == 2
        await send_all(policy_app.sender.broadcast, ["z" * 20], OLDEST)
        assert stream.statistics().queued_messages == 3
        assert await read_texts(client, "y" * 60) == ["begun", "z" * 20, "y" * 60]


# ---------------------------------------------------------------------------------------------------- KeepLatest


@pytest.mark.parametrize(
    ("given_keys", "kept"),
    [
        # PolicyApp for four. The digit counts the messages of the key.
        ("aaaa", "a0 a1 a2 a3"),
        ("aaaaa", "a4"),
        ("aaaaab", "a4 b0"),
        ("aabba", "b0 b1 a2"),  # outdated messages of other keys stay if there is room
        ("aabbc", "a1 b0 b1 c0"),  # only as many as necessary, first of the key that has waited longest
        ("aabbcd", "a1 b1 c0 d0"),
        ("abcd" * 5, "a4 b4 c4 d4"),
        ("abcabc" + "c" * 10, "a0 a1 b1 c11"),
    ],
)
async def test_keep_latest_by_key(given_keys: str, kept: str) -> None:
    """A full outbox drops the outdated messages of the key, then those of other keys as necessary."""
    policy_app = PolicyApp(max_outbox_messages=4)
    counts = dict.fromkeys(given_keys, 0)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        await stream.send("begun")
        for key in given_keys:
            await policy_app.sender.broadcast(f"{key}{counts[key]}", when_full=KeepLatest(key))
            counts[key] += 1
        last = kept.split()[-1]
        assert await read_texts(client, last) == ["begun", *kept.split()]
        assert stream.statistics().dropped == len(given_keys) - len(kept.split())


async def test_keep_latest_with_too_many_keys() -> None:
    """A client without room for the latest message of every key is closed."""
    policy_app = PolicyApp(max_outbox_messages=4)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        await stream.send("begun")
        for key in "abcde":
            assert not stream.closed
            await policy_app.sender.broadcast(key, when_full=KeepLatest(key))
        assert await read_to_close(client) == (["begun"], 1013)


class Vague:
    """A key whose comparison returns an expression, like the columns of databases."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        return self

    def __ne__(self, other: object) -> Any:
        return self


ANY_KEY = pytest.mark.parametrize(
    "key", [float("nan"), None, (1, None), Vague()], ids=["nan", "None", "tuple", "vague"]
)


@ANY_KEY
async def test_keep_latest_with_any_key(key: Hashable) -> None:
    """A key is any hashable object, including one that is not equal to itself, or equal to all."""
    policy_app = PolicyApp(max_outbox_bytes=5 * SIZE)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        await send_all(policy_app.sender.broadcast, numbers(*range(5)), KeepLatest(key))
        await policy_app.sender.broadcast("x" * 14, when_full=KeepLatest(key))
        assert (stream.statistics().queued_bytes, stream.statistics().dropped) == (5 * SIZE, 4)
        assert await read_texts(client, "x" * 14) == ["00", "x" * 14]
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().queued_bytes == 0


@ANY_KEY
async def test_keep_latest_with_a_too_long_message(key: Hashable) -> None:
    """A message for which its own key has no room drops no other, however the key compares."""
    policy_app = PolicyApp(max_outbox_bytes=5 * SIZE)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        await send_all(policy_app.sender.broadcast, numbers(*range(5)), KeepLatest(key))
        await policy_app.sender.broadcast("x" * 15, when_full=KeepLatest(key))
        assert stream.statistics().dropped == 5
        assert await read_to_close(client) == (["00"], 1013)


# -------------------------------------------------------------------------------------------- invalid policies


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wrong", "named"), [("drop oldest", "str"), (None, "NoneType"), (KeepLatest, "type"), (1, "int")]
)
async def test_broadcast_refuses_invalid_policies(wrong: Any, named: str, way: str) -> None:
    """An invalid policy is a TypeError with the valid ones, no client gets the message, and the next is sent."""
    policy_app = PolicyApp(max_outbox_messages=1)
    async with policy_app.served() as connect:
        client, stream = await policy_app.connect(connect)
        for _ in range(3):
            with pytest.raises(TypeError, match=rf"a WhenFull or a KeepLatest\(key\), not {named}$"):
                await WAYS[way](policy_app)("never", when_full=wrong)
        await WAYS[way](policy_app)("next")
        assert await read_texts(client, "next") == ["next"]
        assert not stream.closed


async def test_broadcast_refuses_invalid_policies_without_clients() -> None:
    """An invalid policy is refused without clients and without subscribers, too."""
    sender = AsyncWebsocketApp.new_unlinked().sender()
    with pytest.raises(TypeError, match="when_full"):
        await sender.broadcast("never", when_full="close")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="when_full"):
        await sender.publish(TOPIC, "never", when_full="close")  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [[], {}, ("a", [])])
def test_keep_latest_refuses_unhashable_keys(key: Any) -> None:
    """A key that is not hashable is refused by the constructor of the policy."""
    with pytest.raises(TypeError, match="unhashable"):
        KeepLatest(key)
