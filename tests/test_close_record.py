"""Close records: for each way in which a stream can end, who began it, why, and what had happened by then."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Drain,
    Heartbeat,
    Message,
    Request,
    Response,
    Timeouts,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._websocket._stream import _reports
from humphrey_trio._websocket._stream._stream import connection_of
from humphrey_trio.testing import open_websocket, websocket_client
from humphrey_trio.websocket import CloseRecord, HandshakeError, Upgrade
from tests.support import ANY_PORT
from tests.support.apps import Stage, linked, served_in_memory, staged
from tests.support.clients import RawClient, half_close
from tests.support.links import Link, each_link, reset
from tests.support.times import SWEEP
from tests.support.wire import CLOSE, PING, TEXT, client_frame, close_frame, request_bytes

#: Seconds from the handshake to what ends a stream.
AGE = 3.0

TIMEOUTS = Timeouts(write=2.0, close=1.5)


class Log:
    """The log entries of ended connections."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "humphrey_trio.websocket")
        self._caplog = caplog

    @property
    def lines(self) -> list[logging.LogRecord]:
        """The lines at INFO."""
        return [record for record in self._caplog.records if record.levelno == logging.INFO]

    @property
    def records(self) -> list[CloseRecord]:
        """The close records of those lines."""
        return [line.close_record for line in self.lines]  # type: ignore[attr-defined]

    @property
    def record(self) -> CloseRecord:
        """The only close record."""
        (record,) = self.records
        return record


def settled(records: list[CloseRecord | None]) -> list[CloseRecord | None]:
    """The record without what may still be unsent: the bytes of the Close frame."""
    return [record and replace(record, bytes_received=0, bytes_sent=0, clean=None) for record in records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


class CountingClient(RawClient):
    """A raw client that counts what it sends and receives."""

    messages = sent = received = messages_back = 0

    async def tell(self, text: str) -> None:
        """Send a message."""
        self.messages += 1
        await self.send_frame(client_frame(TEXT, text.encode()))

    async def send_frame(self, frame: bytes) -> None:
        self.sent += len(frame)
        await self.send(frame)

    async def frame(self) -> tuple[int, bytes]:
        opcode, payload = await super().frame()
        assert len(payload) < 126
        self.received += 2 + len(payload)
        self.messages_back += opcode == TEXT
        return opcode, payload

    async def answer_and_close(self) -> None:
        """Read up to the server's Close frame, answer it, read to the end of file, and close."""
        while (await self.frame())[0] != CLOSE:
            pass
        await self.send_frame(client_frame(CLOSE))
        assert await self.rest() == []
        await self.stream.aclose()


@dataclass
class Scene:
    """A client of an app, whose handlers do what it says, and the record that its disconnect handler finds."""

    shutdown: trio.Event = field(default_factory=trio.Event)
    stream: AsyncStream[Any] | None = None
    records: list[CloseRecord | None] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)
    app: AsyncWebsocketApp[Any, Any] = field(init=False)
    stage: Stage = field(init=False)
    client: CountingClient = field(init=False)

    async def on_connect(self, stream: AsyncStream[Any], state: None) -> None:
        assert stream.close_record is None
        self.stream = stream
        if "connect" in stream.request.query:
            await trio.sleep(AGE)
            raise ValueError("in the connect handler")

    async def on_message(self, stream: AsyncStream[Any], message: Message, state: None) -> None:
        assert stream.close_record is None
        if message.text == "raise":
            raise ValueError("in the message handler")
        if message.text == "sleep":
            await trio.sleep(100)
        elif message.text == "close":
            await stream.close(4000, "bye")
            assert stream.close_record is not None
        else:
            await stream.send(message)

    async def on_disconnect(self, stream: AsyncStream[Any], state: None) -> None:
        self.records.append(stream.close_record)
        self.ended.set()


Act = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True)
class Way:
    """A way to end a stream, and the expected record."""

    act: Act
    initiator: str
    code: int
    reason: str | None = ""  # None for the code of the Close frame
    cause: str = ""
    error: str = ""
    query: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    clean: bool = False

    def __str__(self) -> str:
        return self.act.__name__


async def client_closes(scene: Scene) -> None:
    await scene.client.send_frame(close_frame(4001))
    assert await scene.client.rest() == [(CLOSE, (4001).to_bytes(2, "big"))]


async def client_closes_with_a_reason(scene: Scene) -> None:
    await scene.client.send_frame(close_frame(1001, "gone"))
    await scene.client.rest()


async def client_closes_without_a_code(scene: Scene) -> None:
    await scene.client.send_frame(client_frame(CLOSE))
    assert await scene.client.rest() == [(CLOSE, b"")]


async def client_ends(scene: Scene) -> None:
    await half_close(scene.client.stream)
    assert await scene.client.rest() == []


async def client_breaks_the_rules(scene: Scene) -> None:
    await scene.client.send_frame(client_frame(TEXT, b"reserved bit", rsv=4))
    assert await scene.client.close_code() == 1002


async def client_sends_bad_text(scene: Scene) -> None:
    await scene.client.send_frame(client_frame(TEXT, b"\xff"))
    assert await scene.client.close_code() == 1007


async def client_sends_too_much(scene: Scene) -> None:
    await scene.client.send_frame(client_frame(TEXT, bytes(50)))
    assert await scene.client.close_code() == 1009


async def client_is_silent(scene: Scene) -> None:
    assert [opcode for opcode, _ in await scene.client.rest()] == [PING]


async def client_does_not_answer(scene: Scene) -> None:
    await scene.client.tell("close")
    assert await scene.client.close_code() == 4000
    assert await scene.client.rest() == []


async def both_close(scene: Scene) -> None:
    await scene.client.tell("close")
    await scene.client.send_frame(close_frame(4001, "from the client"))
    assert await scene.client.close_code() == 4000
    await scene.client.rest()


async def connect_handler_raises(scene: Scene) -> None:
    await scene.client.answer_and_close()


async def message_handler_raises(scene: Scene) -> None:
    await scene.client.tell("raise")
    await scene.client.answer_and_close()


async def stream_state_raises(scene: Scene) -> None:
    await scene.client.answer_and_close()


async def handler_closes(scene: Scene) -> None:
    await scene.client.tell("close")
    await scene.client.answer_and_close()


async def deadline_passes(scene: Scene) -> None:
    assert scene.stream is not None
    scene.stream.set_deadline(0.0001, 4003, "expired")
    await scene.client.answer_and_close()


async def app_drains(scene: Scene) -> None:
    scene.shutdown.set()
    await scene.client.answer_and_close()


async def app_is_cancelled(scene: Scene) -> None:
    scene.stage.websocket.cancel()
    await scene.client.answer_and_close()


async def http_app_is_cancelled(scene: Scene) -> None:
    scene.stage.http.cancel()
    assert await scene.client.close_code() == 1001


def fail(stream: WebsocketStream) -> None:
    if "state" in stream.request.query:
        raise ValueError("in stream_state")


REFUSED = "what the client sent was refused"

WAYS = [
    Way(client_closes, "client", 4001, clean=True),
    Way(client_closes_with_a_reason, "client", 1001, "gone", clean=True),
    Way(client_closes_without_a_code, "client", 1005, clean=True),
    Way(client_ends, "client", 1006, "", "the connection ended without a Close"),
    Way(client_breaks_the_rules, "server", 1002, None, REFUSED),
    Way(client_sends_bad_text, "server", 1007, None, REFUSED),
    Way(client_sends_too_much, "server", 1009, None, REFUSED, options={"max_message_size": 30}),
    Way(client_does_not_answer, "server", 4000, "bye"),
    Way(both_close, "server", 4000, "bye", clean=True),
    Way(message_handler_raises, "server", 1011, "", "its handler failed", "in the message handler", clean=True),
    Way(
        connect_handler_raises,
        *("server", 1011, "", "its handler failed", "in the connect handler", "connect"),
        clean=True,
    ),
    Way(handler_closes, "server", 4000, "bye", clean=True),
    Way(deadline_passes, "server", 4003, "expired", "its deadline has passed", clean=True),
    Way(app_drains, "server", 1012, "retry-after=2.5", "the server ends", clean=True),
    Way(app_is_cancelled, "server", 1001, "", "the application has ended", clean=True),
    Way(http_app_is_cancelled, "server", 1001, "", "the server has ended"),
]


def new_scene(**options: Any) -> Scene:
    scene = Scene()
    scene.app = (
        AsyncWebsocketApp.new_unlinked(timeouts=TIMEOUTS, stream_state=fail, **options)
        .with_connect_handler(scene.on_connect)
        .with_message_handler(scene.on_message)
        .with_disconnect_handler(scene.on_disconnect)
        .with_shutdown(scene.shutdown, Drain(code=1012, retry_after=2.5))
    )
    return scene


async def greet(scene: Scene, connection: trio.abc.Stream, query: str = "") -> None:
    """Execute the handshake, and send the first message to the handlers if they expect one."""
    scene.client = CountingClient(connection)
    await scene.client.open(f"/?{query}")
    if not query:
        for text in ("one", "two"):
            await scene.client.tell(text)
            assert await scene.client.frame() == (TEXT, text.encode())
        await trio.sleep(AGE)


# --------------------------------------------------------------------------------- initiator, cause and age


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_close_record_of_every_way_to_end(way: Way, autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record has the initiator, code, reason, cause, age, and the counts of the client."""
    scene = new_scene(**way.options)
    async with staged(scene.app) as scene.stage:
        await greet(scene, scene.stage.connect(), way.query)
        await way.act(scene)
        await scene.client.stream.aclose()
        await trio.sleep(2)

        record = log.record
        assert (record.initiator, record.code, record.cause) == (way.initiator, way.code, way.cause)
        assert record.reason == way.reason if way.reason is not None else record.reason
        assert str(record.exception or "") == way.error
        assert record.age == pytest.approx(AGE, abs=SWEEP)

        client = scene.client
        assert record.messages_received == client.messages
        assert record.bytes_received == client.sent
        assert record.messages_sent == client.messages_back
        assert record.bytes_sent == client.received
        assert record.dropped == record.unhandled == record.queued_messages == record.queued_bytes == 0
        assert record.clean is way.clean

        assert settled(scene.records) == settled([record])
        assert scene.stream is not None
        assert scene.stream.close_record == record
        assert (scene.stream.close_code, scene.stream.close_reason) == (record.code, record.reason)


async def test_close_record_of_a_failed_stream_state(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of a stream whose ``stream_state`` raises is only in the log."""
    scene = new_scene()
    async with staged(scene.app) as scene.stage:
        await greet(scene, scene.stage.connect(), "state")
        await scene.client.answer_and_close()
    assert scene.records == []
    assert (log.record.initiator, log.record.code) == ("server", 1011)
    assert log.record.cause == "its stream_state failed"
    assert str(log.record.exception) == "in stream_state"
    assert log.record.bytes_sent == scene.client.received


async def test_close_record_of_a_silent_client(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of a client that the heartbeat has cut off has the seconds of its silence."""
    scene = new_scene()
    scene.app.with_heartbeat(Heartbeat(interval=AGE + 1, timeout=2))
    async with staged(scene.app) as scene.stage:
        await greet(scene, scene.stage.connect())
        assert [opcode for opcode, _ in await scene.client.rest()] == [PING]
        await trio.sleep(1)
        assert settled(scene.records) == settled(log.records)
    record = log.record
    assert (record.initiator, record.code) == ("server", 1006)
    assert record.reason == record.cause == "no answer to a ping in 2 s"
    assert record.age == pytest.approx(AGE + 3, abs=2.1 * SWEEP)
    assert record.bytes_sent == scene.client.received


async def test_close_record_of_a_write_timeout(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of a client that was cut off by the write timeout counts what it did not get."""
    scene = new_scene()
    async with staged(scene.app, stream_pair=trio.testing.lockstep_stream_pair) as scene.stage:
        await greet(scene, scene.stage.connect())
        begun = trio.current_time()
        assert scene.stream is not None
        for _ in range(5):
            await scene.stream.send("more")
        await scene.ended.wait()
        assert trio.current_time() - begun == pytest.approx(TIMEOUTS.write, abs=2 * SWEEP)
        assert scene.app.statistics().slow_closes == 1
        assert settled(scene.records) == settled(log.records)
    record = log.record
    assert (record.initiator, record.code) == ("server", 1006)
    assert record.reason == record.cause == "too slow"
    assert (record.queued_messages, record.queued_bytes) == (5, 5 * 6)
    assert record.bytes_sent == scene.client.received
    # A message that was being written may have arrived.
    assert (record.messages_sent, record.dropped) == (scene.client.messages_back + 1, 4)


async def test_close_record_of_a_full_outbox(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of a client whose outbox was full counts what it did not get."""
    scene = new_scene(max_outbox_messages=3)
    async with staged(scene.app, stream_pair=trio.testing.lockstep_stream_pair) as scene.stage:
        await greet(scene, scene.stage.connect())
        sender = scene.app.sender()
        await sender.broadcast("begun")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            await sender.broadcast("more")
        await trio.sleep(1)
        await scene.client.answer_and_close()
        await trio.sleep(1)
        assert settled(scene.records) == settled(log.records)
    record = log.record
    assert (record.initiator, record.code) == ("server", 1013)
    assert (record.reason, record.cause) == ("too slow", "its outbox was full")
    assert record.queued_messages == 4
    assert record.queued_bytes == len("begun") + 3 * len("more") + 4 * 2
    assert record.dropped == 4
    assert record.messages_sent == scene.client.messages_back == 3
    assert record.bytes_sent == scene.client.received


async def test_close_record_counts_queued_messages(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record counts the messages that waited at the close; they are sent if the client reads."""
    scene = new_scene()
    async with staged(scene.app, stream_pair=trio.testing.lockstep_stream_pair) as scene.stage:
        await greet(scene, scene.stage.connect())
        assert scene.stream is not None
        for number in range(5):
            await scene.stream.send(f"{number}")
        await scene.stream.close()
        await scene.client.answer_and_close()
        await trio.sleep(1)
        assert settled(scene.records) == settled(log.records)
    record = log.record
    assert (record.queued_messages, record.queued_bytes) == (5, 5 * 3)
    assert record.messages_sent == scene.client.messages_back == 7
    assert record.bytes_sent == scene.client.received
    assert record.dropped == 0


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("thorough", [False, True])
async def test_close_record_counts_unhandled_messages(
    thorough: bool, concurrency: int, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """Messages that no handler received are counted, in the log too, even if a handler is slow to clean up."""
    records: list[CloseRecord | None] = []

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        try:
            await trio.sleep(100)
        finally:
            if thorough:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        records.append(stream.close_record)

    app = AsyncWebsocketApp.new_unlinked(concurrency=concurrency)
    app.with_message_handler(on_message).with_disconnect_handler(on_disconnect)
    async with linked(app) as http_app:
        async with websocket_client(http_app) as client:
            for number in range(7):
                await client.send(f"{number}")
            await trio.sleep(AGE)
        await trio.sleep(2)
    assert settled(records) == settled(log.records)
    assert log.record.messages_received == 7
    assert log.record.unhandled == 7 - concurrency
    assert app.statistics().unhandled == 7 - concurrency


class AwkwardError(Exception):
    """An exception that cannot be copied."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)


async def test_close_record_as_json(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """A record with any exception can be written as JSON."""

    async def fail(stream: AsyncStream, message: Message, state: None) -> None:
        raise AwkwardError("a", "b")

    async with linked(AsyncWebsocketApp.new_unlinked().with_message_handler(fail)) as app:
        async with websocket_client(app) as client:
            await client.send("text")
            async for _ in client:
                pass
        await trio.sleep(1)
    named = json.loads(json.dumps(log.record.as_dict()))
    assert named["exception"] == "AwkwardError('a')"
    assert {name: value for name, value in named.items() if name != "exception"} == {
        field.name: getattr(log.record, field.name) for field in fields(CloseRecord) if field.name != "exception"
    }


async def test_close_record_of_a_coroutine_counts_unreceived_messages(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """Messages that a coroutine did not receive before it returned count as unhandled."""

    async def own(stream: WebsocketStream, state: None) -> None:
        await stream.receive()
        await trio.sleep(AGE)

    app = App().with_websocket_route("/", websocket_handler(own))
    async with websocket_client(app, "/") as client:
        for number in range(5):
            await client.send(f"{number}")
        async for _ in client:
            pass
        await trio.sleep(1)
    assert (log.record.messages_received, log.record.unhandled) == (5, 4)


@pytest.mark.parametrize("end", ["client", "server"])
async def test_close_record_of_a_cancelled_coroutine(
    end: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Messages that a cancelled coroutine did not receive count as unhandled.
    
    That includes a message that arrives together with the cancellation."""
    for _ in range(20):  # the order of the tasks that become runnable is random
        streams: list[WebsocketStream] = []

        async def own(stream: WebsocketStream, state: None, streams: list[WebsocketStream] = streams) -> None:
            streams.append(stream)
            await stream.receive()
            await trio.sleep_forever()

        async with staged(
            AsyncWebsocketApp.new_unlinked(), App().with_websocket_route("/own", websocket_handler(own))
        ) as stage:
            client = await open_websocket(stage.connect(), "/own")
            for number in range(5):
                await client.send(f"{number}")
            await trio.testing.wait_all_tasks_blocked()
            await client.send("at the last moment")
            if end == "server":
                stage.http.cancel()
            else:
                await client.disconnect()
            await trio.sleep(1)
        record = streams[0].close_record
        assert record is not None
        assert record.messages_received == record.unhandled + 1
        assert record.messages_received in ((5, 6) if end == "server" else (6,))


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("failing", ["connect", "message"])
async def test_close_record_of_a_failed_handler_counts_read_ahead(
    failing: str, concurrency: int, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """Messages that were read ahead when a handler failed count as unhandled."""
    records: list[CloseRecord | None] = []
    begun: list[str | None] = []

    async def on_connect(stream: AsyncStream, state: None) -> None:
        await trio.sleep(1)
        if failing == "connect":
            raise ValueError("failed")

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        begun.append(message.text)
        await trio.sleep(1)
        raise ValueError("failed")

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        records.append(stream.close_record)

    app = AsyncWebsocketApp.new_unlinked(concurrency=concurrency)
    app.with_connect_handler(on_connect).with_message_handler(on_message).with_disconnect_handler(on_disconnect)
    async with linked(app) as http_app:
        async with websocket_client(http_app) as client:
            for number in range(7):
                await client.send(f"{number}")
            async for _ in client:
                pass
        await trio.sleep(2)
    assert settled(records) == settled(log.records)
    assert log.record.messages_received == 7
    assert log.record.unhandled == 7 - len(begun)
    assert len(begun) == (concurrency if failing == "message" else 0)


async def test_close_record_counts_frames_sent_with_the_handshake(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """Frames in one packet with the handshake are counted, the handshake is not."""
    scene = new_scene()
    frames = client_frame(TEXT, b"early") + close_frame(4001)
    async with staged(scene.app) as scene.stage:
        client = CountingClient(scene.stage.connect())
        await client.send(request_bytes("GET / HTTP/1.1") + frames)
        assert (await client.reply()).status == 101
        await client.rest()
        await trio.sleep(1)
    assert (log.record.messages_received, log.record.bytes_received) == (1, len(frames))
    assert (log.record.messages_sent, log.record.bytes_sent) == (1, client.received)


async def test_close_record_without_a_101(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of a client that disconnected before its 101 counts no sent bytes, and no negative number."""
    counts: list[int] = []
    scene = new_scene()

    async def on_connect(stream: AsyncStream, state: None) -> None:
        counts.append(stream.statistics().bytes_sent)
        await stream.send("hello")
        counts.append(stream.statistics().bytes_sent)

    scene.app.with_connect_handler(on_connect)
    async with staged(scene.app, stream_pair=trio.testing.lockstep_stream_pair) as scene.stage:
        connection = scene.stage.connect()
        await connection.send_all(request_bytes("GET / HTTP/1.1"))
        await trio.sleep(1)
        await trio.aclose_forcefully(connection)
        await trio.sleep(1)
        assert settled(scene.records) == settled(log.records)
    assert counts == [0, 0]
    assert (log.record.initiator, log.record.code, log.record.bytes_sent) == ("client", 1006, 0)


async def test_close_record_of_an_exception_group(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record has the exception group of a handler's nursery unchanged."""
    raised: list[BaseException] = []

    async def fail(error: Exception) -> None:
        raise error

    async def on_connect(stream: AsyncStream, state: None) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, ValueError("one"))
                nursery.start_soon(fail, KeyError("two"))
        except ExceptionGroup as group:
            raised.append(group)
            raise

    app = AsyncWebsocketApp.new_unlinked().with_connect_handler(on_connect)
    async with linked(app) as http_app, websocket_client(http_app) as client:
        async for _ in client:
            pass
    assert [log.record.exception] == raised


async def test_close_record_does_not_change(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """The record of an ended stream does not change; its age is that at the close."""
    scene = new_scene()
    async with staged(scene.app) as scene.stage:
        await greet(scene, scene.stage.connect())
        assert scene.stream is not None
        assert scene.stream.close_record is None
        await scene.stream.close(4000)
        await trio.sleep(1)
        at_once = scene.stream.close_record
        await scene.client.answer_and_close()
        await trio.sleep(10)
        assert at_once is not None
        assert (
            scene.stream.close_record
            == log.record
            == replace(at_once, bytes_received=scene.client.sent, clean=True)
        )
        await scene.stream.close(4001)
        scene.stream.set_deadline(1)
        await trio.sleep(10)
        assert scene.stream.close_record == log.record


# ----------------------------------------------------------------------------------------------- sockets


@each_link
@pytest.mark.parametrize("by_reset", [True, False])
async def test_close_record_of_a_reset_or_an_end_of_file(by_reset: bool, link: Link, nursery: trio.Nursery, log: Log) -> None:
    """A client that disconnects without a Close has code 1006; the cause tells a reset from an end of file."""
    ended = trio.Event()

    async def on_message(stream: AsyncStream, message: Message, state: None) -> None:
        await stream.send(message)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        ended.set()

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(on_message)
    websocket_app.with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    await nursery.start(websocket_app.run)
    (address,) = await nursery.start(link.run(app), ANY_PORT)
    with trio.fail_after(10):
        client = CountingClient(await link.connect(address))
        await client.open()
        await client.tell("hello")
        await client.frame()
        if by_reset:
            reset(client.stream)
        else:
            await client.stream.aclose()
        await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
    record = log.record
    assert (record.initiator, record.code, record.reason) == ("client", 1006, "")
    assert record.cause == ("the connection broke" if by_reset else "the connection ended without a Close")
    assert (record.bytes_received, record.bytes_sent) == (client.sent, client.received)
    assert (record.messages_received, record.messages_sent) == (1, 1)
    assert 0 < record.age < 10
    nursery.cancel_scope.cancel()


@each_link
async def test_close_record_of_a_cancelled_server(link: Link, nursery: trio.Nursery, log: Log) -> None:
    """The frames that a cancelled server still sends are counted."""
    scope = trio.CancelScope()

    async def greet_with_more(stream: WebsocketStream, state: None) -> None:
        await stream.send("hello")
        await trio.sleep_forever()

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        app = App().with_websocket_route("/", websocket_handler(greet_with_more))
        with scope:
            await link.run(app)(ANY_PORT, task_status=task_status)

    with trio.fail_after(10):
        (address,) = await nursery.start(run)
        client = CountingClient(await link.connect(address))
        await client.open()
        assert await client.frame() == (TEXT, b"hello")
        scope.cancel()
        assert await client.close_code() == 1001
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
    assert log.record.bytes_sent == client.received
    assert log.record.cause == "the server has ended"


# ------------------------------------------------------------------------------ streams without a WebSocket app


async def client_leaves(stream: WebsocketStream) -> None:
    async for _ in stream:
        pass


async def returns(stream: WebsocketStream) -> None:
    await trio.sleep(AGE)


async def raises(stream: WebsocketStream) -> None:
    await trio.sleep(AGE)
    raise ValueError("in the route")


async def raises_a_group(stream: WebsocketStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, stream)
        nursery.start_soon(trio.sleep_forever)


async def closes(stream: WebsocketStream) -> None:
    await trio.sleep(AGE)
    assert stream.close_record is None
    await stream.close(4000, "bye")
    assert stream.close_record is not None


async def has_a_deadline(stream: WebsocketStream) -> None:
    stream.set_deadline(AGE - 0.01, 4003)
    with pytest.raises(ConnectionClosed):
        await stream.receive()


@pytest.mark.parametrize("accepting", [False, True])
@pytest.mark.parametrize(
    ("converse", "initiator", "code", "cause", "error"),
    [
        (client_leaves, "client", 4001, "", ""),
        (returns, "server", 1000, "its handler has ended", ""),
        (raises, "server", 1011, "its handler failed", "in the route"),
        (raises_a_group, "server", 1011, "its handler failed", "in the route"),
        (closes, "server", 4000, "", ""),
        (has_a_deadline, "server", 4003, "its deadline has passed", ""),
    ],
)
async def test_close_record_of_a_route(
    converse: Callable[[WebsocketStream], Awaitable[None]],
    initiator: str,
    code: int,
    cause: str,
    error: str,
    accepting: bool,
    autojump_clock: trio.testing.MockClock,
    log: Log,
) -> None:
    """A stream of a coroutine or a route has the same record, as an attribute and in the log."""
    streams: list[WebsocketStream] = []

    async def own(stream: WebsocketStream, state: None) -> None:
        assert stream.close_record is None
        streams.append(stream)
        await converse(stream)

    async def accept(upgrade: Upgrade, state: None) -> None:
        await own(await upgrade.accept(), state)

    route: Any = accept if accepting else websocket_handler(own)
    async with served_in_memory(App().with_websocket_route("/", route)) as connect:
        client = CountingClient(connect())
        await client.open()
        if initiator == "client":
            await client.tell("one")
            await client.tell("two")
            await trio.sleep(AGE)
            await client.send_frame(close_frame(4001))
            await client.rest()
        else:
            await client.answer_and_close()
        await trio.sleep(1)
    record = log.record
    assert streams[0].close_record == record
    assert (record.initiator, record.code, record.cause) == (initiator, code, cause)
    assert error in repr(record.exception) if error else record.exception is None
    assert record.age == pytest.approx(AGE, abs=SWEEP)
    assert (record.messages_received, record.bytes_received) == (client.messages, client.sent)
    assert (record.messages_sent, record.bytes_sent) == (0, client.received)


async def test_close_record_of_a_stream_that_is_not_taken(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """A stream that was never received from its channel has a record in the log."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook, take_timeout=AGE))
    async with served_in_memory(app) as connect:
        client = CountingClient(connect())
        await client.open()
        await client.tell("hello?")
        assert await client.close_code() == 1013
        await client.rest()
    assert (log.record.initiator, log.record.code) == ("server", 1013)
    assert log.record.reason == "no application took this connection"
    assert log.record.age == pytest.approx(AGE, abs=SWEEP)
    assert log.record.messages_received == 0  # the message was not read
    assert streams.receive_nowait().close_record == log.record


async def test_close_record_of_a_stream_in_the_hook(
    autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """A stream that waits in the hook when its app is cancelled ends with the cause of that."""
    app = AsyncWebsocketApp.new_unlinked(max_connections=1)
    async with staged(app) as stage:
        await open_websocket(stage.connect())
        client = await CountingClient(stage.connect()).open()
        await trio.testing.wait_all_tasks_blocked()
        assert app.statistics().waiting_in_hook == 1
        stage.websocket.cancel()
        assert await client.close_code() == 1001
        stage.http.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert [(record.code, record.cause) for record in log.records] == 2 * [(1001, "the application has ended")]


# ---------------------------------------------------------------------------------------------- the log


async def test_close_record_log_line(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """Each connection has one line at INFO: its id, its peer and the record, which is also the extra."""
    scene = new_scene()
    async with staged(scene.app) as scene.stage:
        ids: list[int] = []
        for _ in range(3):
            await greet(scene, scene.stage.connect())
            assert scene.stream is not None
            ids.append(scene.stream.id)
            await client_closes(scene)
            await trio.sleep(1)
    assert len(log.lines) == 3
    assert settled(scene.records) == settled(log.records)
    for number, line, record in zip(ids, log.lines, log.records, strict=True):
        assert line.name == "humphrey_trio.websocket"
        assert line.getMessage() == f"stream {number} with memory:0 {record}"


async def refuse_by_response(upgrade: Upgrade, state: None) -> Response:
    return Response(403)


async def refuse_by_error(upgrade: Upgrade, state: None) -> Response:
    raise HandshakeError("no", 401)


async def refuse_by_failing(upgrade: Upgrade, state: None) -> Response:
    raise ValueError("before anything was accepted")


async def own(stream: WebsocketStream, state: None) -> None:
    raise AssertionError("it is never called")


async def deny(request: Request, state: None) -> Response:
    return Response(429)


def full_hook() -> Any:
    hook, _ = trio.open_memory_channel[WebsocketStream](0)
    return async_websocket_handler(hook)


def closed_hook() -> Any:
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    streams.close()
    return async_websocket_handler(hook)


@pytest.mark.parametrize(
    ("route", "status"),
    [
        (refuse_by_response, 403),
        (refuse_by_error, 401),
        (refuse_by_failing, 500),
        (websocket_handler(own, accept=deny), 429),
        (websocket_handler(own, origins={"https://example.com"}), 403),
        (full_hook, 503),
        (closed_hook, 503),
    ],
)
async def test_refused_upgrade_has_no_close_record(
    route: Any, status: int, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
    """A refused upgrade has no line in the log, because it was no WebSocket."""
    if route in (full_hook, closed_hook):
        route = route()
    async with served_in_memory(App().with_websocket_route("/", route)) as connect:
        with pytest.raises(HandshakeError) as refused:
            await open_websocket(
                connect(), headers={"Origin": "https://elsewhere.example"} if status == 403 else {}
            )
        assert refused.value.status == status
        await trio.sleep(2)
    assert [line for line in log.lines if hasattr(line, "close_record")] == []


async def test_stream_closed_before_the_101_has_no_log_line(autojump_clock: trio.testing.MockClock, log: Log) -> None:
    """A stream that was closed before its 101 has a record, but no line in the log."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    async with served_in_memory(App().with_websocket_route("/", async_websocket_handler(hook))) as connect:
        client = CountingClient(connect())
        await client.send(request_bytes("GET / HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        stream = streams.receive_nowait()
        connection_of(stream).close(4000, "")
        assert (await client.reply()).status == 503
        record = stream.close_record
        assert record is not None
        assert (record.code, record.bytes_sent, record.bytes_received) == (4000, 0, 0)
    assert log.lines == []


async def test_close_record_is_made_only_for_the_log(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where INFO is not logged, no record is made for the log."""
    caplog.set_level(logging.WARNING, "humphrey_trio.websocket")
    made: list[dict[str, Any]] = []

    def make(**fields: Any) -> CloseRecord:
        made.append(fields)
        return CloseRecord(**fields)

    monkeypatch.setattr(_reports, "CloseRecord", make)
    async with linked(AsyncWebsocketApp.new_unlinked()) as app:
        async with websocket_client(app):
            pass
        await trio.testing.wait_all_tasks_blocked()
    assert made == []
    assert caplog.records == []


def test_close_record_as_text() -> None:
    """As text, a record is one line, without the reason or the cause if there is none."""
    record = CloseRecord(
        initiator="server",
        code=1011,
        reason="sorry",
        cause="its handler failed",
        exception=ValueError("secret"),
        age=12.3456,
        messages_received=1,
        bytes_received=2,
        messages_sent=3,
        bytes_sent=4,
        dropped=5,
        unhandled=6,
        queued_messages=7,
        queued_bytes=8,
        clean=None,
    )
    assert str(record) == (
        "closed by the server with 1011 'sorry' after 12.346 s (its handler failed);"
        " received 1 messages, 2 bytes; sent 3 messages, 4 bytes;"
        " dropped 5, unhandled 6, queued at close 7 messages, 8 bytes"
    )
    short = str(replace(record, initiator="client", code=1000, reason="", cause=""))
    assert short.startswith("closed by the client with 1000 after 12.346 s; received")
    # The client chooses the reason. It must not be able to forge another line with it.
    assert "\n" not in str(replace(record, reason="x\nstream 7"))
