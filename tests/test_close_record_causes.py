"""Close records: the initiator, code, reason and cause of every way in which a stream ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Heartbeat,
    Message,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.testing import websocket_client
from tests.support import ANY_PORT
from tests.support.apps import linked, staged
from tests.support.clients import half_close
from tests.support.close_records import (
    AGE,
    TIMEOUTS,
    CountingClient,
    Log,
    Scene,
    client_closes,
    greet,
    new_scene,
    settled,
)
from tests.support.links import Link, each_link, reset
from tests.support.times import SWEEP
from tests.support.wire import CLOSE, PING, TEXT, client_frame, close_frame

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


async def client_does_not_answer(scene: Scene) -> None:
    await scene.client.send_text("close")
    assert await scene.client.close_code() == 4000
    assert await scene.client.rest() == []


async def both_close(scene: Scene) -> None:
    await scene.client.send_text("close")
    await scene.client.send_frame(close_frame(4001, "from the client"))
    assert await scene.client.close_code() == 4000
    await scene.client.rest()


async def connect_handler_raises(scene: Scene) -> None:
    await scene.client.answer_and_close()


async def message_handler_raises(scene: Scene) -> None:
    await scene.client.send_text("raise")
    await scene.client.answer_and_close()


async def handler_closes(scene: Scene) -> None:
    await scene.client.send_text("close")
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


REFUSED = "the client violated the protocol or a limit"


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
    Way(app_drains, "server", 1012, "retry-after=2.5", "the server is shutting down", clean=True),
    Way(app_is_cancelled, "server", 1001, "", "the application was cancelled", clean=True),
    Way(http_app_is_cancelled, "server", 1001, "", "the server was cancelled"),
]


# --------------------------------------------------------------------------------- initiator, cause and age


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_close_record_of_every_way_to_end(
    way: Way, autojump_clock: trio.testing.MockClock, log: Log
) -> None:
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
async def test_close_record_of_a_reset_or_an_end_of_file(
    by_reset: bool, link: Link, nursery: trio.Nursery, log: Log
) -> None:
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
        await client.send_text("hello")
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
    assert log.record.cause == "the server was cancelled"
