"""Close records: the records in the log, and an app and a client that make them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Drain, Message, Timeouts, WebsocketStream
from humphrey_trio.websocket import CloseRecord
from tests.support.apps import Stage
from tests.support.clients import RawClient
from tests.support.wire import CLOSE, TEXT, client_frame, close_frame

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
    """The records without the values that may still change: the byte counts and ``clean``."""
    return [record and replace(record, bytes_received=0, bytes_sent=0, clean=None) for record in records]


class CountingClient(RawClient):
    """A raw client that counts what it sends and receives."""

    messages = sent = received = messages_back = 0

    async def send_text(self, text: str) -> None:
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
    """A client of an app, whose handlers follow its commands, and the record that its disconnect handler finds."""

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


async def client_closes(scene: Scene) -> None:
    """The client closes with 4001."""
    await scene.client.send_frame(close_frame(4001))
    assert await scene.client.rest() == [(CLOSE, (4001).to_bytes(2, "big"))]


def fail(stream: WebsocketStream) -> None:
    """A ``stream_state`` that raises for a stream with "state" in its query."""
    if "state" in stream.request.query:
        raise ValueError("in stream_state")


def new_scene(**options: Any) -> Scene:
    """A scene whose app has these options. The app does not run yet."""
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
            await scene.client.send_text(text)
            assert await scene.client.frame() == (TEXT, text.encode())
        await trio.sleep(AGE)
