"""Handlers that record the events of their streams in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message
from humphrey_trio.testing import WebsocketClient

GENERAL_CLOSE = 4001


class EventRecorder:
    """Handlers that record what happens to the streams, in order."""

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
    """Echo a message."""
    await stream.send(message)


async def echo_once(client: WebsocketClient, text: str) -> None:
    """Send a text and receive its echo."""
    await client.send(text)
    assert (await client.receive()).text == text
