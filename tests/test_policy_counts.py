"""Policies for slow clients: drops, slow closes, waits and pauses are counted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio import App, AsyncStream, ConnectionClosed, Message, WebsocketStream, websocket_handler
from humphrey_trio.websocket import KeepLatest
from tests.support import PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.policy_app import (
    CLOSING,
    DROPPING,
    LATEST,
    NEWEST,
    OLDEST,
    SIZE,
    Policy,
    PolicyApp,
    numbers,
    read_texts,
    read_to_close,
)
from tests.support.wire import CLOSE, TEXT, client_frame


@DROPPING
async def test_drops_are_counted(policy: Policy) -> None:
    """Every dropped message counts once, for its stream and the app, also after the end of the stream."""
    count, waiting, dropped = 10, 4, 6
    policy_app = PolicyApp(max_outbox_messages=3)
    async with policy_app.served() as connect:
        (reader, reading), (leaver, leaving), (_, staying) = [await policy_app.connect(connect) for _ in range(3)]
        quick, quick_stream = await policy_app.connect(connect)
        for text in numbers(*range(count)):
            await policy_app.sender.broadcast(text, when_full=policy)
            await quick.frame()
            await trio.testing.wait_all_tasks_blocked()
        for stream in (reading, leaving, staying):
            statistics = stream.statistics()
            assert (statistics.messages_sent, statistics.queued_messages, statistics.dropped) == (
                waiting,
                waiting,
                dropped,
            )
            assert (statistics.queued_bytes, statistics.bytes_sent) == (waiting * SIZE, 0)
        statistics = quick_stream.statistics()
        assert (statistics.messages_sent, statistics.bytes_sent, statistics.dropped) == (count, count * SIZE, 0)
        app = policy_app.app.statistics()
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
        # The end drops the queued messages, except for the one that was being written.
        assert (unread.messages_sent, unread.bytes_sent, unread.dropped) == (1, 0, dropped + waiting - 1)
        assert (unread.queued_messages, unread.queued_bytes) == (waiting, waiting * SIZE)
        app = policy_app.app.statistics()
        assert (app.connections, app.queued_messages) == (2, waiting)
        assert app.dropped == 3 * dropped + waiting - 1
        ended = [record and replace(record, clean=None) for record in (read, unread)]
        assert policy_app.records in (ended, ended[::-1])


@pytest.mark.parametrize("policy", [CLOSING, LATEST], ids=["close", "latest"])
async def test_slow_close_is_counted_once(policy: Policy, autojump_clock: trio.testing.MockClock) -> None:
    """A client that is closed because it is slow counts once, whether it reads its 1013 or is cut off."""
    policy_app = PolicyApp(max_outbox_messages=2)
    async with policy_app.served() as connect:
        reading, silent = [await policy_app.connect(connect) for _ in range(2)]
        for _, stream in (reading, silent):
            await stream.send("begun")
            await stream.send("one")
            await stream.send("two")
        await policy_app.sender.broadcast("three", when_full=policy)
        assert policy_app.app.statistics().slow_closes == 2
        assert await read_to_close(reading[0]) == (["begun"], 1013)
        await reading[0].send(client_frame(CLOSE, b"\x03\xf5"))
        await trio.sleep(60)
        assert (policy_app.app.statistics().connections, policy_app.app.statistics().slow_closes) == (0, 2)
        assert policy_app.app.statistics().dropped == 6
        for record in policy_app.records:
            assert record is not None
            assert (record.initiator, record.code, record.cause) == ("server", 1013, "its outbox was full")
            assert (record.messages_sent, record.dropped, record.queued_messages) == (1, 3, 3)


async def test_write_timeout_is_a_slow_close(autojump_clock: trio.testing.MockClock) -> None:
    """A client that is cut off by the write timeout is a slow close, whatever the policy."""
    policy_app = PolicyApp(max_outbox_messages=2)
    async with policy_app.served() as connect:
        _, stream = await policy_app.connect(connect)
        for text in numbers(*range(10)):
            await policy_app.sender.broadcast(text, when_full=OLDEST)
        await trio.sleep(29)
        assert not stream.closed
        await trio.sleep(2)
        assert (stream.close_code, stream.statistics().dropped) == (1006, 9)
        assert (policy_app.app.statistics().slow_closes, policy_app.app.statistics().dropped) == (1, 9)


async def test_send_waits_are_counted() -> None:
    """Every ``send`` that has to wait counts once, however long it waits, and also if it is cancelled."""
    policy_app = PolicyApp(max_outbox_messages=1)
    async with policy_app.served() as connect, trio.open_nursery() as nursery:
        client, stream = await policy_app.connect(connect)
        other, other_stream = await policy_app.connect(connect)
        for one in (stream, other_stream):
            await one.send("begun")
            await one.send("waits")
        assert policy_app.app.statistics().send_waits == 0
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
        assert (stream.statistics().send_waits, policy_app.app.statistics().send_waits) == (3, 4)
        await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        assert (stream.statistics().send_waits, policy_app.app.statistics().send_waits) == (3, 4)


async def cancel_later(scope: trio.CancelScope) -> None:
    """Cancel a scope when all tasks are blocked."""
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_read_pauses_are_counted(concurrency: int, autojump_clock: trio.testing.MockClock) -> None:
    """Each pause of reading because of ``max_read_ahead`` counts once, however long it is."""
    go_on, handled = trio.Semaphore(0), list[str | None]()

    async def handler(stream: AsyncStream, message: Message, state: None) -> None:
        await go_on.acquire()
        handled.append(message.text)

    policy_app = PolicyApp(max_read_ahead=2, concurrency=concurrency)
    policy_app.app.with_message_handler(handler)
    async with policy_app.served() as connect:
        _, idle = await policy_app.connect(connect)
        client, stream = await policy_app.connect(connect)
        await client.send(b"".join(client_frame(TEXT, text.encode()) for text in numbers(*range(8))))
        pauses = []
        for _ in range(8):
            await trio.sleep(5)
            pauses.append(stream.statistics().read_pauses)
            go_on.release()
        # Two messages are read ahead, and one more after each that is handled.
        assert pauses == ([1, 2, 3, 4, 5, 6, 6, 6] if concurrency == 1 else [1, 2, 3, 4, 5, 5, 5, 5])
        await trio.sleep(5)
        assert handled == numbers(*range(8))
        await client.send(client_frame(CLOSE))
        await trio.sleep(5)
        assert stream.closed
        assert (stream.statistics().read_pauses, idle.statistics().read_pauses) == (pauses[-1], 0)
        assert policy_app.app.statistics().read_pauses == pauses[-1]


async def test_read_pauses_of_a_coroutine_are_counted() -> None:
    """A stream of ``websocket_handler`` counts read pauses on itself."""
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


#: A message to one client, a message to all with a policy, some reading, a disconnect.
actions = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2)),
    st.sampled_from([NEWEST, OLDEST, CLOSING, *map(KeepLatest, "abc")]).map(lambda policy: ("all", policy)),
    st.tuples(st.just("read"), st.integers(0, 2)),
    st.tuples(st.just("leave"), st.integers(0, 2)),
)


@settings(deadline=None, max_examples=60)
@given(plan=st.lists(actions, min_size=10, max_size=50), bound=st.integers(1, 4))
async def test_counts_add_up(plan: list[tuple[str, Any]], bound: int) -> None:
    """Each message to a stream was sent or dropped, and the app's counts are the sums of its streams."""
    policy_app = PolicyApp(max_outbox_messages=bound)
    put = [0, 0, 0]

    async def send(number: int) -> None:
        with suppress(ConnectionClosed):
            await policy_app.streams[number].send("a message")
            put[number] += 1

    async with policy_app.served() as connect, trio.open_nursery() as nursery:
        clients = [(await policy_app.connect(connect))[0] for _ in put]
        for kind, what in plan:
            if kind == "all":
                for number, stream in enumerate(policy_app.streams):
                    put[number] += not stream.closed
                await policy_app.sender.broadcast("a message", when_full=what)
            elif kind == "send":
                nursery.start_soon(send, what)
            elif kind == "leave":
                await trio.aclose_forcefully(clients[what].stream)
            elif policy_app.streams[what].statistics().queued_bytes:
                with suppress(trio.ClosedResourceError):
                    await clients[what].stream.receive_some(20)
            await trio.testing.wait_all_tasks_blocked()
        statistics = [stream.statistics() for stream in policy_app.streams]
        app = policy_app.app.statistics()
        assert [one.messages_sent + one.dropped for one in statistics] == put
        assert app.dropped == sum(one.dropped for one in statistics)
        assert app.send_waits == sum(one.send_waits for one in statistics)
        assert app.queued_messages == sum(one.queued_messages for one in statistics)
        for client in clients:
            await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
        app = policy_app.app.statistics()
        records = [record for record in policy_app.records if record is not None]
        assert len(records) == len(clients)
        assert sum(record.messages_sent + record.dropped for record in records) == sum(put)
        assert app.dropped == sum(record.dropped for record in records)
        assert app.slow_closes == sum(record.cause == "its outbox was full" for record in records)
        assert (app.connections, app.queued_messages, app.queued_bytes) == (0, 0, 0)
