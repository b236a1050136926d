"""How many handlers run for a client, and what becomes of them when it leaves: ``concurrency``, ``when_left``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
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
    Timeouts,
    WebsocketStream,
    WhenLeft,
    async_websocket_handler,
)
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from humphrey_trio.websocket import CloseRecord
from tests.support import ANY_PORT
from tests.support.apps import linked, staged
from tests.support.cancellation import BOTH, Handlers, cancel_at_every_step, name_all, serve_stream
from tests.support.clients import RawClient, half_close, read_away
from tests.support.links import Link, each_link, reset
from tests.support.logs import errors
from tests.support.times import SWEEP, soon_after
from tests.support.wire import PONG, TEXT, client_frame, close_frame

#: For ``SO_LINGER``: closing the socket resets the connection.

Leave = Callable[[WebsocketClient], Awaitable[object]]
Work = Callable[[AsyncStream[Any], str], Coroutine[Any, Any, object]]


class Book:
    """Handlers that work on messages, and a book of when they begin and how they end."""

    def __init__(
        self, work: Work, connect: Callable[[AsyncStream[Any]], Coroutine[Any, Any, object]] | None = None
    ) -> None:
        self._work = work
        self._connect = connect
        self._started = trio.current_time()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[tuple[str, float]] = []
        self.records: list[CloseRecord] = []
        self.streams: list[AsyncStream[Any]] = []
        self.most = 0  # handlers of one stream
        self._running: Counter[int] = Counter()

    @property
    def running(self) -> int:
        return self._running.total()

    async def on_connect(self, stream: AsyncStream[Any], state: None) -> None:
        self.streams.append(stream)
        if self._connect is not None:
            await self._note(stream, "connect", self._connect(stream))

    async def on_message(self, stream: AsyncStream[Any], message: Message, state: None) -> None:
        text = message.text
        assert text is not None
        await self._note(stream, text, self._work(stream, text))

    async def on_disconnect(self, stream: AsyncStream[Any], state: None) -> None:
        assert self._running[stream.id] == 0
        assert stream.close_record is not None
        self.records.append(stream.close_record)

    async def _note(self, stream: AsyncStream[Any], name: str, work: Awaitable[object]) -> None:
        self.begun.append(name)
        self._running[stream.id] += 1
        self.most = max(self.most, self._running[stream.id])
        try:
            await work
        except trio.Cancelled:
            self.cancelled.append((name, trio.current_time() - self._started))
            raise
        except BaseException:
            self.ended.append(name)
            raise
        else:
            self.ended.append(name)
        finally:
            self._running[stream.id] -= 1

    def app(self, **options: Any) -> AsyncWebsocketApp[Any, Any]:
        return (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self.on_connect)
            .with_message_handler(self.on_message)
            .with_disconnect_handler(self.on_disconnect)
        )


async def work_long(stream: AsyncStream[Any], text: str) -> None:
    await trio.sleep(5)


async def reply_late(stream: AsyncStream[Any], text: str) -> None:
    await trio.sleep(1)
    await stream.send(text)


async def fail_late(stream: AsyncStream[Any], text: str) -> None:
    await trio.sleep(1)
    raise ValueError(text)


async def say_close(client: WebsocketClient) -> None:
    await client.close(4000)


async def end(client: WebsocketClient) -> None:
    await half_close(client.stream)


async def send_numbers(client: WebsocketClient, count: int) -> list[str]:
    """Send so many messages; their texts."""
    texts = [f"{number}" for number in range(count)]
    for text in texts:
        await client.send(text)
    return texts


# ------------------------------------------------------------------------------- cancelled, by default


@pytest.mark.parametrize("leave", [say_close, end, WebsocketClient.disconnect])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_handlers_of_a_parted_client_are_cancelled(
    concurrency: int, leave: Leave, autojump_clock: trio.testing.MockClock
) -> None:
    """When a client leaves, its handlers are cancelled, and what was read ahead is not handled, but counted."""
    book = Book(work_long)
    async with staged(book.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 5)
        await trio.sleep(2)
        await leave(client)
        await trio.sleep(1)
    assert book.begun == texts[:concurrency]
    assert sorted(book.cancelled) == [(text, pytest.approx(2)) for text in texts[:concurrency]]
    (record,) = book.records
    assert (record.initiator, record.messages_received, record.unhandled) == ("client", 5, 5 - concurrency)


@pytest.mark.parametrize("leave", [say_close, end, WebsocketClient.disconnect])
async def test_a_connect_handler_of_a_parted_client_is_cancelled(
    leave: Leave, autojump_clock: trio.testing.MockClock
) -> None:
    """So is a slow connect handler; the disconnect handler runs, since it had begun."""

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(5)

    book = Book(work_long, connect)
    async with staged(book.app()) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 3)
        await trio.sleep(2)
        await leave(client)
        await trio.sleep(1)
    assert book.cancelled == [("connect", pytest.approx(2))]
    assert book.begun == ["connect"]
    assert [record.unhandled for record in book.records] == [3]


async def test_what_came_before_the_end_is_handled(autojump_clock: trio.testing.MockClock) -> None:
    """A client that is not missed yet when its handler returns is heard out, in order, up to its Close."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(0.01)

    book = Book(work)
    async with staged(book.app()) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 5)
        await client.close()
        await trio.sleep(1)
    assert book.ended == texts
    assert book.records[0].unhandled == 0


@pytest.mark.parametrize("when_left", ["cancel", "later", None])
def test_a_policy_that_is_none(when_left: Any) -> None:
    """What is no ``WhenLeft`` is refused when the app is made; the values of its members are accepted."""
    if when_left == "cancel":
        AsyncWebsocketApp.new_unlinked(when_left=when_left)
        return
    with pytest.raises(ValueError, match="WhenLeft"):
        AsyncWebsocketApp.new_unlinked(when_left=when_left)


# ------------------------------------------------------------------------------------- let to finish


@pytest.mark.parametrize("leave", [say_close, end])
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    ("work", "count"), [(work_long, 3), (work_long, 15), (reply_late, 3), (reply_late, 15), (fail_late, 3)]
)
async def test_what_a_parted_client_has_sent_is_handled(
    work: Work,
    count: int,
    concurrency: int,
    leave: Leave,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With FINISH every message is handled that was sent before the end, in order, more than are read ahead, too.

    Neither a reply that cannot be sent any more nor a failure ends that.
    """
    book = Book(work)
    app = book.app(concurrency=concurrency, when_left=WhenLeft.FINISH, max_read_ahead=4)
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, count)
        await trio.sleep(0.75)
        if leave is say_close:
            # Whoever has much to handle answers late.
            await client.send_raw(close_frame(4000))
        else:
            await leave(client)
        await trio.sleep(80)
        assert book.begun == texts
        assert sorted(book.ended, key=int) == texts
        assert book.most == concurrency
        assert book.cancelled == []
        (record,) = book.records
        if work is not fail_late:
            assert record.code == (4000 if leave is say_close else 1006)
            assert errors(caplog) == []
        assert (record.messages_received, record.unhandled) == (count, 0)
        assert app.statistics().connections == 0


async def test_failures_of_a_parted_client_are_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With FINISH each failure of a handler whose client has left is logged; the record stays the client's."""
    book = Book(fail_late)
    async with staged(book.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 3)
        await trio.sleep(0.75)
        await client.close(4000)
        await trio.sleep(5)
    assert book.ended == texts
    assert len(errors(caplog)) == 3
    assert [(record.code, record.cause) for record in book.records] == [(4000, "")]


async def test_a_slow_connect_handler_may_finish(autojump_clock: trio.testing.MockClock) -> None:
    """With FINISH a slow connect handler of a parted client finishes, then come its messages, then the end."""

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(5)

    book = Book(work_long, connect)
    async with staged(book.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 2)
        await trio.sleep(1)
        await client.close()
        await trio.sleep(20)
    assert book.ended == ["connect", *texts]
    assert len(book.records) == 1


@pytest.mark.parametrize("error", [ValueError("failed"), ConnectionClosed(1006)])
async def test_a_connect_handler_that_has_not_finished(
    error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    """Behind a connect handler that raised no message is handled, not even with FINISH: nothing is set up."""

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(2)
        raise error

    book = Book(work_long, connect)
    async with staged(book.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 3)
        await trio.sleep(1)
        await client.close()
        await trio.sleep(5)
    assert book.begun == ["connect"]
    assert [record.unhandled for record in book.records] == [3]


async def test_the_server_closes_with_finish(autojump_clock: trio.testing.MockClock) -> None:
    """With FINISH a handler finishes as well when the server has closed, but no further message is handled."""
    book = Book(work_long)
    async with staged(book.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 4)
        await trio.sleep(1)
        await book.streams[0].close(4000)
        await read_away(client)
        await trio.sleep(10)
    assert book.ended == texts[:1]
    assert [record.unhandled for record in book.records] == [3]


async def test_an_app_that_is_cancelled_does_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    """FINISH is about clients: cancelling the app cancels handlers all the same."""
    book = Book(work_long)
    async with staged(book.app(when_left=WhenLeft.FINISH)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 3)
        await trio.sleep(1)
        await client.close()
        await trio.sleep(1)
        stage.websocket.cancel()
        await trio.sleep(1)
    assert book.cancelled == [(texts[0], pytest.approx(2))]
    assert [record.unhandled for record in book.records] == [2]


async def test_a_parted_client_keeps_no_connection(autojump_clock: trio.testing.MockClock) -> None:
    """A handler that finishes late does not hold the connection, only its stream's place in the app."""
    book = Book(work_long)
    app = book.app(when_left=WhenLeft.FINISH, max_connections=1)
    async with staged(app) as stage:
        connection = stage.connect()
        client = await open_websocket(connection)
        await client.send("work")
        await trio.sleep(1)
        with trio.fail_after(1):
            await client.close()
            with pytest.raises(trio.ClosedResourceError):
                await connection.receive_some()
        assert app.statistics().connections == app.statistics().handlers_running == 1
        await trio.sleep(5)
        assert app.statistics().connections == 0


@each_link
@pytest.mark.parametrize("graceful", [True, False])
async def test_replies_to_a_socket_that_is_gone(graceful: bool, link: Link, nursery: trio.Nursery) -> None:
    """With FINISH a reply that breaks the connection does not take along what the client had sent before."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(0.02)
        await stream.send(text)

    ended = trio.Event()
    book = Book(work)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        await book.on_disconnect(stream, state)
        ended.set()

    websocket_app = book.app(when_left=WhenLeft.FINISH).with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    await nursery.start(websocket_app.run)
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    texts = [f"{number}" for number in range(30)]
    with trio.fail_after(20):
        client = await RawClient(await link.connect(address)).open()
        frames = [client_frame(TEXT, text.encode()) for text in texts]
        await client.send(b"".join([*frames, close_frame(1001) if graceful else b""]))
        await client.stream.aclose()
        await ended.wait()
    assert book.ended == texts
    assert book.records[0].unhandled == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_burst_before_a_broken_connection(
    concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """With FINISH a burst is handled to its last message, wherever in it a reply finds the connection broken."""
    burst = 4 * 64  # the reader lets other tasks run after 64 messages: only there the connection can break
    frames = b"".join(client_frame(TEXT, f"{number}".encode()) for number in range(burst))
    for first_reply in range(0, 130, 13):

        async def work(stream: AsyncStream[Any], text: str, first_reply: int = first_reply) -> None:
            if text == f"{first_reply}":
                await stream.send(text)

        book = Book(work)
        async with staged(book.app(concurrency=concurrency, when_left=WhenLeft.FINISH)) as stage:
            client = await open_websocket(stage.connect())
            await client.send_raw(frames)
            await client.disconnect()
            await trio.testing.wait_all_tasks_blocked()
        assert book.begun == [f"{number}" for number in range(burst)]
        assert [(record.messages_received, record.unhandled) for record in book.records] == [(burst, 0)]


@each_link
@pytest.mark.parametrize("when_left", list(WhenLeft))
async def test_a_burst_before_a_reset(when_left: WhenLeft, link: Link, nursery: trio.Nursery) -> None:
    """Of a burst in front of a reset, what was received was handled without a gap, or counts as unhandled."""
    burst, rounds = 4000, 30
    ended = trio.Event()

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await stream.send(text)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        await book.on_disconnect(stream, state)
        ended.set()

    book = Book(work)
    websocket_app = book.app(when_left=when_left).with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    await nursery.start(websocket_app.run)
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    frames = b"".join(client_frame(TEXT, f"{number}".encode()) for number in range(burst))
    for _ in range(rounds):
        with trio.fail_after(20):
            client = await RawClient(await link.connect(address)).open()
            await client.send(frames)
            reset(client.stream)
            await ended.wait()
        (record,) = book.records
        assert book.begun == [f"{number}" for number in range(len(book.begun))]
        assert record.messages_received == len(book.begun) + record.unhandled
        book.begun.clear()
        book.records.clear()
        ended = trio.Event()
    nursery.cancel_scope.cancel()


async def test_a_message_that_arrives_with_the_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    """What is read ahead in the very moment in which the app is cancelled counts as unhandled, too."""
    for _ in range(20):  # the order of the tasks that it wakes is random
        book = Book(work_long)
        async with staged(book.app()) as stage:
            client = await open_websocket(stage.connect())
            await send_numbers(client, 1)
            await trio.sleep(1)  # now another task reads ahead
            await client.send("at the last moment")
            stage.websocket.cancel()
            await trio.sleep(1)
            statistics = book.streams[0].statistics()
            assert (statistics.messages_received, statistics.unhandled) == (2, 1)
            assert book.records[0].unhandled == 1


# ------------------------------------------------------------------------------ handlers and the server's close


async def close_here(stream: AsyncStream[Any]) -> None:
    await stream.close(4000)


async def close_in_a_child(stream: AsyncStream[Any]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.close, 4000)


async def close_in_a_grandchild(stream: AsyncStream[Any]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_in_a_child, stream)


async def close_in_a_started_task(stream: AsyncStream[Any]) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.lowlevel.checkpoint()
        await stream.close(4000)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("where", ["connect", "message"])
@pytest.mark.parametrize("close", [close_here, close_in_a_child, close_in_a_grandchild, close_in_a_started_task])
async def test_a_handler_that_closes_its_stream_may_finish(
    close: Callable[[AsyncStream[Any]], Awaitable[None]],
    where: str,
    concurrency: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A handler that has closed its own stream, itself or in a nursery of its own, is not cancelled for that."""

    async def connect(stream: AsyncStream[Any]) -> None:
        if where == "connect":
            await close(stream)
            await trio.sleep(10)

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await close(stream)
        await trio.sleep(10)

    book = Book(work, connect)
    async with staged(book.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        await client.send("work")
        await read_away(client)
        assert client.close_code == 4000
        await trio.sleep(15)
    assert book.cancelled == []
    assert book.ended == (["connect"] if where == "connect" else ["connect", "work"])
    assert len(book.records) == 1


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("closer", ["task", "nobody's task", "another client's handler", "deadline"])
async def test_a_handler_whose_stream_was_closed(
    closer: str, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler whose stream somebody else has closed is cancelled when the client has answered."""
    book: Book

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text == "close the first":
            await book.streams[0].close(4000)
        else:
            if closer == "task":
                stream.start_soon(close_here, stream)
            elif closer == "deadline":
                stream.set_deadline(0.1, 4000)
            await trio.sleep(10)

    book = Book(work)
    async with staged(book.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        other = await open_websocket(stage.connect())
        await client.send("work")
        await trio.sleep(1)
        if closer == "nobody's task":
            await book.streams[0].close(4000)
        elif closer == "another client's handler":
            await other.send("close the first")
        await trio.sleep(1)
        assert book.cancelled == []
        await read_away(client)
        await trio.sleep(1)
        assert book.cancelled == [("work", soon_after(2, sweeps=2))]
        assert [record.code for record in book.records] == [4000]


async def test_a_sibling_of_the_one_that_closes(autojump_clock: trio.testing.MockClock) -> None:
    """Of several handlers only the one that closed may finish; the others are cancelled, and the stream ends."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text == "close":
            await trio.sleep(0.5)
            await stream.close(4000)
            await trio.sleep(5)
        else:
            await trio.sleep_forever()

    book = Book(work)
    async with staged(book.app(concurrency=3)) as stage:
        client = await open_websocket(stage.connect())
        for text in ("waits", "close", "waits, too", "unhandled"):
            await client.send(text)
        await trio.sleep(1)
        await read_away(client)
        await trio.sleep(1)
        assert sorted(name for name, _ in book.cancelled) == ["waits", "waits, too"]
        assert book.records == []
        await trio.sleep(5)
        assert book.ended == ["close"]
        assert [record.unhandled for record in book.records] == [1]


@pytest.mark.parametrize("refusal", ["invalid", "cancelled", "late"])
async def test_a_close_that_was_none(refusal: str, autojump_clock: trio.testing.MockClock) -> None:
    """A handler whose close was refused, cancelled or too late has not closed: it is cancelled like any other."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if refusal == "invalid":
            with pytest.raises(ValueError, match="1005"):
                await stream.close(1005)
        elif refusal == "cancelled":
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.close(4000)
        else:
            await trio.sleep(1)
            await stream.close(4000)
        await trio.sleep(10)

    book = Book(work)
    async with staged(book.app()) as stage:
        client = await open_websocket(stage.connect())
        await client.send("work")
        await trio.sleep(0.75)
        if refusal == "late":
            await book.streams[0].close(4001)
            await trio.sleep(1)
            await read_away(client)
        else:
            await client.close()
        await trio.sleep(1)
    assert [name for name, _ in book.cancelled] == ["work"]
    assert len(book.records) == 1


# ------------------------------------------------------------------------------------------- concurrency


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("concurrency", [2, 5])
async def test_so_many_at_once(concurrency: int, seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """At most so many message handlers run, in the order of the messages, all behind the connect handler."""
    rng = random.Random(seed)

    async def connect(stream: AsyncStream[Any]) -> None:
        await trio.sleep(rng.random())
        assert book.begun == ["connect"]

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(rng.choice([0, 0.1, 0.3, 2]))

    book = Book(work, connect)
    async with staged(book.app(concurrency=concurrency)) as stage:
        client = await open_websocket(stage.connect())
        texts = await send_numbers(client, 40)
        await trio.sleep(60)
        assert book.begun == ["connect", *texts]
        assert book.ended != book.begun
        assert sorted(book.ended) == sorted(book.begun)
        assert book.most == concurrency
        await client.close()
        await trio.sleep(1)
    assert [record.unhandled for record in book.records] == [0]


async def test_a_handler_may_wait_for_the_next_message(autojump_clock: trio.testing.MockClock) -> None:
    """With concurrency a handler can wait for what only a later message brings."""
    event = trio.Event()

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text == "wait":
            await event.wait()
        else:
            event.set()
        await stream.send(text)

    book = Book(work)
    async with staged(book.app(concurrency=2)) as stage:
        client = await open_websocket(stage.connect())
        await client.send("wait")
        await client.send("set")
        with trio.fail_after(1):
            assert {(await client.receive()).text for _ in range(2)} == {"wait", "set"}


async def test_each_client_has_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """The bound is for each client: the handlers of one do not hold up another."""
    book = Book(work_long)
    app = book.app(concurrency=2)
    async with staged(app) as stage:
        clients = [await open_websocket(stage.connect()) for _ in range(3)]
        for client in clients:
            await send_numbers(client, 3)
        await trio.sleep(1)
        assert app.statistics().handlers_running == book.running == 6
        await trio.sleep(10)
        assert len(book.ended) == 9


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("limit", [1, 4])
async def test_a_client_of_busy_handlers_has_to_wait(
    limit: int, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """While handlers are busy, ``max_read_ahead`` messages are read besides, and then no byte of the client."""
    sent = 0
    pause = 30.0

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(pause)

    book = Book(work)
    app = book.app(concurrency=concurrency, max_read_ahead=limit)
    async with staged(app, stream_pair=trio.testing.lockstep_stream_pair) as stage, trio.open_nursery() as nursery:
        client = await RawClient(stage.connect()).open()

        @nursery.start_soon
        async def flood() -> None:
            nonlocal sent
            for number in range(20):
                await client.send(client_frame(TEXT, b"%d" % number))
                sent += 1

        await trio.sleep(5)
        statistics = app.statistics()
        assert (statistics.handlers_running, statistics.read_ahead) == (concurrency, limit)
        assert sent == concurrency + limit
        await trio.sleep(20)
        assert sent == concurrency + limit
        pause = 0.1
        await trio.sleep(30)
        assert sent == 20
        assert book.begun == [f"{number}" for number in range(20)]
        assert app.statistics().handlers_running == app.statistics().read_ahead == 0
        assert app.statistics().read_pauses > 0


@pytest.mark.parametrize("messages", [3, 4])
async def test_pings_while_all_handlers_are_busy(messages: int, autojump_clock: trio.testing.MockClock) -> None:
    """While all handlers are busy, pings are answered, as long as there is room to read ahead."""
    book = Book(work_long)
    async with staged(book.app(concurrency=3)) as stage:
        client = await RawClient(stage.connect()).open()
        await client.send(b"".join(client_frame(TEXT, b"%d" % number) for number in range(messages)))
        await client.send(client_frame(0x9, b"there?"))
        with trio.fail_after(3 * SWEEP):
            assert await client.frame() == (PONG, b"there?")
        assert book.running == 3


@pytest.mark.parametrize("grouped", [False, True])
async def test_one_of_several_handlers_fails(
    grouped: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails closes with 1011; those beside it are cancelled when the client has answered."""

    async def fail() -> None:
        raise ValueError("failed")

    async def work(stream: AsyncStream[Any], text: str) -> None:
        if text != "fail":
            await trio.sleep(100)
        await trio.sleep(1)
        if not grouped:
            await fail()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    book = Book(work)
    async with staged(book.app(concurrency=3)) as stage:
        other = await open_websocket(stage.connect())
        await other.send("other")
        client = await open_websocket(stage.connect())
        for text in ("one", "fail", "two", "unhandled"):
            await client.send(text)
        await trio.sleep(3)
        assert book.ended == ["fail"]
        assert book.cancelled == []
        await read_away(client)
        assert client.close_code == 1011
        await trio.sleep(1)
        assert sorted(name for name, _ in book.cancelled) == ["one", "two"]
        (record,) = book.records
        assert (record.cause, record.unhandled) == ("its handler failed", 1)
        assert len(errors(caplog)) == 1
        assert "ValueError: failed" in caplog.text
        assert book.running == 1  # the other client's


async def test_several_handlers_fail(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is logged; the first is the cause of the end."""
    book = Book(fail_late)
    async with staged(book.app(concurrency=3)) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 3)
        await read_away(client)
        await trio.sleep(1)
    assert len(errors(caplog)) == 3
    assert [record.code for record in book.records] == [1011]
    assert str(book.records[0].exception) in ("0", "1", "2")


async def test_a_cancelled_handler_fails(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails while it is cancelled is logged, and disturbs nobody."""

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleaning up failed")

    async def work(stream: AsyncStream[Any], text: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            await trio.sleep_forever()

    for cancelled in ("client", "app"):
        caplog.clear()
        book = Book(work)
        async with staged(book.app(concurrency=2)) as stage:
            client = await open_websocket(stage.connect())
            await send_numbers(client, 2)
            await trio.sleep(1)
            if cancelled == "client":
                await client.close()
            else:
                stage.websocket.cancel()
            await trio.sleep(1)
            assert len(book.records) == 1
        assert len(errors(caplog)) == 2


async def test_statistics_of_busy_handlers(autojump_clock: trio.testing.MockClock) -> None:
    """``handlers_running`` counts connect, message and disconnect handlers that run; what waits is read ahead."""
    app = AsyncWebsocketApp.new_unlinked(concurrency=2, timeouts=Timeouts(close=1))
    seen: list[tuple[int, int]] = []

    def look() -> None:
        statistics = app.statistics()
        seen.append((statistics.handlers_running, statistics.read_ahead))

    async def take_time(stream: AsyncStream, state: None) -> None:
        look()
        await trio.sleep(1)

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(2)

    app.with_connect_handler(take_time).with_message_handler(on_message).with_disconnect_handler(take_time)
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        await trio.sleep(1.5)
        look()
        await send_numbers(client, 5)
        await trio.sleep(1)
        look()
        await trio.sleep(10)
        look()
        await client.close()
        await trio.sleep(2)
        look()
    assert seen == [(1, 0), (0, 0), (2, 3), (0, 0), (1, 0), (0, 0)]


@pytest.mark.parametrize("concurrency", [0, -1])
@pytest.mark.parametrize("make", [AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
def test_less_than_one_at_once(make: Callable[..., object], concurrency: int) -> None:
    """Less than one handler at once is a ValueError that names the option."""
    with pytest.raises(ValueError, match="concurrency"):
        make(concurrency=concurrency)


async def test_handlers_beside_each_other_can_be_interrupted(autojump_clock: trio.testing.MockClock) -> None:
    """Ctrl-C is raised in message handlers that run beside each other."""
    protected: list[bool] = []

    async def work(stream: AsyncStream[Any], text: str) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    async with staged(Book(work).app(concurrency=2)) as stage:
        client = await open_websocket(stage.connect())
        await send_numbers(client, 2)
        await trio.sleep(1)
    assert protected == [False, False]


async def test_an_interrupt_passes(autojump_clock: trio.testing.MockClock) -> None:
    """A KeyboardInterrupt in a message handler is no failure of its client: it ends the app."""

    async def work(stream: AsyncStream[Any], text: str) -> None:
        raise KeyboardInterrupt

    book = Book(work)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  (the whole app is what raises)
        async with staged(book.app(concurrency=2)) as stage:
            client = await open_websocket(stage.connect())
            await send_numbers(client, 2)
            await trio.sleep(10)
    interrupts, rest = caught.value.split(KeyboardInterrupt)
    assert interrupts is not None
    assert rest is None
    assert len(book.records) == 1


# ---------------------------------------------------------------------------- whatever happens, it adds up


@pytest.mark.parametrize("seed", range(80))
async def test_every_message_is_accounted_for(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whoever ends a stream and when: each message that came in was handled or is counted, and order holds."""
    rng = random.Random(seed)
    concurrency, limit = rng.choice([1, 2, 4]), rng.choice([1, 3, 16])
    when_left = rng.choice(list(WhenLeft))
    leave = rng.choice([say_close, end, WebsocketClient.disconnect, "deadline", "http app", "websocket app"])
    count = rng.randrange(30)

    async def connect(stream: AsyncStream[Any]) -> None:
        if leave == "deadline":
            stream.set_deadline(rng.uniform(0.1, 5))
        await trio.sleep(rng.choice([0, 0.2, 1]))

    async def work(stream: AsyncStream[Any], text: str) -> None:
        await trio.sleep(rng.choice([0, 0, 0.1, 0.6, 3]))
        if rng.random() < 0.03:
            raise ValueError("bad luck")
        if rng.random() < 0.3:
            await stream.send(text)

    book = Book(work, connect)
    app = book.app(concurrency=concurrency, max_read_ahead=limit, when_left=when_left)
    async with staged(app) as stage:
        client = await open_websocket(stage.connect())
        for number in range(count):
            if rng.random() < 0.2:
                await trio.sleep(rng.random())
            try:
                await client.send(f"{number}")
            except ConnectionClosed:
                break
        await trio.sleep(rng.choice([0, 0.1, 1, 10]))
        if leave == "deadline":
            await read_away(client)
        elif leave == "http app":
            stage.http.cancel()
        elif leave == "websocket app":
            stage.websocket.cancel()
        else:
            with trio.move_on_after(50):
                await leave(client)
        await trio.sleep(50)

        begun = [name for name in book.begun if name != "connect"]
        assert begun == [f"{number}" for number in range(len(begun))]
        assert book.most <= concurrency
        (record,) = book.records
        assert record.messages_received == len(begun) + record.unhandled
        if when_left is WhenLeft.FINISH and record.initiator == "client":
            assert book.cancelled == []
            assert record.unhandled == 0
            if leave in (say_close, end):
                assert len(begun) == count
        statistics = app.statistics()
        assert statistics.unhandled == record.unhandled
        assert (statistics.connections, statistics.handlers_running, statistics.read_ahead) == (0, 0, 0)


@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
async def test_handlers_beside_each_other_cancelled_at_every_step(
    cancelled: set[str], autojump_clock: trio.testing.MockClock
) -> None:
    """Cancelled anywhere, apps with handlers that run beside each other leave no task, and disconnect once."""

    def in_memory(handlers: Handlers) -> Any:
        websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked(concurrency=2, max_read_ahead=2))
        app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
        ours, theirs = trio.testing.memory_stream_pair()

        async def connect() -> trio.abc.Stream:
            return ours

        return {"http": (serve_stream, (app, theirs)), "websocket": (websocket_app.run, ())}, lambda _: connect

    async def talk(client: WebsocketClient) -> None:
        for text in ("sleep", "1", "sleep", "2", "sleep"):
            await client.send(text)
        assert sorted([str((await client.receive()).text) for _ in range(4)]) == ["1", "2", "sleep", "sleep"]

    await cancel_at_every_step(in_memory, talk, cancelled)


# --------------------------------------------------------------------------------- who reads a stream of an app


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_nobody_else_receives(
    concurrency: int, delay: float, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever receives from a stream that an app reads for its handlers is told so; nobody else notices."""

    async def work(stream: AsyncStream[WebsocketStream], text: str) -> None:
        if text == "receive":
            await trio.sleep(delay)
            await stream.state.receive()
        await stream.send(text)

    book = Book(work)
    app = book.app(concurrency=concurrency, stream_state=lambda websocket: websocket)
    async with linked(app) as http_app, websocket_client(http_app) as other:
        async with websocket_client(http_app) as client:
            await client.send("receive")
            await read_away(client)
            assert client.close_code == 1011
        assert "BusyResourceError" in caplog.text
        await other.send("still there?")
        assert (await other.receive()).text == "still there?"
