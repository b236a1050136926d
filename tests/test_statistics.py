"""What streams and apps tell of themselves while they run: every count, and that counting costs nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
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
    websocket_handler,
)
from humphrey_trio.websocket import AppStatistics, Deflate, KeepLatest, StreamStatistics, WhenFull, WhenLeft
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, memory_and_each_link, reset
from tests.support.wire import (
    BINARY,
    CONTINUATION,
    HANDSHAKE_FIELDS,
    PING,
    TEXT,
    client_frame,
    close_frame,
    request_bytes,
)

HOOK_SIZE = 64

#: An app that has done nothing, and a stream.
NOTHING = AppStatistics(
    connections=0,
    waiting_in_hook=0,
    waiting_for_hook=0,
    handlers_running=0,
    tasks_running=0,
    queued_messages=0,
    queued_bytes=0,
    read_ahead=0,
    subscribers={},
    dropped=0,
    unhandled=0,
    slow_closes=0,
    send_waits=0,
    read_pauses=0,
)
NEW = StreamStatistics(
    messages_received=0,
    bytes_received=0,
    messages_sent=0,
    bytes_sent=0,
    queued_messages=0,
    queued_bytes=0,
    read_ahead=0,
    dropped=0,
    unhandled=0,
    slow_closes=0,
    send_waits=0,
    read_pauses=0,
)

MEMORY, LOCKSTEP = trio.testing.memory_stream_pair, trio.testing.lockstep_stream_pair
#: Sweeps until a busy stream is read ahead for, and some.
A_WHILE = 1.0


class Workshop:
    """An app whose message handlers run until they are let go.

    Attributes:
        app: its handlers of other kinds are replaced by some tests.
        streams: all that have connected, in their order.
        handled: how many messages were handled to the end.
        go: what the message handlers wait for; those that got "fail" raise then.
        scope: the app runs in it.
    """

    def __init__(self, **options: Any) -> None:
        self.streams: list[AsyncStream[None]] = []
        self.handled = 0
        self.go = trio.Event()
        self.app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self._connect)
            .with_message_handler(self.hold)
        )
        self.scope = trio.CancelScope()
        self.connect_to: Callable[[], trio.abc.Stream] | None = None

    async def _connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams.append(stream)

    async def hold(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await self.go.wait()
        self.handled += 1
        if message.text == "fail":
            raise RuntimeError("on purpose")

    @asynccontextmanager
    async def open(
        self, pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = MEMORY
    ) -> AsyncGenerator[Workshop]:
        """Serve it in memory until the end of the block."""
        app = App().with_websocket_route("/", async_websocket_handler(self.app.connect_hook()))
        with trio.fail_after(PATIENCE):
            async with served_in_memory(app, pair) as self.connect_to, trio.open_nursery() as nursery:
                nursery.start_soon(self._run)
                yield self
                self.scope.cancel()

    async def _run(self) -> None:
        with self.scope:
            await self.app.run()

    async def join(self) -> RawClient:
        """Connect a client that answers nothing."""
        assert self.connect_to is not None
        client = await RawClient(self.connect_to()).open()
        await trio.testing.wait_all_tasks_blocked()
        return client

    def tells(self, **counts: Any) -> None:
        """Check the app's statistics: these counts, and zero for all others."""
        assert self.app.statistics() == dataclasses.replace(NOTHING, **counts)


# ----------------------------------------------------------------------------------------------- values


def test_statistics_are_values() -> None:
    """Statistics of an app and of a stream are frozen, have nothing but their fields, and equal by value."""
    for value in (NOTHING, NEW):
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, 1)
        assert not hasattr(value, "__dict__")
        assert dataclasses.replace(value) == value
        assert dataclasses.replace(value, dropped=1) != value


async def test_statistics_are_of_one_moment() -> None:
    """What was told before changes with nothing that happens later, nor does changing it change the app."""
    async with Workshop().open() as workshop:
        await workshop.join()
        (stream,) = workshop.streams
        stream.subscribe("news")
        before, of_stream = workshop.app.statistics(), stream.statistics()
        stream.subscribe("weather")
        await stream.send("hello")
        assert before == dataclasses.replace(NOTHING, connections=1, subscribers={"news": 1})
        assert of_stream == NEW
        assert isinstance(before.subscribers, dict)
        before.subscribers.clear()
        assert workshop.app.statistics().subscribers == {"news": 1, "weather": 1}


# ------------------------------------------------------------------------------------ the life of an app


async def test_an_app_before_it_runs_and_after(autojump_clock: trio.testing.MockClock) -> None:
    """Before it runs an app tells of its hook, then of its streams, and in the end of what has added up."""
    workshop = Workshop(max_outbox_messages=1)
    workshop.tells()
    app = App().with_websocket_route("/", async_websocket_handler(workshop.app.connect_hook()))
    async with served_in_memory(app, LOCKSTEP) as connect, trio.open_nursery() as nursery:
        clients = [await RawClient(connect()).open() for _ in range(3)]
        workshop.tells(waiting_in_hook=3)
        nursery.start_soon(workshop.app.run)
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=3)
        for _ in range(3):
            await workshop.app.sender().broadcast("hello", when_full=WhenFull.DROP_NEWEST)
            await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=3, dropped=3, queued_messages=6, queued_bytes=6 * 7)
        await clients[0].send(close_frame(1000))
        assert [frame[1] for frame in await clients[0].rest()][:2] == [b"hello"] * 2
        workshop.tells(connections=2, dropped=3, queued_messages=4, queued_bytes=4 * 7)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        workshop.tells(dropped=3)
    workshop.tells(dropped=5)  # two waited when the HTTP app ended


@pytest.mark.parametrize("options", [{}, {"max_connections": 2}], ids=["before it runs", "while it is full"])
async def test_the_hook(options: dict[str, Any], autojump_clock: trio.testing.MockClock) -> None:
    """Streams that nobody took yet wait in the hook, and upgrades wait for a place in it, for a moment."""
    workshop = Workshop(**options)
    served = options.get("max_connections", 0)
    app = App().with_websocket_route("/", async_websocket_handler(workshop.app.connect_hook()))
    async with served_in_memory(app) as connect, trio.open_nursery() as nursery:
        if served:
            nursery.start_soon(workshop.app.run)
        clients = [await RawClient(connect()).open() for _ in range(served)]
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=served)
        clients += [RawClient(connect()) for _ in range(HOOK_SIZE + 3)]
        for number, client in enumerate(clients[served:], 1):
            await client.send(request_bytes("GET / HTTP/1.1"))
            await trio.testing.wait_all_tasks_blocked()
            waiting = {"waiting_in_hook": min(number, HOOK_SIZE), "waiting_for_hook": max(number - HOOK_SIZE, 0)}
            workshop.tells(connections=served, **waiting)
        await trio.sleep(2)
        workshop.tells(connections=served, waiting_in_hook=HOOK_SIZE)
        assert [(await client.reply()).status for client in clients[served:]] == [101] * HOOK_SIZE + [503] * 3
        if served:
            await clients[0].send(close_frame(1000))
            await trio.testing.wait_all_tasks_blocked()
            workshop.tells(connections=served, waiting_in_hook=HOOK_SIZE - 1)
        else:
            nursery.start_soon(workshop.app.run)
            await trio.testing.wait_all_tasks_blocked()
            workshop.tells(connections=HOOK_SIZE)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
    workshop.tells()


async def test_connections_are_those_that_are_served(autojump_clock: trio.testing.MockClock) -> None:
    """A stream counts from when the app took it until it has left, whoever ended it."""
    async with Workshop().open() as workshop:
        clients = [await workshop.join() for _ in range(4)]
        workshop.tells(connections=4)
        await clients[0].send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=3)
        await trio.aclose_forcefully(clients[1].stream)
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2)
        await workshop.streams[2].close()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2)  # its client has not answered yet
        await clients[2].send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=1)


async def test_subscribers() -> None:
    """The subscribers of each topic are counted, and a topic without one is not there."""
    async with Workshop().open() as workshop:
        client, *_ = [await workshop.join() for _ in range(3)]
        one, two, three = workshop.streams
        for stream in (one, two, three):
            stream.subscribe("all")
        one.subscribe(("of", "one"))
        two.subscribe(None)
        two.unsubscribe(None)
        workshop.tells(connections=3, subscribers={"all": 3, ("of", "one"): 1})
        await client.send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2, subscribers={"all": 2})


# --------------------------------------------------------------------------------------- what is running


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_message_handlers_running(concurrency: int, autojump_clock: trio.testing.MockClock) -> None:
    """The handlers that run are counted, as many of each stream as may; the messages behind wait, read ahead."""
    async with Workshop(concurrency=concurrency).open() as workshop:
        clients = [await workshop.join() for _ in range(2)]
        for number in range(1, 6):
            await clients[0].send(client_frame(TEXT, b"work"))
            await trio.sleep(A_WHILE)
            running = min(number, concurrency)
            workshop.tells(connections=2, handlers_running=running, read_ahead=number - running)
        assert workshop.streams[0].statistics() == dataclasses.replace(
            NEW, messages_received=5, bytes_received=5 * 10, read_ahead=5 - concurrency
        )
        await clients[1].send(client_frame(TEXT, b"work"))
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2, handlers_running=concurrency + 1, read_ahead=5 - concurrency)
        workshop.go.set()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2)
        assert workshop.handled == 6


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_connect_and_disconnect_handlers_running(
    concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Connect and disconnect handlers count as running; streams count until the latter have returned."""
    go = trio.Event()

    async def wait(stream: AsyncStream[None], state: None) -> None:
        await go.wait()

    workshop = Workshop(concurrency=concurrency)
    workshop.app.with_connect_handler(wait).with_disconnect_handler(wait)
    async with workshop.open():
        clients = [await workshop.join() for _ in range(2)]
        workshop.tells(connections=2, handlers_running=2)
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2)
        go = trio.Event()
        for number, client in enumerate(clients, 1):
            await client.send(close_frame(1000))
            await trio.testing.wait_all_tasks_blocked()
            workshop.tells(connections=2, handlers_running=number)
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells()


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("how", ["fails", "is cancelled", "finishes"])
async def test_handlers_that_end_otherwise(
    how: str, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler counts no longer when it has failed or was cancelled; one that may finish counts until it has."""
    when_left = WhenLeft.FINISH if how == "finishes" else WhenLeft.CANCEL
    async with Workshop(concurrency=concurrency, when_left=when_left).open() as workshop:
        client = await workshop.join()
        await client.send(client_frame(TEXT, b"fail" if how == "fails" else b"work"))
        await trio.sleep(A_WHILE)
        workshop.tells(connections=1, handlers_running=1)
        if how == "fails":
            workshop.go.set()
            await trio.testing.wait_all_tasks_blocked()
            workshop.tells(connections=1)  # its client has not answered yet
        await client.send(close_frame(1000))
        await trio.sleep(A_WHILE)
        if how == "finishes":
            workshop.tells(connections=1, handlers_running=1)
            workshop.go.set()
            await trio.testing.wait_all_tasks_blocked()
        workshop.tells()


async def test_tasks_running(autojump_clock: trio.testing.MockClock) -> None:
    """The tasks of clients are counted until they have ended, those too that take long to end when it has left."""
    ends = [trio.Event() for _ in range(3)]

    async def work(end: trio.Event, stubborn: bool) -> None:
        with trio.move_on_after(PATIENCE, shield=stubborn):
            await end.wait()

    async with Workshop().open() as workshop:
        client, _ = [await workshop.join() for _ in range(2)]
        leaver, stayer = workshop.streams
        for stream, end, stubborn in ((leaver, ends[0], False), (leaver, ends[1], True), (stayer, ends[2], False)):
            stream.start_soon(work, end, stubborn)
        workshop.tells(connections=2, tasks_running=3)
        await client.send(close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2, tasks_running=2)
        ends[1].set()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=1, tasks_running=1)
        ends[2].set()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=1)


# ---------------------------------------------------------------------------------------- what waits


async def test_queued(autojump_clock: trio.testing.MockClock) -> None:
    """Messages that a client does not read wait, the one that is on its way among them; what it reads was sent."""
    texts = [str(number) * number * 50 for number in range(1, 6)]
    sizes = [len(text) + (2 if len(text) < 126 else 4) for text in texts]
    async with Workshop().open(LOCKSTEP) as workshop:
        slow, quick = await workshop.join(), await workshop.join()
        for number, text in enumerate(texts, 1):
            await workshop.app.sender().broadcast(text)
            assert await quick.frame() == (TEXT, text.encode())
            await trio.testing.wait_all_tasks_blocked()
            waiting = {"queued_messages": number, "queued_bytes": sum(sizes[:number])}
            workshop.tells(connections=2, **waiting)
            statistics = [stream.statistics() for stream in workshop.streams]
            assert statistics == [
                dataclasses.replace(NEW, messages_sent=number, **waiting),
                dataclasses.replace(NEW, messages_sent=number, bytes_sent=sum(sizes[:number])),
            ]
        assert [await slow.frame() for _ in texts] == [(TEXT, text.encode()) for text in texts]
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=2)
        assert workshop.streams[0].statistics() == workshop.streams[1].statistics()


async def test_the_handshake_counts_nowhere(autojump_clock: trio.testing.MockClock) -> None:
    """The handshake's answer is none of the bytes that wait or were sent, even while it waits itself."""
    async with Workshop().open(LOCKSTEP) as workshop:
        assert workshop.connect_to is not None
        client = RawClient(workshop.connect_to())
        await client.send(request_bytes("GET / HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = workshop.streams
        assert stream.statistics() == NEW
        await stream.send("hello")
        assert stream.statistics() == dataclasses.replace(NEW, messages_sent=1, queued_messages=1, queued_bytes=7)
        assert (await client.reply()).status == 101
        assert await client.frame() == (TEXT, b"hello")
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics() == dataclasses.replace(NEW, messages_sent=1, bytes_sent=7)


async def test_a_client_that_is_gone_at_once() -> None:
    """A client that leaves before it has its handshake's answer was sent nothing, not less."""
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
    """Messages behind a slow handler are read ahead up to the bound; that reading paused there is counted once."""
    async with Workshop(max_read_ahead=4).open() as workshop:
        client = await workshop.join()
        (stream,) = workshop.streams
        for number in range(1, 8):
            await client.send(client_frame(TEXT, b"work"))
            await trio.sleep(A_WHILE)
            ahead = min(number - 1, 4)
            workshop.tells(connections=1, handlers_running=1, read_ahead=ahead, read_pauses=number >= 5)
            received = min(number, 5)
            assert stream.statistics().messages_received == received
            assert stream.statistics().read_ahead == ahead
            assert stream.statistics().read_pauses == (number >= 5)
        workshop.go.set()
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=1, read_pauses=1)
        assert workshop.handled == stream.statistics().messages_received == 7
        # And once more for the next time.
        workshop.go = trio.Event()
        await client.send(client_frame(TEXT, b"work") * 6)
        await trio.sleep(A_WHILE)
        workshop.tells(connections=1, handlers_running=1, read_ahead=4, read_pauses=2)


# -------------------------------------------------------------------------------------- what adds up


async def test_send_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Each ``send`` that had to wait for room counts once, be it that it waits for room or behind others."""
    async with Workshop(max_outbox_messages=1).open(LOCKSTEP) as workshop, trio.open_nursery() as nursery:
        client = await workshop.join()
        (stream,) = workshop.streams
        for number in range(5):
            nursery.start_soon(stream.send, str(number))
            await trio.testing.wait_all_tasks_blocked()
            waits = max(number - 1, 0)
            # One is on its way, and one may wait.
            queued = min(number + 1, 2)
            workshop.tells(connections=1, send_waits=waits, queued_messages=queued, queued_bytes=queued * 3)
            assert stream.statistics().send_waits == waits
            assert stream.statistics().messages_sent == queued
        assert [await client.frame() for _ in range(5)] == [(TEXT, str(number).encode()) for number in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        workshop.tells(connections=1, send_waits=3)


@pytest.mark.parametrize(
    ("policy", "dropped", "waiting"),
    [
        (WhenFull.DROP_NEWEST, 4, 2),
        (WhenFull.DROP_OLDEST, 4, 2),
        (KeepLatest("price"), 4, 2),
    ],
    ids=str,
)
async def test_dropped(
    policy: WhenFull | KeepLatest, dropped: int, waiting: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Each message that a policy has dropped is counted, for its stream and for the app; it was not sent."""
    async with Workshop(max_outbox_messages=1).open(LOCKSTEP) as workshop:
        client, _ = await workshop.join(), await workshop.join()
        workshop.streams[0].subscribe("price")
        for number in range(6):
            await workshop.app.sender().publish("price", str(number), when_full=policy)
            await trio.testing.wait_all_tasks_blocked()
        queued = {"queued_messages": waiting, "queued_bytes": 3 * waiting}
        workshop.tells(connections=2, subscribers={"price": 1}, dropped=dropped, **queued)
        assert [stream.statistics() for stream in workshop.streams] == [
            dataclasses.replace(NEW, messages_sent=6 - dropped, dropped=dropped, **queued),
            NEW,
        ]
        newest = "1" if policy is WhenFull.DROP_NEWEST else "5"
        assert [await client.frame(), await client.frame()] == [(TEXT, b"0"), (TEXT, newest.encode())]
        await client.send(close_frame(1000))
        await client.rest()
        workshop.tells(connections=1, dropped=dropped)


@pytest.mark.parametrize("reads_on", [False, True])
async def test_slow_closes(reads_on: bool, autojump_clock: trio.testing.MockClock) -> None:
    """A stream that is closed because it is full counts once, whether its client hears of it or is cut off."""
    async with Workshop(max_outbox_messages=1).open(LOCKSTEP) as workshop:
        client = await workshop.join()
        for _ in range(3):
            await workshop.app.sender().broadcast("hello")
            await trio.testing.wait_all_tasks_blocked()
        # The third did not fit, and the second waits in vain; the first is on its way.
        workshop.tells(connections=1, slow_closes=1, dropped=2, queued_messages=1, queued_bytes=7)
        if reads_on:
            assert await client.frame() == (TEXT, b"hello")
            assert await client.close_code() == 1013
            await client.send(close_frame(1013))
        await trio.sleep(20)
        workshop.tells(slow_closes=1, dropped=2)
        assert workshop.streams[0].close_code == 1013


async def test_clients_that_are_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes nothing until the write timeout, or does not answer a Close, counts as slow."""
    async with Workshop().open(LOCKSTEP) as workshop:
        for number, end in enumerate(("write", "close"), 1):
            await workshop.join()
            stream = workshop.streams[-1]
            await (stream.send("hello") if end == "write" else stream.close())
            await trio.testing.wait_all_tasks_blocked()
            assert workshop.app.statistics().slow_closes == number - 1
            await trio.sleep(40)
            workshop.tells(slow_closes=number)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("end", ["client", "server", "failure", "app"])
async def test_unhandled(end: str, concurrency: int, autojump_clock: trio.testing.MockClock) -> None:
    """Every message that came in was got by a handler or counts as unhandled, however the stream ends."""
    workshop = Workshop(concurrency=concurrency)
    begun: list[str | None] = []

    async def handle(stream: AsyncStream[None], message: Message, state: None) -> None:
        begun.append(message.text)
        await workshop.hold(stream, message, state)

    workshop.app.with_message_handler(handle)
    async with workshop.open():
        client = await workshop.join()
        (stream,) = workshop.streams
        first = b"fail" if end == "failure" else b"work"
        await client.send(client_frame(TEXT, first) + client_frame(TEXT, b"work") * 9)
        await trio.sleep(A_WHILE)
        workshop.tells(connections=1, handlers_running=concurrency, read_ahead=10 - concurrency)
        match end:
            case "client":
                await client.send(close_frame(1000))
            case "server":
                await stream.close()
                workshop.go.set()
            case "failure":
                workshop.go.set()
            case "app":
                workshop.scope.cancel()
        await trio.sleep(20)
        assert len(begun) == concurrency
        assert stream.statistics().messages_received == 10
        assert stream.statistics().unhandled == 10 - concurrency
        assert stream.statistics().read_ahead == 0
        workshop.tells(unhandled=10 - concurrency, slow_closes=end != "client")  # it did not answer our Close


@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled"])
async def test_messages_that_nobody_wants(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """Without a message handler no message counts as unhandled, however the connect handler ends before it."""
    go = trio.Event()

    async def connect(stream: AsyncStream[None], state: None) -> None:
        workshop.streams.append(stream)
        await go.wait()
        if end == "fails":
            raise RuntimeError("on purpose")

    workshop = Workshop()
    workshop.app = AsyncWebsocketApp.new_unlinked().with_connect_handler(connect)
    async with workshop.open():
        client = await workshop.join()
        await client.send(client_frame(TEXT, b"work") * 3)
        await trio.sleep(A_WHILE)
        workshop.tells(connections=1, handlers_running=1, read_ahead=3)
        if end != "is cancelled":
            go.set()
            await trio.testing.wait_all_tasks_blocked()
            workshop.tells(connections=1)
        await client.send(close_frame(1000))
        await trio.sleep(A_WHILE)
        workshop.tells()
        assert workshop.streams[0].statistics().messages_received == 3


async def test_messages_behind_our_close(autojump_clock: trio.testing.MockClock) -> None:
    """Messages that come when the server has closed already are read away and no messages; their bytes count."""
    workshop = Workshop()
    workshop.go.set()
    async with workshop.open():
        client = await workshop.join()
        (stream,) = workshop.streams
        await client.send(client_frame(TEXT, b"work"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.close()
        await client.send(client_frame(TEXT, b"late") * 3 + close_frame(1000))
        await client.rest()
        assert workshop.handled == stream.statistics().messages_received == 1
        assert stream.statistics().unhandled == 0
        assert stream.statistics().bytes_received == 4 * 10 + 8


async def test_an_app_is_the_sum_of_its_streams(autojump_clock: trio.testing.MockClock) -> None:
    """What an app tells is the sum of what its streams tell; it keeps what added up on those that have left."""
    sums = ("queued_messages", "queued_bytes", "read_ahead", "dropped", "unhandled", "send_waits", "read_pauses")

    def added_up() -> dict[str, int]:
        each = [stream.statistics() for stream in workshop.streams]
        return {name: sum(getattr(one, name) for one in each) for name in sums}

    async def send(stream: AsyncStream[None]) -> None:
        with suppress(ConnectionClosed):
            await stream.send("hello")

    async with (
        Workshop(max_outbox_messages=2, max_read_ahead=2, concurrency=2).open(LOCKSTEP) as workshop,
        trio.open_nursery() as nursery,
    ):
        clients = [await workshop.join() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(client_frame(TEXT, b"work") * 2 * number)
            for _ in range(3 + number):
                nursery.start_soon(send, workshop.streams[number])
        await workshop.app.sender().broadcast("news", when_full=WhenFull.DROP_NEWEST)
        await trio.sleep(A_WHILE)
        statistics = workshop.app.statistics()
        assert {name: getattr(statistics, name) for name in sums} == added_up()
        assert all(added_up()[name] for name in sums if name != "unhandled")
        for client in clients[:2]:
            await client.send(close_frame(1000))
            await client.rest()
        for client in clients[2:]:
            await trio.aclose_forcefully(client.stream)
        await trio.sleep(A_WHILE)
        statistics = workshop.app.statistics()
        assert {name: getattr(statistics, name) for name in sums} == added_up()
        assert added_up()["unhandled"]


async def test_asking_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Asking a busy app and its streams again and again gives the same answer each time."""
    async with Workshop(max_read_ahead=2, max_outbox_messages=2).open(LOCKSTEP) as workshop:
        clients = [await workshop.join() for _ in range(3)]
        for number, (stream, client) in enumerate(zip(workshop.streams, clients, strict=True)):
            stream.subscribe(number)
            stream.start_soon(trio.sleep_forever)
            await client.send(client_frame(TEXT, b"work") * 5)
        for _ in range(5):
            await workshop.app.sender().broadcast("hello", when_full=WhenFull.DROP_OLDEST)
        await trio.sleep(A_WHILE)

        def ask() -> list[object]:
            return [workshop.app.statistics(), *(stream.statistics() for stream in workshop.streams)]

        first = ask()
        assert all(ask() == first for _ in range(100))
        await trio.lowlevel.checkpoint()
        assert ask() == first


async def test_statistics_at_the_end_are_those_of_the_record(autojump_clock: trio.testing.MockClock) -> None:
    """In the disconnect handler a stream's statistics and its close record tell the same."""
    seen: list[tuple[StreamStatistics, Any]] = []

    async def part(stream: AsyncStream[None], state: None) -> None:
        seen.append((stream.statistics(), stream.close_record))

    workshop = Workshop(max_outbox_messages=2)
    workshop.app.with_disconnect_handler(part)
    async with workshop.open(LOCKSTEP) as workshop:
        client = await workshop.join()
        await client.send(client_frame(TEXT, b"work") * 3)
        for _ in range(4):
            await workshop.app.sender().broadcast("hello", when_full=WhenFull.DROP_OLDEST)
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


# ------------------------------------------------------------------------------------ bytes on the wire


#: The first reserved bit: the message is compressed.
COMPRESSED = 0b100
HELLO_COMPRESSED = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # RFC 7692, section 7.2.3.1

#: What clients say, in frames, and how many messages it is.
CONVERSATIONS = {
    "nothing": ([], 0),
    "messages": ([client_frame(TEXT, b"x" * size) for size in (0, 1, 125, 126, 1000, 65536)], 6),
    "a large one": ([client_frame(BINARY, b"x" * 1_000_000)], 1),
    "fragments": (
        [
            client_frame(TEXT, b"frag", fin=False),
            client_frame(PING, b"between"),
            client_frame(CONTINUATION, b"", fin=False),
            client_frame(CONTINUATION, b"ment"),
        ],
        1,
    ),
    "pings": ([client_frame(PING, b"x" * size) for size in (0, 7, 125)], 0),
    "compressed": ([client_frame(TEXT, HELLO_COMPRESSED, rsv=COMPRESSED), client_frame(TEXT, b"x" * 1000)], 2),
}


class Meter:
    """A client that counts the bytes it sends and gets behind the handshake, and answers nothing."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = b""
        self.sent = 0

    async def open(self, fields: Iterable[tuple[str, str]], *frames: bytes) -> None:
        """Do the handshake, with the first frames in the same packet."""
        await self._stream.send_all(request_bytes("GET / HTTP/1.1", fields) + b"".join(frames))
        self.sent = sum(map(len, frames))
        while b"\r\n\r\n" not in self._received:
            self._received += await self._stream.receive_some()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")

    async def send(self, *frames: bytes) -> None:
        """Send frames, in one piece."""
        data = b"".join(frames)
        await self._stream.send_all(data)
        self.sent += len(data)

    async def read_to_the_end(self) -> int:
        """How many bytes of frames the server has sent up to the end of the connection, be it clean or not."""
        with suppress(trio.BrokenResourceError):
            while data := await self._stream.receive_some():
                self._received += data
        return len(self._received)

    async def close(self) -> None:
        """Leave."""
        await self._stream.aclose()

    def reset(self) -> None:
        """Leave at once, without letting other tasks run."""
        reset(self._stream)


class Echo:
    """An app of either kind that echoes on a route each, and keeps its streams."""

    def __init__(self, deflate: Deflate | None) -> None:
        self.streams: list[AsyncStream[None] | WebsocketStream] = []
        self.websocket_app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked()
            .with_connect_handler(self._connect)
            .with_message_handler(self._message)
        )
        hook = self.websocket_app.connect_hook()
        self.routes = {
            "app": async_websocket_handler(hook, deflate=deflate),
            "handler": websocket_handler(self._handle, deflate=deflate),
        }

    async def _connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams.append(stream)

    async def _message(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await stream.send(message)

    async def _handle(self, stream: WebsocketStream, state: None) -> None:
        self.streams.append(stream)
        async for message in stream:
            await stream.send(message)


@asynccontextmanager
async def metered(echo: Echo, kind: str, link: Link | None) -> AsyncGenerator[Meter]:
    """A client that counts, of one kind of app, over a socket or, without a link, in memory."""
    app = App().with_websocket_route("/", echo.routes[kind])
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.websocket_app.run)
            if link is not None:
                (address,) = await nursery.start(link.run(app), ANY_PORT)
                async with await link.connect(address) as stream:
                    yield Meter(stream)
            else:
                async with served_in_memory(app) as connect:
                    yield Meter(connect())
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("together", [False, True], ids=["apart", "with the handshake"])
@memory_and_each_link
@pytest.mark.parametrize("kind", ["app", "handler"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_bytes_are_those_on_the_wire(
    conversation: str, kind: str, link: Link | None, together: bool
) -> None:
    """The bytes that a stream received and sent are those that its client has counted, without the handshake."""
    frames, messages = CONVERSATIONS[conversation]
    fields = list(HANDSHAKE_FIELDS)
    if conversation == "compressed":
        fields.append(("Sec-WebSocket-Extensions", "permessage-deflate"))
    echo = Echo(Deflate(min_size=10))
    async with metered(echo, kind, link) as client:
        await client.open(fields, *(frames if together else ()))
        for frame in () if together else frames:
            await client.send(frame)
        await client.send(close_frame(1000))
        received = await client.read_to_the_end()
        (stream,) = echo.streams
        statistics = stream.statistics()
        assert (statistics.bytes_received, statistics.bytes_sent) == (client.sent, received)
        assert statistics.messages_received == messages
        if kind == "app":  # it reads the Close behind the messages; the handler may be too late for its answers
            assert statistics.messages_sent == messages
        assert (statistics.queued_messages, statistics.queued_bytes) == (0, 0)


@memory_and_each_link
async def test_bytes_of_a_close_count(link: Link | None) -> None:
    """If the server closes, its Close and the client's answer are counted."""
    echo = Echo(None)
    async with metered(echo, "app", link) as client:
        await client.open(HANDSHAKE_FIELDS)
        await client.send(client_frame(TEXT, b"hello"))
        while not echo.streams or not echo.streams[0].statistics().messages_sent:
            await trio.testing.wait_all_tasks_blocked()
        await echo.streams[0].close(4000, "that is all")
        await client.send(close_frame(4000))
        assert await client.read_to_the_end() == 2 + 5 + 4 + 11
        statistics = echo.streams[0].statistics()
        assert (statistics.bytes_received, statistics.bytes_sent) == (client.sent, 2 + 5 + 4 + 11)


@memory_and_each_link
@pytest.mark.parametrize("full", [False, True], ids=["with room", "full"])
async def test_last_words_count(full: bool, link: Link | None) -> None:
    """What a cancelled server still says is counted: its Close, and what waits, as far as the system takes it."""
    echo = Echo(None)
    app = App().with_websocket_route("/", echo.routes["app"])
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo.websocket_app.run)
            async with trio.open_nursery() as http:
                if link is None:
                    ours, theirs = MEMORY()
                    http.start_soon(app.serve_stream, theirs)
                    client = Meter(ours)
                else:
                    (address,) = await http.start(link.run(app), ANY_PORT)
                    client = Meter(await link.connect(address))
                await client.open(HANDSHAKE_FIELDS)
                while not echo.streams:
                    await trio.testing.wait_all_tasks_blocked()
                (stream,) = echo.streams
                await stream.send("hello")
                await trio.testing.wait_all_tasks_blocked()
                assert stream.statistics().bytes_sent == 7
                while full and link and not stream.statistics().queued_bytes:
                    await stream.send(b"x" * 500_000)
                http.cancel_scope.cancel()
            received = await client.read_to_the_end()
            assert stream.statistics().bytes_sent == received
            assert (full and link) or received == 7 + 4
            await client.close()
            nursery.cancel_scope.cancel()


@each_link
@pytest.mark.parametrize("how", ["send", "broadcast"])
async def test_what_cannot_be_sent_was_not_sent(how: str, link: Link) -> None:
    """A message whose sending tells that the client is gone counts as neither sent nor dropped."""
    echo = Echo(None)
    async with metered(echo, "app", link) as client:
        await client.open(HANDSHAKE_FIELDS)
        while not echo.streams:
            await trio.testing.wait_all_tasks_blocked()
        (stream,) = echo.streams
        client.reset()
        if how == "send":
            with pytest.raises(ConnectionClosed):
                await stream.send("hello")
        else:
            await echo.websocket_app.sender().broadcast("hello")
        assert stream.closed
        assert stream.statistics() == NEW


async def test_what_was_on_its_way_counts(autojump_clock: trio.testing.MockClock) -> None:
    """If a client ends its side while it is written to, and reads on, what it gets is counted."""
    async with Workshop().open(LOCKSTEP) as workshop:
        client = await workshop.join()
        (stream,) = workshop.streams
        for text in ("on its way", "waits"):
            await stream.send(text)
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(client.stream, trio.StapledStream)
        await client.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        assert await client.rest() == [(TEXT, b"on its way")]
        assert stream.statistics() == dataclasses.replace(NEW, messages_sent=1, bytes_sent=12, dropped=1)
