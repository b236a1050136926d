"""Fairness: every connection gets its turn, broadcasts have one order, and slow clients have bounds."""

from __future__ import annotations

import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message, Response, Timeouts
from humphrey_trio._websocket._protocol import _encoder
from humphrey_trio._websocket._protocol._encoder import encode_message
from humphrey_trio.testing import open_websocket
from humphrey_trio.websocket import KeepLatest, WhenFull
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import linked, served_in_memory
from tests.support.links import Link, each_link
from tests.support.spies import spied_frames
from tests.support.steps import TurnCounter
from tests.support.wire import HANDSHAKE_FIELDS, PING, TEXT, client_frame, request_bytes

MESSAGES_PER_TURN = 64
#: The turns that an echo may take during a busy connection. It needs about ten.
TURNS_PER_ECHO = 50
ECHOES = 20

MIB = 2**20


class Echo:
    """An app that echoes, and records its streams and their close codes."""

    def __init__(self, **options: Any) -> None:
        self.streams: list[AsyncStream[None]] = []
        self.close_codes: list[int | None] = []
        self.app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self.connect)
            .with_message_handler(self.message)
            .with_disconnect_handler(self.disconnect)
        )

    async def connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams.append(stream)

    async def message(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await stream.send(message)

    async def disconnect(self, stream: AsyncStream[None], state: None) -> None:
        self.close_codes.append(stream.close_code)


# ------------------------------------------------------------------------------------------------- turns


@each_link
async def test_send_in_a_tight_loop_lets_other_clients_run(link: Link) -> None:
    """During a tight loop of ``send`` to a fast reader, another client can connect and is served."""
    sent = most_sent = 0
    over = False

    async def flood(stream: AsyncStream[None], message: Message, state: None) -> None:
        nonlocal sent
        if message.text != "flood":
            await stream.send(message)
            return
        # Without turns the loop would go on until the kernel's buffers are full: a hundred thousand messages.
        while not over:
            await stream.send("drop")
            sent += 1

    async def read_away(stream: trio.abc.ReceiveStream) -> None:
        while await stream.receive_some():
            pass

    async with linked(Echo().app.with_message_handler(flood)) as app, trio.open_nursery() as nursery:
        (address,) = await nursery.start(link.run(app), ANY_PORT)
        async with await link.connect(address) as quick_stream:
            quick = await open_websocket(quick_stream)
            await quick.send("flood")
            nursery.start_soon(read_away, quick_stream)
            async with await link.connect(address) as stream:
                client = await open_websocket(stream)
                for number in range(ECHOES):
                    before = sent
                    await client.send(str(number))
                    assert (await client.receive()).text == str(number)
                    most_sent = max(most_sent, sent - before)
                over = True
            nursery.cancel_scope.cancel()
    assert 0 < most_sent <= MESSAGES_PER_TURN * TURNS_PER_ECHO


@pytest.mark.parametrize("kind", ["messages", "pings"])
async def test_many_small_messages_let_other_clients_run(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    """While many small messages or pings of a few reads are handled, another client is served."""
    ended = trio.Event()

    async def on_message(stream: AsyncStream[None], message: Message, state: None) -> None:
        if message.text == "end":
            ended.set()
        elif message.text:
            await stream.send(message)

    async with linked(Echo().app.with_message_handler(on_message)) as app, served_in_memory(app) as connect:
        busy, client = await open_websocket(connect()), await open_websocket(connect())
        small = client_frame(TEXT if kind == "messages" else PING)
        await busy.send_raw(small * (ECHOES * MESSAGES_PER_TURN * TURNS_PER_ECHO) + client_frame(TEXT, b"end"))
        for number in range(ECHOES):
            await client.send(str(number))
            assert (await client.receive()).text == str(number)
        assert not ended.is_set()
        await ended.wait()


@pytest.mark.parametrize("to", ["no client", "unknown", "closing"])
async def test_sender_in_a_tight_loop_lets_other_tasks_run(
    to: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A tight loop of a sender without clients, or to a disconnected client, lets other tasks run."""
    echo = Echo()
    sender, lonely_sender = echo.app.sender(), Echo().app.sender()
    counter = TurnCounter()
    async with (
        linked(echo.app) as app,
        served_in_memory(app) as connect,
        trio.open_nursery() as nursery,
    ):
        await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = echo.streams
        if to == "closing":
            await stream.close()
        nursery.start_soon(counter.run)
        for _ in range(1000):
            if to == "no client":
                await lonely_sender.broadcast("is the server there?")
            else:
                assert not await sender.send(stream.id + (to == "unknown"), "are you there?")
        nursery.cancel_scope.cancel()
    assert counter.turns >= 5


# ------------------------------------------------------------------------------------------- broadcasts


async def test_broadcasts_have_one_order(autojump_clock: trio.testing.MockClock) -> None:
    """Two concurrent tasks broadcast to 500 clients: every client gets all messages in the same order."""
    echo = Echo()
    sender = echo.app.sender()

    async def broadcast_some(name: str) -> None:
        for number in range(20):
            await sender.broadcast(f"{name} {number}")

    async with linked(echo.app) as app, served_in_memory(app) as connect:
        clients = [await open_websocket(connect()) for _ in range(500)]
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broadcast_some, "one")
            nursery.start_soon(broadcast_some, "two")
        received = [[(await client.receive()).text or "" for _ in range(40)] for client in clients]

    assert all(texts == received[0] for texts in received)
    for name in ("one", "two"):
        assert [text for text in received[0] if text.startswith(name)] == [f"{name} {n}" for n in range(20)]
    # The tasks did send concurrently, and not one after the other.
    assert len({text.split()[0] for text in received[0][:20]}) == 2


async def test_broadcast_lets_other_tasks_run(autojump_clock: trio.testing.MockClock) -> None:
    """A broadcast to 500 clients lets other tasks run after every hundred of them."""
    echo = Echo()
    steps = 0
    async with linked(echo.app) as app, served_in_memory(app) as connect, trio.open_nursery() as nursery:
        for _ in range(500):
            await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()

        @nursery.start_soon
        async def count_turns() -> None:
            nonlocal steps
            while True:
                await trio.lowlevel.checkpoint()
                steps += 1

        await trio.lowlevel.checkpoint()
        before = steps
        await echo.app.sender().broadcast("hello")
        assert steps - before >= 4
        nursery.cancel_scope.cancel()


async def test_broadcast_is_encoded_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The frame of a broadcast is made once, and shared by the outboxes of all clients."""
    encoded: list[bytes] = []

    def encode(message: Any) -> bytes:
        encoded.append(encode_message(message))
        return encoded[-1]

    monkeypatch.setattr(_encoder, "encode_message", encode)
    put = spied_frames(monkeypatch)
    echo = Echo()
    async with (
        linked(echo.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        for _ in range(20):
            await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        # The first message is being written, so the second waits.
        await echo.app.sender().broadcast("first")
        await trio.testing.wait_all_tasks_blocked()
        await echo.app.sender().broadcast("second")
        assert [stream.statistics().queued_messages for stream in echo.streams] == [2] * 20
    assert len(encoded) == 2
    assert len(put) == 40
    assert all(frame is encoded[1] for frame in put[20:])


async def test_broadcast_waits_for_no_client(autojump_clock: trio.testing.MockClock) -> None:
    """A broadcast takes no time if a client reads nothing; that client gets everything when it reads."""
    echo = Echo()
    texts = [str(number) for number in range(100)]
    async with (
        linked(echo.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        slow, quick = await open_websocket(connect()), await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        for text in texts:
            await echo.app.sender().broadcast(text)
            assert (await quick.receive()).text == text
        assert trio.current_time() == begun
        assert [(await slow.receive()).text for _ in texts] == texts


@pytest.mark.parametrize(
    "policy", [WhenFull.CLOSE, WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST, KeepLatest("key")], ids=str
)
async def test_broadcast_to_fast_readers(
    policy: WhenFull | KeepLatest, autojump_clock: trio.testing.MockClock
) -> None:
    """Of 40 broadcasts of 65 kB in a tight loop, 100 clients that accept all bytes get every one.

    Such a stream has no direct path, and its writer sends pieces of 16 KiB.
    """
    count, clients = 40, 100
    echo = Echo()
    received = [0] * clients

    async def read(number: int, stream: trio.abc.ReceiveStream) -> None:
        while data := await stream.receive_some():
            received[number] += len(data)

    async with linked(echo.app) as app, served_in_memory(app) as connect, trio.open_nursery() as nursery:
        for number in range(clients):
            stream = connect()
            await open_websocket(stream)
            nursery.start_soon(read, number, stream)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(count):
            await echo.app.sender().broadcast(bytes(65_000), when_full=policy)
        await trio.testing.wait_all_tasks_blocked()
        assert received == [count * (4 + 65_000)] * clients
        assert trio.current_time() == 0
        statistics = echo.app.statistics()
        assert (statistics.connections, statistics.dropped, statistics.slow_closes) == (clients, 0, 0)
        nursery.cancel_scope.cancel()


async def test_broadcast_waits_once_for_a_client_that_does_not_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Broadcasts yield a few times to find out that a client does not read, and not again."""
    echo = Echo(max_outbox_messages=1)
    counter = TurnCounter()
    async with (
        linked(echo.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
        trio.open_nursery() as nursery,
    ):
        clients = [await open_websocket(connect()) for _ in range(30)]
        await trio.testing.wait_all_tasks_blocked()
        sender = echo.app.sender()
        for text in ("is being written", "waits"):
            await sender.broadcast(text)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(counter.run)
        await trio.lowlevel.checkpoint()
        taken: list[int] = []
        for _ in range(3):
            before = counter.turns
            await sender.broadcast("too much", when_full=WhenFull.DROP_NEWEST)
            taken.append(counter.turns - before)
        nursery.cancel_scope.cancel()
        assert 0 < taken[0] < 20
        assert taken[1:] == [0, 0]
        assert [(await client.receive()).text for client in clients for _ in range(2)] == 30 * [
            "is being written",
            "waits",
        ]


async def test_broadcast_yields_for_a_client_that_reads_again(autojump_clock: trio.testing.MockClock) -> None:
    """A client that did not read, and reads now, gets its turns again."""
    echo = Echo(max_outbox_messages=1)
    async with linked(echo.app) as app, served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
        client = await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        sender = echo.app.sender()
        for text in ("is being written", "waits", "dropped"):
            await sender.broadcast(text, when_full=WhenFull.DROP_NEWEST)
            await trio.testing.wait_all_tasks_blocked()
        received: list[str | None] = []

        async def read() -> None:
            while received[-1:] != ["9"]:
                received.append((await client.receive()).text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(10):
                await sender.broadcast(f"{number}")
        assert received == ["is being written", "waits", *map(str, range(10))]


# ---------------------------------------------------------------------------------------- slow clients


@each_link
async def test_client_that_never_reads_costs_an_outbox(link: Link) -> None:
    """Of 100 MB of broadcasts, a client that never reads keeps a full outbox; the others get everything."""
    size, count, readers = 64 * 1024, 1600, 2
    echo = Echo(max_outbox_bytes=MIB, timeouts=Timeouts(close=0.5))
    received = [0] * readers
    progress = trio.Event()
    sent = most_queued = 0

    async def read(number: int, stream: trio.abc.ReceiveStream) -> None:
        nonlocal progress
        while data := await stream.receive_some(size):
            received[number] += len(data)
            progress.set()
            progress = trio.Event()

    async with linked(echo.app) as app, AsyncExitStack() as streams, trio.open_nursery() as nursery:
        (address,) = await nursery.start(link.run(app), ANY_PORT)
        for number in range(-1, readers):
            stream = await streams.enter_async_context(await link.connect(address))
            await open_websocket(stream, "/?never" if number < 0 else "/?reads")
            if number >= 0:
                nursery.start_soon(read, number, stream)
        while len(echo.streams) < 1 + readers:
            await trio.testing.wait_all_tasks_blocked(0.001)
        (slow,) = [stream for stream in echo.streams if stream.request.query == "never"]

        tracemalloc.start()
        try:
            for number in range(count):
                message = number.to_bytes(4, "big") * (size // 4)
                await echo.app.sender().broadcast(message)
                sent += 10 + len(message)  # the header of such a frame has ten bytes
                most_queued = max(most_queued, slow.statistics().queued_bytes)
                while min(received) < sent:
                    await progress.wait()
            _, most_allocated = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert sent > 100 * 10**6
        assert received == [sent] * readers
        assert MIB - 2 * size <= most_queued <= MIB
        assert most_allocated <= 3 * MIB
        while not echo.close_codes:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert echo.close_codes == [1013]
        nursery.cancel_scope.cancel()


async def test_slow_client_gets_a_close_with_1013(autojump_clock: trio.testing.MockClock) -> None:
    """A client whose outbox is full gets the message that was being written and a Close with 1013."""
    echo = Echo(max_outbox_bytes=1000)
    async with (
        linked(echo.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        client = await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            await echo.app.sender().broadcast(str(number).ljust(100))
            await trio.testing.wait_all_tasks_blocked()
        assert [(message.text or "").strip() async for message in client] == ["0"]
        assert client.close_code == 1013
        await trio.sleep(1)
        assert echo.close_codes == [1013]


@pytest.mark.parametrize(("broadcasts", "code", "seconds"), [(1, 1006, 30), (20, 1013, 5)])
async def test_client_that_never_reads_is_cut_off(
    broadcasts: int, code: int, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that accepts no byte is cut off after the write timeout, or after the close timeout of its 1013."""
    echo = Echo(max_outbox_bytes=1000)
    async with (
        linked(echo.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        client = await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        for _ in range(broadcasts):
            await echo.app.sender().broadcast("x" * 100)
        while not echo.close_codes:
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.1)
        assert trio.current_time() - begun == pytest.approx(seconds, abs=1)
        assert echo.close_codes == [code]
        with pytest.raises(trio.BrokenResourceError):
            await client.stream.send_all(b"x")


async def test_ping_flood_stays_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """A client that sends pings and reads nothing has at most two waiting pongs, and is served when it reads."""
    echo = Echo()
    async with (
        linked(echo.app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
    ):
        client = await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = echo.streams
        for number in range(10_000):
            await client.ping(str(number).encode().rjust(125))
        await trio.testing.wait_all_tasks_blocked()
        assert stream.statistics().queued_bytes == 127
        assert stream.statistics().queued_messages == 0

        await client.send("hello")
        assert (await client.receive()).text == "hello"
        assert not stream.closed


@each_link
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_new_clients_are_accepted_during_a_flood(kind: str, link: Link) -> None:
    """However fast one client sends requests or messages, others can connect and are answered."""
    echo = Echo()
    async with linked(echo.app) as app, trio.open_nursery() as nursery:
        app.with_stateless_route("/hello", lambda _: Response(200, "hello"))
        (address,) = await nursery.start(link.run(app), ANY_PORT)
        flooder = await link.connect(address)
        hello = request_bytes("GET /hello HTTP/1.1", [("Host", "a")])
        if kind == "websocket":
            await flooder.send_all(request_bytes("GET / HTTP/1.1", HANDSHAKE_FIELDS))
            await flooder.receive_some()

        async def flood() -> None:
            while True:
                await flooder.send_all((hello if kind == "http" else client_frame(TEXT, b"x")) * 1000)

        async def read() -> None:
            while await flooder.receive_some():
                pass

        nursery.start_soon(flood)
        nursery.start_soon(read)
        with trio.fail_after(PATIENCE):
            for _ in range(20):
                async with await link.connect(address) as stream:
                    await stream.send_all(hello)
                    assert b"hello" in await stream.receive_some()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(flooder)
