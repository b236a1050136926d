"""Close records in the log."""

from __future__ import annotations

import json
import logging
from dataclasses import fields, replace
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Message,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._websocket._stream import _reports
from humphrey_trio._websocket._stream._stream import connection_of
from humphrey_trio.testing import open_websocket, websocket_client
from humphrey_trio.websocket import CloseRecord, HandshakeError, Upgrade
from tests.support.apps import linked, served_in_memory, staged
from tests.support.close_records import CountingClient, Log, client_closes, greet, new_scene, settled
from tests.support.wire import request_bytes


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


async def test_stream_closed_before_the_101_has_no_log_line(
    autojump_clock: trio.testing.MockClock, log: Log
) -> None:
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
