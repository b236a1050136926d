"""AsyncWebsocketApp: what its handlers can rely on, what its sender does, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncSender,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    Timeouts,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._websocket._app import _broadcaster
from humphrey_trio.http import Address
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError, LinkError
from tests.support import ANY_PORT
from tests.support.apps import linked, served_in_memory
from tests.support.logs import errors
from tests.support.wire import TEXT, client_frame, close_frame

GENERAL_CLOSE = 4001


class Diary:
    """Handlers that write down what happens to the streams, in order."""

    def __init__(self, work: Callable[[AsyncStream[Any], str], Awaitable[object]] | None = None) -> None:
        self.entries: list[str] = []
        self.codes: list[int | None] = []
        self._work = work
        self._running = 0
        self.changed = trio.Event()

    async def connect(self, stream: AsyncStream[Any], state: object) -> None:
        await self._do("connect", stream)

    async def message(self, stream: AsyncStream[Any], message: Message, state: object) -> None:
        assert message.text is not None
        await self._do(message.text, stream)

    async def disconnect(self, stream: AsyncStream[Any], state: object) -> None:
        self.codes.append(stream.close_code)
        await self._do("disconnect", stream)

    def app(self, **options: Any) -> AsyncWebsocketApp[Any, Any]:
        return (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self.connect)
            .with_message_handler(self.message)
            .with_disconnect_handler(self.disconnect)
        )

    async def until(self, entry: str) -> None:
        while entry not in self.entries:
            await self.changed.wait()

    def _write(self, entry: str) -> None:
        self.entries.append(entry)
        self.changed.set()
        self.changed = trio.Event()

    async def _do(self, name: str, stream: AsyncStream[Any]) -> None:
        assert not self._running, f"{name} runs beside another handler"
        self._running += 1
        try:
            self._write(f"{name}...")
            if self._work is not None:
                await self._work(stream, name)
            self._write(name)
        except trio.Cancelled:
            self._write(f"{name} cancelled")
            raise
        finally:
            self._running -= 1


async def echo(stream: AsyncStream[Any], message: Message, state: object) -> None:
    await stream.send(message)


async def echo_once(client: WebsocketClient, text: str) -> None:
    await client.send(text)
    assert (await client.receive()).text == text


# ------------------------------------------------------------------------------------------------- order


async def do_nothing(stream: AsyncStream[Any], name: str) -> None:
    """As quick as a handler can be."""


async def take_a_turn(stream: AsyncStream[Any], name: str) -> None:
    await trio.lowlevel.checkpoint()


async def be_slow_at_times(stream: AsyncStream[Any], name: str) -> None:
    """Slow enough for messages to be read ahead, several times."""
    await trio.sleep(3 if name.endswith("00") or name == "connect" else 0)


async def be_very_slow(stream: AsyncStream[Any], name: str) -> None:
    await trio.sleep(30)


@pytest.mark.parametrize("work", [do_nothing, take_a_turn, be_slow_at_times])
async def test_handlers_of_a_burst_run_in_order(
    work: Callable[[AsyncStream[Any], str], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    """Of a thousand messages in one burst each is handled alone and in order, between connect and disconnect."""
    diary = Diary(work)
    burst = [str(number) for number in range(1000)]
    async with linked(diary.app()) as app:
        async with websocket_client(app) as client:
            await client.send_raw(b"".join(client_frame(TEXT, text.encode()) for text in burst))
            await diary.until(burst[-1])
        await diary.until("disconnect")
    expected = [entry for name in ["connect", *burst, "disconnect"] for entry in (f"{name}...", name)]
    assert diary.entries == expected
    assert diary.codes == [1000]


async def say_close(client: WebsocketClient) -> None:
    await client.close(GENERAL_CLOSE)


@pytest.mark.parametrize(("leave", "code"), [(say_close, GENERAL_CLOSE), (WebsocketClient.disconnect, 1006)])
@pytest.mark.parametrize("during", ["connect", "first"])
async def test_client_that_leaves_during_a_handler(
    during: str,
    leave: Callable[[WebsocketClient], Awaitable[None]],
    code: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A handler whose client leaves is cancelled within a second; disconnect comes once and last."""

    async def sleep_long(stream: AsyncStream[Any], name: str) -> None:
        if name == during:
            await trio.sleep(50)

    diary = Diary(sleep_long)
    async with linked(diary.app()) as app, websocket_client(app) as client:
        await client.send("first")
        await diary.until(f"{during}...")
        left = trio.current_time()
        await leave(client)
        await diary.until("disconnect")
        assert trio.current_time() - left <= 1
    finished = ["connect...", "connect"] if during == "first" else []
    assert diary.entries == [*finished, f"{during}...", f"{during} cancelled", "disconnect...", "disconnect"]
    assert diary.codes == [code]


async def test_client_that_left_before_it_was_taken(autojump_clock: trio.testing.MockClock) -> None:
    """A client that left while it waited in the hook still gets its connect and its disconnect handler."""
    diary = Diary()
    websocket_app = diary.app()
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery:
        async with websocket_client(app) as client:
            await client.disconnect()
            await nursery.start(websocket_app.run)
            await diary.until("disconnect")
        nursery.cancel_scope.cancel()
    assert diary.entries == ["connect...", "connect", "disconnect...", "disconnect"]
    assert diary.codes == [1006]


# ----------------------------------------------------------------------------------- what handlers get


async def test_what_a_stream_tells(autojump_clock: trio.testing.MockClock) -> None:
    """A handler finds on its stream who the client is, what it asked for, and at the end how it closed."""
    told: list[AsyncStream[None]] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        assert not stream.closed
        assert (stream.close_code, stream.close_reason) == (None, None)
        told.append(stream)

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        assert stream.closed
        assert (stream.close_code, stream.close_reason) == (GENERAL_CLOSE, "done")
        told.append(stream)

    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_disconnect_handler(on_disconnect)
    )
    async with linked(websocket_app, "/chat/*") as app:
        for _ in range(2):
            async with websocket_client(app, "/chat/room?name=me", headers={"X-Mood": "good"}) as client:
                await client.close(GENERAL_CLOSE, "done")
        await trio.testing.wait_all_tasks_blocked()

    first, first_again, second, second_again = told
    assert first is first_again
    assert second is second_again
    assert first.id != second.id
    assert first.state is None
    assert (first.request.path, first.request.query) == ("/chat/room", "name=me")
    assert first.request.headers["X-Mood"] == "good"
    assert first.peer_addr == first.request.address == Address("memory", 0)
    assert str(first.id) in repr(first)


async def test_states(autojump_clock: trio.testing.MockClock) -> None:
    """Every handler gets the app's state, and its stream the state that ``stream_state`` made for it alone."""

    class Visit:
        def __init__(self, stream: WebsocketStream) -> None:
            self.stream_id = stream.id
            self.words: list[str] = []

    logbook: list[tuple[int, str]] = []

    async def on_connect(stream: AsyncStream[Visit], state: list[tuple[int, str]]) -> None:
        assert stream.state.stream_id == stream.id
        stream.state.words.append("hello")

    async def on_message(stream: AsyncStream[Visit], message: Message, state: list[tuple[int, str]]) -> None:
        stream.state.words.append(message.text or "")

    async def on_disconnect(stream: AsyncStream[Visit], state: list[tuple[int, str]]) -> None:
        state.append((stream.id, " ".join(stream.state.words)))

    websocket_app = (
        AsyncWebsocketApp.new_unlinked(logbook, stream_state=Visit)
        .with_connect_handler(on_connect)
        .with_message_handler(on_message)
        .with_disconnect_handler(on_disconnect)
    )
    assert websocket_app.state is logbook
    async with linked(websocket_app) as app:
        async with websocket_client(app) as one, websocket_client(app) as two:
            await one.send("one")
            await two.send("two")
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
    assert {words for _, words in logbook} == {"hello one", "hello two"}
    assert len({stream_id for stream_id, _ in logbook}) == 2


async def test_without_a_message_handler(autojump_clock: trio.testing.MockClock) -> None:
    """Without a message handler messages are read away; pings and the close are still answered."""
    diary = Diary()
    websocket_app = (
        AsyncWebsocketApp.new_unlinked()
        .with_connect_handler(diary.connect)
        .with_disconnect_handler(diary.disconnect)
    )
    async with linked(websocket_app) as app:
        async with websocket_client(app) as client:
            for _ in range(200):
                await client.send("is anybody there?")
            await client.ping(b"abc")
            assert await client.stream.receive_some() == b"\x8a\x03abc"
        await trio.testing.wait_all_tasks_blocked()
    assert diary.entries == ["connect...", "connect", "disconnect...", "disconnect"]
    assert diary.codes == [1000]


# ----------------------------------------------------------------------------------- handlers that fail


@pytest.mark.parametrize("where", ["connect", "message"])
async def test_handler_that_raises(
    where: str, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler that raises is logged with its traceback and closes its own stream with 1011, no other."""

    async def fail_for_guests(stream: AsyncStream[Any], name: str) -> None:
        if stream.request.query == "guest" and name == where:
            raise LookupError("the guest is not on the list")

    diary = Diary(fail_for_guests)
    websocket_app = diary.app().with_message_handler(echo)
    async with linked(websocket_app) as app, websocket_client(app) as member:
        await echo_once(member, "before")
        websocket_app.with_message_handler(diary.message)
        async with websocket_client(app, "/?guest") as guest:
            with contextlib.suppress(ConnectionClosed):
                await guest.send("message")
                await guest.send("never handled")
            with pytest.raises(ConnectionClosed) as closed:
                await guest.receive()
        assert closed.value.code == 1011
        await echo_once(member, "after")
        await diary.until("disconnect")
        assert "never handled" not in diary.entries
        assert diary.codes == [1011]
    (record,) = errors(caplog)
    assert record.name == "humphrey_trio.websocket"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


async def test_disconnect_handler_that_raises(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A disconnect handler that raises is logged with its traceback, and the app serves on."""

    async def fail(stream: AsyncStream[None], state: None) -> None:
        raise LookupError("no such chair")

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo).with_disconnect_handler(fail)
    async with linked(websocket_app) as app:
        for _ in range(2):
            async with websocket_client(app) as client:
                await echo_once(client, "hello")
            await trio.testing.wait_all_tasks_blocked()
    assert [record.exc_info[0] for record in errors(caplog) if record.exc_info] == [LookupError, LookupError]


async def test_stream_state_that_raises(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream without its state is logged and closed with 1011; no handler sees it, and others are served."""

    def only_members(stream: WebsocketStream) -> str:
        if stream.request.query == "guest":
            raise LookupError("the guest is not on the list")
        return "member"

    diary = Diary()
    websocket_app = diary.app(stream_state=only_members)
    async with linked(websocket_app) as app:
        async with websocket_client(app, "/?guest") as guest:
            with pytest.raises(ConnectionClosed) as closed:
                await guest.receive()
        assert closed.value.code == 1011
        await trio.testing.wait_all_tasks_blocked()
        assert diary.entries == []
        async with websocket_client(app, "/?member") as member:
            await member.send("hello")
            await diary.until("hello")
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


@pytest.mark.parametrize("in_nursery", [False, True])
@pytest.mark.parametrize("client_leaves", [False, True])
async def test_connection_closed_of_a_closed_stream_is_no_failure(
    client_leaves: bool, in_nursery: bool, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler that sends until its stream is closed, by itself or by its client, has not failed."""
    raised: list[int] = []

    async def send_on(stream: AsyncStream[None]) -> None:
        try:
            while True:
                await stream.send("more")
        except ConnectionClosed as exc:
            raised.append(exc.code)
            raise

    async def on_message(stream: AsyncStream[None], message: Message, state: None) -> None:
        if not client_leaves:
            await stream.close(GENERAL_CLOSE)
        if in_nursery:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_on, stream)
        else:
            await send_on(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked(max_outbox_messages=3).with_message_handler(on_message)
    async with linked(websocket_app) as app, served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
        client = await open_websocket(connect())
        await client.send("go")
        await trio.testing.wait_all_tasks_blocked()
        if client_leaves:
            await client.disconnect()
        await trio.sleep(1)
    assert raised == [1006 if client_leaves else GENERAL_CLOSE]
    assert errors(caplog) == []


async def test_connection_closed_of_another_stream_is_a_failure(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """A handler whose own stream is open has failed if it lets another stream's ConnectionClosed pass."""
    members: list[AsyncStream[None]] = []

    async def remember(stream: AsyncStream[None], state: None) -> None:
        members.append(stream)

    async def send_to_first(stream: AsyncStream[None], message: Message, state: None) -> None:
        await members[0].send(message)

    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_connect_handler(remember).with_message_handler(send_to_first)
    )
    async with linked(websocket_app) as app:
        async with websocket_client(app):
            await trio.testing.wait_all_tasks_blocked()
        async with websocket_client(app) as client:
            await client.send("hello, first")
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
    assert closed.value.code == 1011
    assert len(errors(caplog)) == 1


# ------------------------------------------------------------------------------------- slow handlers


async def test_connection_of_a_slow_handler_is_not_deaf(autojump_clock: trio.testing.MockClock) -> None:
    """While a handler sleeps for five seconds, its client's ping is answered, and other clients are served."""

    async def sleep_if_asked(stream: AsyncStream[None], message: Message, state: None) -> None:
        if message.text == "sleep":
            await trio.sleep(5)
        await stream.send(message)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(sleep_if_asked)
    async with linked(websocket_app) as app, websocket_client(app) as sleeper, websocket_client(app) as other:
        begun = trio.current_time()
        await sleeper.send("sleep")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            await echo_once(other, str(number))
        assert trio.current_time() == begun

        await sleeper.ping(b"abc")
        assert await sleeper.stream.receive_some() == b"\x8a\x03abc"
        assert trio.current_time() - begun <= 1

        await sleeper.send("behind")
        assert (await sleeper.receive()).text == "sleep"
        assert trio.current_time() - begun == pytest.approx(5)
        assert (await sleeper.receive()).text == "behind"


@pytest.mark.parametrize("limit", [1, 16])
async def test_read_ahead_is_bounded(limit: int, autojump_clock: trio.testing.MockClock) -> None:
    """While a handler sleeps, ``max_read_ahead`` messages are taken from its client; all are handled later."""
    handled: list[str] = []

    async def sleep_at_first(stream: AsyncStream[None], message: Message, state: None) -> None:
        if not handled:
            await trio.sleep(5)
        handled.append((message.text or "").rstrip())

    # Each message fills a read, so that what was taken from the client can be counted.
    burst = [str(number) for number in range(3 * limit + 10)]
    sent = 0

    async def send_all(client: WebsocketClient) -> None:
        nonlocal sent
        for text in burst:
            await client.send(text.ljust(2**16))
            sent += 1

    websocket_app = AsyncWebsocketApp.new_unlinked(max_read_ahead=limit).with_message_handler(sleep_at_first)
    async with (
        linked(websocket_app) as app,
        served_in_memory(app, trio.testing.lockstep_stream_pair) as connect,
        trio.open_nursery() as nursery,
    ):
        client = await open_websocket(connect())
        nursery.start_soon(send_all, client)
        await trio.sleep(4)
        # One is being handled, and one may be on its way into the reader.
        assert limit + 1 <= sent <= limit + 2
        await trio.sleep(10)
        assert handled == burst


async def test_a_handler_that_only_waits_is_not_disturbed(autojump_clock: trio.testing.MockClock) -> None:
    """A slow handler whose client stays and is silent runs to its end, however long it takes."""
    diary = Diary(be_very_slow)
    async with linked(diary.app()) as app, websocket_client(app) as client:
        await client.send("work")
        await diary.until("work")
    assert diary.entries[:4] == ["connect...", "connect", "work...", "work"]


# ---------------------------------------------------------------------------------------------- closing


@pytest.mark.parametrize("where", ["connect", "message"])
@pytest.mark.parametrize("seconds", [0, 5])
async def test_close_from_a_handler(where: str, seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """A handler may close its stream: the client is told why, and no message is handled any more."""

    async def close_there(stream: AsyncStream[Any], name: str) -> None:
        if name == where:
            await trio.sleep(seconds)
            await stream.send("goodbye")
            await stream.close(GENERAL_CLOSE, "no more")

    diary = Diary(close_there)
    async with linked(diary.app()) as app:
        async with websocket_client(app) as client:
            await client.send_raw(
                b"".join(client_frame(TEXT, text.encode()) for text in ("message", "late", "later"))
            )
            assert (await client.receive()).text == "goodbye"
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
        await diary.until("disconnect")
    assert (closed.value.code, closed.value.reason) == (GENERAL_CLOSE, "no more")
    before = ["connect...", "connect", "message...", "message"][: 2 if where == "connect" else 4]
    assert diary.entries == [*before, "disconnect...", "disconnect"]
    assert diary.codes == [GENERAL_CLOSE]


# ------------------------------------------------------------------------------------------ the sender


async def test_sender_before_during_and_after_the_run(autojump_clock: trio.testing.MockClock) -> None:
    """A sender reaches clients while they are connected; else ``send`` is False, and nothing an error."""
    ids: list[int] = []

    async def remember(stream: AsyncStream[None], state: None) -> None:
        ids.append(stream.id)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(remember)
    sender = websocket_app.sender()
    await sender.broadcast("to nobody")
    assert await sender.send(1, "to nobody") is False

    async with linked(websocket_app) as app:
        async with websocket_client(app) as client:
            await trio.testing.wait_all_tasks_blocked()
            assert await sender.send(ids[0], "to you") is True
            await sender.broadcast(b"to all")
            assert await websocket_app.sender().send(ids[0], Message("a sender is as good as another"))
            received = [(await client.receive()).data for _ in range(3)]
            assert received == ["to you", b"to all", "a sender is as good as another"]
            assert await sender.send(max(ids) + 1, "to nobody") is False
        await trio.testing.wait_all_tasks_blocked()
        assert await sender.send(ids[0], "too late") is False

        async with websocket_client(app):
            await trio.testing.wait_all_tasks_blocked()
    await sender.broadcast("too late")
    assert await sender.send(ids[1], "too late") is False


async def test_send_by_id_to_a_stream_that_is_closing(autojump_clock: trio.testing.MockClock) -> None:
    """Sending by id to a stream that has said its Close is False, though its client has not answered yet."""
    stream_id: list[int] = []

    async def close(stream: AsyncStream[None], message: Message, state: None) -> None:
        stream_id.append(stream.id)
        await stream.close()

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(close)
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await client.send("close")
        await trio.testing.wait_all_tasks_blocked()
        assert await websocket_app.sender().send(stream_id[0], "too late") is False


async def test_sender_of_many_tasks(autojump_clock: trio.testing.MockClock) -> None:
    """Tasks that send at the same time lose nothing, and each one's messages stay in order."""
    stream_ids: list[int] = []

    async def remember(stream: AsyncStream[None], state: None) -> None:
        stream_ids.append(stream.id)

    websocket_app = AsyncWebsocketApp.new_unlinked(max_outbox_messages=3).with_connect_handler(remember)
    sender = websocket_app.sender()

    async def send_some(task: int) -> None:
        for number in range(50):
            assert await sender.send(stream_ids[0], f"{task} {number}")

    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for task in range(10):
                nursery.start_soon(send_some, task)
            received = [(await client.receive()).text or "" for _ in range(500)]
    for task in range(10):
        assert [text for text in received if text.split()[0] == str(task)] == [f"{task} {n}" for n in range(50)]


@pytest.mark.parametrize("foreign", [False, True])
async def test_sender_from_another_thread(foreign: bool) -> None:
    """A thread sends with ``trio.from_thread.run``; one that trio did not start gives the ``trio_token``."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    sender = websocket_app.sender()
    token = trio.lowlevel.current_trio_token() if foreign else None

    def speak() -> None:
        trio.from_thread.run(sender.broadcast, "from a thread", trio_token=token)

    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        if foreign:
            thread = threading.Thread(target=speak)
            thread.start()
            await trio.to_thread.run_sync(thread.join)
        else:
            await trio.to_thread.run_sync(speak)
        assert (await client.receive()).text == "from a thread"


OTHER_RUN: dict[str, Callable[[AsyncSender, AsyncStream[None]], Awaitable[object]]] = {
    "sender.send": lambda sender, stream: sender.send(stream.id, "x"),
    "sender.broadcast": lambda sender, stream: sender.broadcast("x"),
    "sender.publish": lambda sender, stream: sender.publish("topic", "x"),
    "stream.send": lambda sender, stream: stream.send("x"),
    "stream.broadcast": lambda sender, stream: stream.broadcast("x"),
    "stream.publish": lambda sender, stream: stream.publish("topic", "x"),
    "stream.ping": lambda sender, stream: stream.ping(),
    "stream.close": lambda sender, stream: stream.close(),
    "stream.start_soon": lambda sender, stream: at_once(stream.start_soon, trio.sleep_forever),
    "stream.set_deadline": lambda sender, stream: at_once(stream.set_deadline, 1),
}


async def at_once(function: Callable[..., object], *args: object) -> None:
    function(*args)


@pytest.mark.parametrize("call", OTHER_RUN)
async def test_a_call_from_another_run(call: str) -> None:
    """A call in another run of trio is a RuntimeError that says what to do instead, and harms nobody."""
    streams: list[AsyncStream[None]] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        streams.append(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(echo)
    sender = websocket_app.sender()
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"belongs to another run of trio: .* trio\.from_thread\.run"):
            await trio.to_thread.run_sync(trio.run, OTHER_RUN[call], sender, streams[0])
        assert websocket_app.statistics().tasks_running == 0
        await echo_once(client, "still here")
        await sender.broadcast("to all")
        assert (await client.receive()).text == "to all"


async def test_a_hook_of_another_run(caplog: pytest.LogCaptureFixture) -> None:
    """A hook whose app runs in another run refuses with a 500 that is logged; the app still takes from its own.

    When the app has ended, it is a 503 as in the same run.
    """
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)
    hook = websocket_app.connect_hook()

    async def connect() -> int:
        app = App().with_websocket_route("/", async_websocket_handler(hook))
        with pytest.raises(HandshakeError) as refused:
            async with websocket_client(app):
                pass
        return refused.value.status

    async with linked(websocket_app) as app:
        assert await trio.to_thread.run_sync(trio.run, connect) == 500
        assert "the WebSocket app of this hook belongs to another run of trio: run both apps in one" in caplog.text
        async with websocket_client(app) as client:
            await echo_once(client, "still here")
    assert await trio.to_thread.run_sync(trio.run, connect) == 503


@pytest.mark.parametrize("receiver", ["own reader", "channel"])
async def test_a_stream_of_another_run_is_not_received_from(receiver: str) -> None:
    """``receive`` in another run of trio is such an error, too."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)

    async def own(stream: WebsocketStream, state: None) -> None:
        hook.send_nowait(stream)
        await trio.sleep_forever()

    route = websocket_handler(own) if receiver == "own reader" else async_websocket_handler(hook)
    async with websocket_client(App().with_websocket_route("/", route)) as client:
        stream = await streams.receive()
        await client.send("hello")
        with pytest.raises(RuntimeError, match="this stream belongs to another run of trio"):
            await trio.to_thread.run_sync(trio.run, stream.receive)
        assert (await stream.receive()).text == "hello"
        await stream.close()


@pytest.mark.parametrize("bad", [None, 7, ["a"]])
async def test_sending_what_is_no_message(bad: Any, autojump_clock: trio.testing.MockClock) -> None:
    """What is neither text nor bytes is a TypeError, and harms no client."""
    streams: list[AsyncStream[None]] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        streams.append(stream)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_message_handler(echo)
    async with linked(websocket_app) as app, websocket_client(app) as client:
        await trio.testing.wait_all_tasks_blocked()
        sender = websocket_app.sender()
        for call in (sender.broadcast, streams[0].broadcast, streams[0].send):
            with pytest.raises(TypeError):
                await call(bad)
        with pytest.raises(TypeError):
            await sender.send(streams[0].id, bad)
        await echo_once(client, "still here")


# ------------------------------------------------------------------------------------------- broadcasts


async def test_broadcast_reaches_those_who_are_connected(autojump_clock: trio.testing.MockClock) -> None:
    """A broadcast reaches all clients, its sender and one whose connect handler runs, but not one that parts."""
    parting = trio.Event()

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        if stream.request.query == "newcomer":
            await stream.broadcast("a newcomer says hello")

    async def on_message(stream: AsyncStream[None], message: Message, state: None) -> None:
        await stream.broadcast(message)

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        if stream.request.query == "guest":
            await stream.broadcast("the guest has left")
            with pytest.raises(ConnectionClosed):
                await stream.send("are you still there?")
            parting.set()

    websocket_app = (
        AsyncWebsocketApp.new_unlinked()
        .with_connect_handler(on_connect)
        .with_message_handler(on_message)
        .with_disconnect_handler(on_disconnect)
    )
    async with (
        linked(websocket_app) as app,
        websocket_client(app) as member,
        websocket_client(app, "/?newcomer") as newcomer,
        websocket_client(app, "/?guest") as guest,
    ):
        assert (await newcomer.receive()).text == "a newcomer says hello"
        await member.send("I say hello")
        await trio.testing.wait_all_tasks_blocked()
        await guest.close()
        await parting.wait()
        hellos = ["a newcomer says hello", "I say hello", "the guest has left"]
        assert [(await member.receive()).text for _ in range(3)] == hellos
        assert [(await newcomer.receive()).text for _ in range(2)] == hellos[1:]


async def test_broadcast_does_not_reach_those_who_come_later(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A client that connects while a broadcast goes out does not get it, but gets the next one."""
    monkeypatch.setattr(_broadcaster, "_TURN", 1)
    broadcasting = False
    came_in_between = False

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        nonlocal came_in_between
        if stream.request.query == "late":
            came_in_between = broadcasting

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect)
    sender = websocket_app.sender()

    async def broadcast() -> None:
        nonlocal broadcasting
        broadcasting = True
        await sender.broadcast("first")
        broadcasting = False

    async with (
        linked(websocket_app) as app,
        served_in_memory(app) as connect,
        trio.open_nursery() as nursery,
    ):
        for _ in range(100):
            await open_websocket(connect())
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(broadcast)
        late = await open_websocket(connect(), "/?late")
        await trio.testing.wait_all_tasks_blocked()
        assert came_in_between
        await sender.broadcast("second")
        assert (await late.receive()).text == "second"


# ------------------------------------------------------------------------------------ running, and ending


async def test_max_connections(autojump_clock: trio.testing.MockClock) -> None:
    """An app serves ``max_connections`` streams at once, even of a crowd that waits; then come the next."""
    diary = Diary()
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=2).with_message_handler(echo)

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        diary.entries.append(stream.request.query)

    websocket_app.with_connect_handler(on_connect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery, served_in_memory(app) as connect:
        clients = [await open_websocket(connect(), f"/?{number}") for number in range(5)]
        await nursery.start(websocket_app.run)
        await trio.testing.wait_all_tasks_blocked()
        for number, client in enumerate(clients):
            assert sorted(diary.entries) == [str(served) for served in range(min(number + 2, 5))]
            await echo_once(client, "my turn")
            await client.close()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("left", ["a task", "a disconnect handler"])
async def test_max_connections_bounds_what_ends(left: str, autojump_clock: trio.testing.MockClock) -> None:
    """A stream keeps its slot until its tasks and its disconnect handler have ended, which bounds their number."""
    running = most_running = 0

    async def take_time() -> None:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        running -= 1

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        if left == "a task":
            stream.start_soon(take_time)

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        if left == "a disconnect handler":
            await take_time()

    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=2)
    websocket_app.with_connect_handler(on_connect).with_disconnect_handler(on_disconnect)
    async with linked(websocket_app) as app, served_in_memory(app) as connect:
        for number in range(20):
            client = await open_websocket(connect())
            await client.send_raw(close_frame(1000))
            await trio.testing.wait_all_tasks_blocked()
            assert websocket_app.statistics().connections == min(number + 1, 2)
        await trio.sleep(30)
        assert websocket_app.statistics().connections == 0
    assert most_running == 2


@pytest.mark.parametrize("make", [AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
@pytest.mark.parametrize("options", [{"max_connections": 0}, {"max_read_ahead": 0}, {"max_outbox_bytes": 0}])
def test_invalid_options(make: Callable[..., object], options: dict[str, int]) -> None:
    """An option below its least value is a ValueError that names it, when the app is made."""
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


async def test_an_app_runs_once(autojump_clock: trio.testing.MockClock) -> None:
    """A second ``run`` is a RuntimeError, beside the first one and after it."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    async with linked(websocket_app):
        with pytest.raises(RuntimeError, match="once"):
            await websocket_app.run()
    with pytest.raises(RuntimeError, match="once"):
        await websocket_app.run()


def test_links_that_do_not_exist() -> None:
    """Asking an app for the other kind's link is a LinkError that says what to do."""
    with pytest.raises(LinkError, match="new_unlinked"):
        AsyncWebsocketApp().connect_hook()
    with pytest.raises(LinkError, match="HTTP app"):
        AsyncWebsocketApp.new_unlinked().with_address(ANY_PORT)


async def test_internally_linked_app() -> None:
    """``AsyncWebsocketApp()`` listens at its address by itself, serves every path, and nothing but WebSockets."""
    websocket_app = AsyncWebsocketApp().with_address(ANY_PORT).with_message_handler(echo)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            assert address.host == "127.0.0.1"
            for path in ("/", "/any/path?at=all"):
                async with await trio.open_tcp_stream(address.host, address.port) as stream:
                    client = await open_websocket(stream, path)
                    await echo_once(client, "hello")
                    await client.close()
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 426 ")
            nursery.cancel_scope.cancel()


async def test_internally_linked_app_asks_browsers_for_their_origin() -> None:
    """Pages of other origins may connect to an internally linked app only if ``origins`` has them."""
    websocket_app = AsyncWebsocketApp(origins={"https://friend.example"}).with_address(ANY_PORT)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await open_websocket(stream, headers={"Origin": "https://friend.example"})
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                with pytest.raises(HandshakeError) as refused:
                    await open_websocket(stream, headers={"Origin": "https://foe.example"})
                assert refused.value.status == 403
            nursery.cancel_scope.cancel()


async def test_address_that_cannot_be_listened_on() -> None:
    """An address that is taken or is none is a plain OSError or ValueError of ``run``, in no group."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="cannot listen on") as failed:
            await AsyncWebsocketApp().with_address(f"127.0.0.1:{taken.getsockname()[1]}").run()
        assert failed.value.errno == errno.EADDRINUSE
    with pytest.raises(ValueError, match="is not an address"):
        await AsyncWebsocketApp().with_address("somewhere").run()


async def sleep_when_parting(stream: AsyncStream[Any], name: str) -> None:
    if name == "disconnect":
        await trio.sleep(100)


@pytest.mark.parametrize("limit", [0.5, 7])
@pytest.mark.parametrize("parting", [False, True])
async def test_cancelled_app_bounds_its_disconnect_handlers(
    parting: bool, limit: float, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """Cancelled, an app gives disconnect handlers ``Timeouts.disconnect``, those that run already too."""
    diary = Diary(sleep_when_parting)
    websocket_app = diary.app(timeouts=Timeouts(disconnect=limit))
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with served_in_memory(app) as connect:
        async with trio.open_nursery() as nursery:
            await nursery.start(websocket_app.run)
            client = await open_websocket(connect())
            await diary.until("connect")
            if parting:
                await client.close()
                await diary.until("disconnect...")
                await trio.sleep(10)
            cancelled = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - cancelled == pytest.approx(limit)
    assert diary.entries == ["connect...", "connect", "disconnect...", "disconnect cancelled"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_disconnect_handler_may_take_long(autojump_clock: trio.testing.MockClock) -> None:
    """While its app runs, a disconnect handler may take as long as it likes, and holds up nobody."""
    diary = Diary(sleep_when_parting)
    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_message_handler(echo).with_disconnect_handler(diary.disconnect)
    )
    async with linked(websocket_app) as app, websocket_client(app) as other:
        async with websocket_client(app):
            pass
        await diary.until("disconnect...")
        begun = trio.current_time()
        await echo_once(other, "hello")
        assert trio.current_time() == begun
        await diary.until("disconnect")
        assert trio.current_time() - begun == pytest.approx(100)
