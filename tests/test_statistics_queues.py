"""Statistics of queues: queued, dropped and unhandled messages, and their totals."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    WebsocketStream,
    async_websocket_handler,
)
from humphrey_trio.websocket import KeepLatest, StreamStatistics, WhenFull
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.held_app import A_WHILE, LOCKSTEP, NEW, HeldApp
from tests.support.wire import TEXT, client_frame, close_frame, request_bytes

# ---------------------------------------------------------------------------------------------------- queues


async def test_queued_messages_and_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """Messages that a client does not read are queued, including the one that is being written."""
    texts = [str(number) * number * 50 for number in range(1, 6)]
    sizes = [len(text) + (2 if len(text) < 126 else 4) for text in texts]
    async with HeldApp().open(LOCKSTEP) as held_app:
        slow, quick = await held_app.join(), await held_app.join()
        for number, text in enumerate(texts, 1):
            await held_app.app.sender().broadcast(text)
            assert await quick.frame() == (TEXT, text.encode())
            await trio.testing.wait_all_tasks_blocked()
            waiting = {"queued_messages": number, "queued_bytes": sum(sizes[:number])}
            held_app.check(connections=2, **waiting)
            statistics = [stream.statistics() for stream in held_app.streams]
            assert statistics == [
                dataclasses.replace(NEW, messages_sent=number, **waiting),
                dataclasses.replace(NEW, messages_sent=number, bytes_sent=sum(sizes[:number])),
            ]
        assert [await slow.frame() for _ in texts] == [(TEXT, text.encode()) for text in texts]
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=2)
        assert held_app.streams[0].statistics() == held_app.streams[1].statistics()


async def test_handshake_is_not_counted(autojump_clock: trio.testing.MockClock) -> None:
    """The response to the handshake counts neither as queued nor as sent bytes."""
    async with HeldApp().open(LOCKSTEP) as held_app:
        assert held_app.connect_to is not None
        client = RawClient(held_app.connect_to())
        await client.send(request_bytes("GET / HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = held_app.streams
        assert stream.statistics() == NEW
        await stream.send("hello")
        assert stream.statistics() == dataclasses.replace(NEW, messages_sent=1, queued_messages=1, queued_bytes=7)
        assert (await client.reply()).status == 101
        assert await client.frame() == (TEXT, b"hello")
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics() == dataclasses.replace(NEW, messages_sent=1, bytes_sent=7)


async def test_client_that_disconnects_before_the_101() -> None:
    """A client that disconnects before its 101 counts no sent bytes, and no negative number."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook))
    async with served_in_memory(app) as connect:
        client = connect()
        await client.send_all(request_bytes("GET / HTTP/1.1"))
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        stream = streams.receive_nowait()
        assert stream.closed
        assert stream.statistics() == NEW


async def test_read_ahead_and_pauses(autojump_clock: trio.testing.MockClock) -> None:
    """Messages behind a slow handler are read ahead up to the bound, and each pause there counts once."""
    async with HeldApp(max_read_ahead=4).open() as held_app:
        client = await held_app.join()
        (stream,) = held_app.streams
        for number in range(1, 8):
            await client.send(client_frame(TEXT, b"work"))
            await trio.sleep(A_WHILE)
            ahead = min(number - 1, 4)
            held_app.check(connections=1, handlers_running=1, read_ahead=ahead, read_pauses=number >= 5)
            received = min(number, 5)
            assert stream.statistics().messages_received == received
            assert stream.statistics().read_ahead == ahead
            assert stream.statistics().read_pauses == (number >= 5)
        held_app.go.set()
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=1, read_pauses=1)
        assert held_app.handled == stream.statistics().messages_received == 7
        # The next pause counts again.
        held_app.go = trio.Event()
        await client.send(client_frame(TEXT, b"work") * 6)
        await trio.sleep(A_WHILE)
        held_app.check(connections=1, handlers_running=1, read_ahead=4, read_pauses=2)


# ---------------------------------------------------------------------------------------------------- totals


async def test_send_waits_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    """Each ``send`` that has to wait counts once, whether it waits for room or for other senders."""
    async with HeldApp(max_outbox_messages=1).open(LOCKSTEP) as held_app, trio.open_nursery() as nursery:
        client = await held_app.join()
        (stream,) = held_app.streams
        for number in range(5):
            nursery.start_soon(stream.send, str(number))
            await trio.testing.wait_all_tasks_blocked()
            waits = max(number - 1, 0)
            # One message is being written, and one may wait.
            queued = min(number + 1, 2)
            held_app.check(connections=1, send_waits=waits, queued_messages=queued, queued_bytes=queued * 3)
            assert stream.statistics().send_waits == waits
            assert stream.statistics().messages_sent == queued
        assert [await client.frame() for _ in range(5)] == [(TEXT, str(number).encode()) for number in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        held_app.check(connections=1, send_waits=3)


@pytest.mark.parametrize(
    ("policy", "dropped", "waiting"),
    [
        (WhenFull.DROP_NEWEST, 4, 2),
        (WhenFull.DROP_OLDEST, 4, 2),
        (KeepLatest("price"), 4, 2),
    ],
    ids=str,
)
async def test_dropped_messages_are_counted(
    policy: WhenFull | KeepLatest, dropped: int, waiting: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Each message that a policy drops is counted for its stream and the app, and not as sent."""
    async with HeldApp(max_outbox_messages=1).open(LOCKSTEP) as held_app:
        client, _ = await held_app.join(), await held_app.join()
        held_app.streams[0].subscribe("price")
        for number in range(6):
            await held_app.app.sender().publish("price", str(number), when_full=policy)
            await trio.testing.wait_all_tasks_blocked()
        queued = {"queued_messages": waiting, "queued_bytes": 3 * waiting}
        held_app.check(connections=2, subscribers={"price": 1}, dropped=dropped, **queued)
        assert [stream.statistics() for stream in held_app.streams] == [
            dataclasses.replace(NEW, messages_sent=6 - dropped, dropped=dropped, **queued),
            NEW,
        ]
        newest = "1" if policy is WhenFull.DROP_NEWEST else "5"
        assert [await client.frame(), await client.frame()] == [(TEXT, b"0"), (TEXT, newest.encode())]
        await client.send(close_frame(1000))
        await client.rest()
        held_app.check(connections=1, dropped=dropped)


@pytest.mark.parametrize("reads_on", [False, True])
async def test_slow_closes_are_counted(reads_on: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A stream that is closed because it is full counts once, whether its client reads the Close or is cut off."""
    async with HeldApp(max_outbox_messages=1).open(LOCKSTEP) as held_app:
        client = await held_app.join()
        for _ in range(3):
            await held_app.app.sender().broadcast("hello")
            await trio.testing.wait_all_tasks_blocked()
        # The first message is being written, the second is dropped by the close, and the third did not fit.
        held_app.check(connections=1, slow_closes=1, dropped=2, queued_messages=1, queued_bytes=7)
        if reads_on:
            assert await client.frame() == (TEXT, b"hello")
            assert await client.close_code() == 1013
            await client.send(close_frame(1013))
        await trio.sleep(20)
        held_app.check(slow_closes=1, dropped=2)
        assert held_app.streams[0].close_code == 1013


async def test_cut_off_clients_are_slow_closes(autojump_clock: trio.testing.MockClock) -> None:
    """A client that is cut off by the write timeout or the close timeout counts as a slow close."""
    async with HeldApp().open(LOCKSTEP) as held_app:
        for number, end in enumerate(("write", "close"), 1):
            await held_app.join()
            stream = held_app.streams[-1]
            await (stream.send("hello") if end == "write" else stream.close())
            await trio.testing.wait_all_tasks_blocked()
            assert held_app.app.statistics().slow_closes == number - 1
            await trio.sleep(40)
            held_app.check(slow_closes=number)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("end", ["client", "server", "failure", "app"])
async def test_unhandled_messages_are_counted(
    end: str, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """However a stream ends, each received message was passed to a handler or counts as unhandled."""
    held_app = HeldApp(concurrency=concurrency)
    begun: list[str | None] = []

    async def handle(stream: AsyncStream[None], message: Message, state: None) -> None:
        begun.append(message.text)
        await held_app.hold(stream, message, state)

    held_app.app.with_message_handler(handle)
    async with held_app.open():
        client = await held_app.join()
        (stream,) = held_app.streams
        first = b"fail" if end == "failure" else b"work"
        await client.send(client_frame(TEXT, first) + client_frame(TEXT, b"work") * 9)
        await trio.sleep(A_WHILE)
        held_app.check(connections=1, handlers_running=concurrency, read_ahead=10 - concurrency)
        match end:
            case "client":
                await client.send(close_frame(1000))
            case "server":
                await stream.close()
                held_app.go.set()
            case "failure":
                held_app.go.set()
            case "app":
                held_app.scope.cancel()
        await trio.sleep(20)
        assert len(begun) == concurrency
        assert stream.statistics().messages_received == 10
        assert stream.statistics().unhandled == 10 - concurrency
        assert stream.statistics().read_ahead == 0
        held_app.check(unhandled=10 - concurrency, slow_closes=end != "client")


@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled"])
async def test_unhandled_without_a_message_handler(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """Without a message handler, no message counts as unhandled, however the connect handler ends."""
    go = trio.Event()

    async def connect(stream: AsyncStream[None], state: None) -> None:
        held_app.streams.append(stream)
        await go.wait()
        if end == "fails":
            raise RuntimeError("on purpose")

    held_app = HeldApp()
    held_app.app = AsyncWebsocketApp.new_unlinked().with_connect_handler(connect)
    async with held_app.open():
        client = await held_app.join()
        await client.send(client_frame(TEXT, b"work") * 3)
        await trio.sleep(A_WHILE)
        held_app.check(connections=1, handlers_running=1, read_ahead=3)
        if end != "is cancelled":
            go.set()
            await trio.testing.wait_all_tasks_blocked()
            held_app.check(connections=1)
        await client.send(close_frame(1000))
        await trio.sleep(A_WHILE)
        held_app.check()
        assert held_app.streams[0].statistics().messages_received == 3


async def test_messages_after_our_close(autojump_clock: trio.testing.MockClock) -> None:
    """Messages that arrive after the server's Close are discarded; only their bytes count."""
    held_app = HeldApp()
    held_app.go.set()
    async with held_app.open():
        client = await held_app.join()
        (stream,) = held_app.streams
        await client.send(client_frame(TEXT, b"work"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.close()
        await client.send(client_frame(TEXT, b"late") * 3 + close_frame(1000))
        await client.rest()
        assert held_app.handled == stream.statistics().messages_received == 1
        assert stream.statistics().unhandled == 0
        assert stream.statistics().bytes_received == 4 * 10 + 8


async def test_app_statistics_are_the_sum_of_its_streams(autojump_clock: trio.testing.MockClock) -> None:
    """The statistics of an app are the sum of its streams, including the totals of ended streams."""
    sums = ("queued_messages", "queued_bytes", "read_ahead", "dropped", "unhandled", "send_waits", "read_pauses")

    def added_up() -> dict[str, int]:
        each = [stream.statistics() for stream in held_app.streams]
        return {name: sum(getattr(one, name) for one in each) for name in sums}

    async def send(stream: AsyncStream[None]) -> None:
        with suppress(ConnectionClosed):
            await stream.send("hello")

    async with (
        HeldApp(max_outbox_messages=2, max_read_ahead=2, concurrency=2).open(LOCKSTEP) as held_app,
        trio.open_nursery() as nursery,
    ):
        clients = [await held_app.join() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(client_frame(TEXT, b"work") * 2 * number)
            for _ in range(3 + number):
                nursery.start_soon(send, held_app.streams[number])
        await held_app.app.sender().broadcast("news", when_full=WhenFull.DROP_NEWEST)
        await trio.sleep(A_WHILE)
        statistics = held_app.app.statistics()
        assert {name: getattr(statistics, name) for name in sums} == added_up()
        assert all(added_up()[name] for name in sums if name != "unhandled")
        for client in clients[:2]:
            await client.send(close_frame(1000))
            await client.rest()
        for client in clients[2:]:
            await trio.aclose_forcefully(client.stream)
        await trio.sleep(A_WHILE)
        statistics = held_app.app.statistics()
        assert {name: getattr(statistics, name) for name in sums} == added_up()
        assert added_up()["unhandled"]


async def test_reading_statistics_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Repeated calls of ``statistics`` on a busy app return the same values."""
    async with HeldApp(max_read_ahead=2, max_outbox_messages=2).open(LOCKSTEP) as held_app:
        clients = [await held_app.join() for _ in range(3)]
        for number, (stream, client) in enumerate(zip(held_app.streams, clients, strict=True)):
            stream.subscribe(number)
            stream.start_soon(trio.sleep_forever)
            await client.send(client_frame(TEXT, b"work") * 5)
        for _ in range(5):
            await held_app.app.sender().broadcast("hello", when_full=WhenFull.DROP_OLDEST)
        await trio.sleep(A_WHILE)

        def ask() -> list[object]:
            return [held_app.app.statistics(), *(stream.statistics() for stream in held_app.streams)]

        first = ask()
        assert all(ask() == first for _ in range(100))
        await trio.lowlevel.checkpoint()
        assert ask() == first


async def test_statistics_equal_the_close_record(autojump_clock: trio.testing.MockClock) -> None:
    """In the disconnect handler, a stream's statistics and its close record have the same values."""
    seen: list[tuple[StreamStatistics, Any]] = []

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        seen.append((stream.statistics(), stream.close_record))

    held_app = HeldApp(max_outbox_messages=2)
    held_app.app.with_disconnect_handler(on_disconnect)
    async with held_app.open(LOCKSTEP) as held_app:
        client = await held_app.join()
        await client.send(client_frame(TEXT, b"work") * 3)
        for _ in range(4):
            await held_app.app.sender().broadcast("hello", when_full=WhenFull.DROP_OLDEST)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(A_WHILE)
        await client.send(close_frame(1000))
        await client.rest()
    ((statistics, record),) = seen
    for field in dataclasses.fields(StreamStatistics):
        if hasattr(record, field.name) and not field.name.startswith("queued"):
            assert getattr(record, field.name) == getattr(statistics, field.name), field.name
    assert (record.queued_messages, record.queued_bytes) == (3, 21)
    assert statistics.dropped == 1
    assert statistics.unhandled == 2
