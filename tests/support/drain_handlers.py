"""Handlers for apps that drain."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio
import trio.testing

from humphrey_trio import AsyncStream, ConnectionClosed, Message, Request, Response
from humphrey_trio.websocket import CloseRecord
from tests.support.draining import AnyWebsocketApp


class DisconnectRecorder:
    """A disconnect handler that records how each stream was closed."""

    def __init__(self) -> None:
        self.records: dict[int, CloseRecord | None] = {}

    async def __call__(self, stream: AsyncStream[Any], state: object) -> None:
        await trio.lowlevel.checkpoint()
        assert stream.id not in self.records
        self.records[stream.id] = stream.close_record

    @property
    def codes(self) -> list[int]:
        return [0 if record is None else record.code for record in self.records.values()]


def hello(_: Request) -> Response:
    """Answer a request at once."""
    return Response(200, "hello")


class Slow:
    """A handler that sleeps, answers, and records how it ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.began: list[str | None] = []
        self.ended = 0
        self.cancelled_at: list[float] = []

    async def __call__(self, stream: AsyncStream, message: Message | None, state: None = None) -> None:
        text = None if message is None else message.text
        self.began.append(text)
        try:
            await trio.sleep(self._seconds)
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        with suppress(ConnectionClosed):
            await stream.send(f"{text} is answered")
        self.ended += 1


def attach(websocket_app: AnyWebsocketApp, handler: Slow, messages: Sequence[str]) -> None:
    """Add a slow message handler, or a slow connect handler if there are no messages."""
    if messages:
        websocket_app.with_message_handler(handler)
    else:
        websocket_app.with_connect_handler(handler)


class Held:
    """A handler that answers after ``release`` is set."""

    def __init__(self) -> None:
        self.release = trio.Event()
        self.paths: list[str] = []

    async def __call__(self, request: Request) -> Response:
        self.paths.append(request.path)
        await self.release.wait()
        return Response(200, "held")
