"""AsyncWebsocketApp: the order of handlers, their arguments, and slow handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from humphrey_trio.http import Address
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from tests.support.apps import linked, served_in_memory
from tests.support.event_recorder import GENERAL_CLOSE, EventRecorder, echo_once
from tests.support.wire import TEXT, client_frame

# ---------------------------------------------------------------------------------------- order of handlers


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_messages_without_a_handler(
    concurrency: int, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """Messages to an app without a message handler are discarded, which is logged once at level INFO."""
    caplog.set_level("INFO")
    async with linked(AsyncWebsocketApp.new_unlinked(concurrency=concurrency)) as app:
        for _ in range(2):
            async with websocket_client(app) as client:
                await client.send("a")
                await client.send("b")
                await client.ping()
    lines = [
        record.getMessage() for record in caplog.records if "without a message handler" in record.getMessage()
    ]
    assert lines == [
        "a client sends messages to an AsyncWebsocketApp without a message handler: they are discarded"
    ]


async def do_nothing(stream: AsyncStream[Any], name: str) -> None:
    """Return at once."""


async def take_a_turn(stream: AsyncStream[Any], name: str) -> None:
    await trio.lowlevel.checkpoint()


async def be_slow_at_times(stream: AsyncStream[Any], name: str) -> None:
    """Sleep for some messages, so that others are read ahead several times."""
    await trio.sleep(3 if name.endswith("00") or name == "connect" else 0)


async def be_very_slow(stream: AsyncStream[Any], name: str) -> None:
    await trio.sleep(30)


@pytest.mark.parametrize("work", [do_nothing, take_a_turn, be_slow_at_times])
async def test_handlers_of_a_burst_run_in_order(
    work: Callable[[AsyncStream[Any], str], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    """The handlers of a burst of 1,000 messages run one by one in order, between connect and disconnect."""
    recorder = EventRecorder(work)
    burst = [str(number) for number in range(1000)]
    async with linked(recorder.app()) as app:
        async with websocket_client(app) as client:
            await client.send_raw(b"".join(client_frame(TEXT, text.encode()) for text in burst))
            await recorder.until(burst[-1])
        await recorder.until("disconnect")
    expected = [entry for name in ["connect", *burst, "disconnect"] for entry in (f"{name}...", name)]
    assert recorder.entries == expected
    assert recorder.codes == [1000]


async def send_close(client: WebsocketClient) -> None:
    await client.close(GENERAL_CLOSE)


@pytest.mark.parametrize(("leave", "code"), [(send_close, GENERAL_CLOSE), (WebsocketClient.disconnect, 1006)])
@pytest.mark.parametrize("during", ["connect", "first"])
async def test_disconnect_during_a_handler(
    during: str,
    leave: Callable[[WebsocketClient], Awaitable[None]],
    code: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A handler whose client disconnects is cancelled within a second; the disconnect handler runs once."""

    async def sleep_long(stream: AsyncStream[Any], name: str) -> None:
        if name == during:
            await trio.sleep(50)

    recorder = EventRecorder(sleep_long)
    async with linked(recorder.app()) as app, websocket_client(app) as client:
        await client.send("first")
        await recorder.until(f"{during}...")
        left = trio.current_time()
        await leave(client)
        await recorder.until("disconnect")
        assert trio.current_time() - left <= 1
    finished = ["connect...", "connect"] if during == "first" else []
    assert recorder.entries == [*finished, f"{during}...", f"{during} cancelled", "disconnect...", "disconnect"]
    assert recorder.codes == [code]


async def test_disconnect_before_the_app_takes_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    """A client that disconnects while it waits in the hook gets its connect and disconnect handlers."""
    recorder = EventRecorder()
    websocket_app = recorder.app()
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery:
        async with websocket_client(app) as client:
            await client.disconnect()
            await nursery.start(websocket_app.run)
            await recorder.until("disconnect")
        nursery.cancel_scope.cancel()
    assert recorder.entries == ["connect...", "connect", "disconnect...", "disconnect"]
    assert recorder.codes == [1006]


# --------------------------------------------------------------------------------------- streams and states


async def test_stream_attributes_in_handlers(autojump_clock: trio.testing.MockClock) -> None:
    """A handler finds the client's address, request and, at the end, close code on its stream."""
    streams: list[AsyncStream[None]] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        assert not stream.closed
        assert (stream.close_code, stream.close_reason) == (None, None)
        streams.append(stream)

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        assert stream.closed
        assert (stream.close_code, stream.close_reason) == (GENERAL_CLOSE, "done")
        streams.append(stream)

    websocket_app = (
        AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect).with_disconnect_handler(on_disconnect)
    )
    async with linked(websocket_app, "/chat/*") as app:
        for _ in range(2):
            async with websocket_client(app, "/chat/room?name=me", headers={"X-Mood": "good"}) as client:
                await client.close(GENERAL_CLOSE, "done")
        await trio.testing.wait_all_tasks_blocked()

    first, first_again, second, second_again = streams
    assert first is first_again
    assert second is second_again
    assert first.id != second.id
    assert first.state is None
    assert (first.request.path, first.request.query) == ("/chat/room", "name=me")
    assert first.request.headers["X-Mood"] == "good"
    assert first.peer_addr == first.request.address == Address("memory", 0)
    assert str(first.id) in repr(first)


async def test_app_state_and_stream_state(autojump_clock: trio.testing.MockClock) -> None:
    """Handlers get the app's state, and each stream has the state that ``stream_state`` made for it."""

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


async def test_app_without_a_message_handler(autojump_clock: trio.testing.MockClock) -> None:
    """Without a message handler, messages are discarded; pings and the close are answered."""
    recorder = EventRecorder()
    websocket_app = (
        AsyncWebsocketApp.new_unlinked()
        .with_connect_handler(recorder.connect)
        .with_disconnect_handler(recorder.disconnect)
    )
    async with linked(websocket_app) as app:
        async with websocket_client(app) as client:
            for _ in range(200):
                await client.send("are you there?")
            await client.ping(b"abc")
            assert await client.stream.receive_some() == b"\x8a\x03abc"
        await trio.testing.wait_all_tasks_blocked()
    assert recorder.entries == ["connect...", "connect", "disconnect...", "disconnect"]
    assert recorder.codes == [1000]


# ------------------------------------------------------------------------------------- slow handlers


async def test_pings_are_answered_during_a_slow_handler(autojump_clock: trio.testing.MockClock) -> None:
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
    """While a handler sleeps, ``max_read_ahead`` messages are read from its client; all are handled later."""
    handled: list[str] = []

    async def sleep_at_first(stream: AsyncStream[None], message: Message, state: None) -> None:
        if not handled:
            await trio.sleep(5)
        handled.append((message.text or "").rstrip())

    # Each message fills a read, so that the test can count what was read from the client.
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
        # One message is being handled, and the reader may hold one.
        assert limit + 1 <= sent <= limit + 2
        await trio.sleep(10)
        assert handled == burst


async def test_slow_handler_of_a_silent_client(autojump_clock: trio.testing.MockClock) -> None:
    """A slow handler whose client stays connected and sends nothing runs to its end."""
    recorder = EventRecorder(be_very_slow)
    async with linked(recorder.app()) as app, websocket_client(app) as client:
        await client.send("work")
        await recorder.until("work")
    assert recorder.entries[:4] == ["connect...", "connect", "work...", "work"]


# ------------------------------------------------------------------------------------------------- close


@pytest.mark.parametrize("where", ["connect", "message"])
@pytest.mark.parametrize("seconds", [0, 5])
async def test_close_from_a_handler(where: str, seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    """A handler may close its stream: the client gets code and reason, and no further message is handled."""

    async def close_there(stream: AsyncStream[Any], name: str) -> None:
        if name == where:
            await trio.sleep(seconds)
            await stream.send("last")
            await stream.close(GENERAL_CLOSE, "no more")

    recorder = EventRecorder(close_there)
    async with linked(recorder.app()) as app:
        async with websocket_client(app) as client:
            await client.send_raw(
                b"".join(client_frame(TEXT, text.encode()) for text in ("message", "late", "later"))
            )
            assert (await client.receive()).text == "last"
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
        await recorder.until("disconnect")
    assert (closed.value.code, closed.value.reason) == (GENERAL_CLOSE, "no more")
    before = ["connect...", "connect", "message...", "message"][: 2 if where == "connect" else 4]
    assert recorder.entries == [*before, "disconnect...", "disconnect"]
    assert recorder.codes == [GENERAL_CLOSE]
