"""Message handlers that do some work and record when they begin and how they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message
from humphrey_trio.testing import WebsocketClient
from humphrey_trio.websocket import CloseRecord
from tests.support.clients import half_close

Work = Callable[[AsyncStream[Any], str], Coroutine[Any, Any, object]]


class HandlerRecorder:
    """Handlers that do some work, and record when they begin and how they end."""

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
        self.most = 0  # the most handlers of one stream that ran at once
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
    """Sleep for five seconds."""
    await trio.sleep(5)


async def fail_late(stream: AsyncStream[Any], text: str) -> None:
    """Raise a ValueError after a second."""
    await trio.sleep(1)
    raise ValueError(text)


async def send_close(client: WebsocketClient) -> None:
    """Close with 4000."""
    await client.close(4000)


async def send_eof(client: WebsocketClient) -> None:
    """Send an end of file without a Close frame."""
    await half_close(client.stream)


async def send_numbers(client: WebsocketClient, count: int) -> list[str]:
    """Send so many messages. Returns their texts."""
    texts = [f"{number}" for number in range(count)]
    for text in texts:
        await client.send(text)
    return texts
