"""An app whose message handlers wait, for tests of statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message, async_websocket_handler
from humphrey_trio.websocket import AppStatistics, StreamStatistics
from tests.support import PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient

HOOK_SIZE = 64


#: The statistics of an app and of a stream that have done nothing.
NOTHING = AppStatistics(
    connections=0,
    waiting_in_hook=0,
    waiting_for_hook=0,
    handlers_running=0,
    tasks_running=0,
    queued_messages=0,
    queued_bytes=0,
    read_ahead=0,
    subscribers={},
    dropped=0,
    unhandled=0,
    slow_closes=0,
    send_waits=0,
    read_pauses=0,
)


NEW = StreamStatistics(
    messages_received=0,
    bytes_received=0,
    messages_sent=0,
    bytes_sent=0,
    queued_messages=0,
    queued_bytes=0,
    read_ahead=0,
    dropped=0,
    unhandled=0,
    slow_closes=0,
    send_waits=0,
    read_pauses=0,
)

MEMORY, LOCKSTEP = trio.testing.memory_stream_pair, trio.testing.lockstep_stream_pair

#: More seconds than it takes until messages of a busy stream are read ahead.
A_WHILE = 1.0


class HeldApp:
    """An app whose message handlers run until ``go`` is set.

    Attributes:
        app: the app. Some tests replace its other handlers.
        streams: all streams that have connected, in order.
        handled: the number of messages that were handled.
        go: the event that the message handlers wait for. Handlers of "fail" raise then.
        scope: the cancel scope of the app.
    """

    def __init__(self, **options: Any) -> None:
        self.streams: list[AsyncStream[None]] = []
        self.handled = 0
        self.go = trio.Event()
        self.app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self._connect)
            .with_message_handler(self.hold)
        )
        self.scope = trio.CancelScope()
        self.connect_to: Callable[[], trio.abc.Stream] | None = None

    async def _connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams.append(stream)

    async def hold(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await self.go.wait()
        self.handled += 1
        if message.text == "fail":
            raise RuntimeError("on purpose")

    @asynccontextmanager
    async def open(
        self, pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = MEMORY
    ) -> AsyncGenerator[HeldApp]:
        """Serve the app in memory until the end of the block."""
        app = App().with_websocket_route("/", async_websocket_handler(self.app.connect_hook()))
        with trio.fail_after(PATIENCE):
            async with served_in_memory(app, pair) as self.connect_to, trio.open_nursery() as nursery:
                nursery.start_soon(self._run)
                yield self
                self.scope.cancel()

    async def _run(self) -> None:
        with self.scope:
            await self.app.run()

    async def join(self) -> RawClient:
        """Connect a client that answers no frame."""
        assert self.connect_to is not None
        client = await RawClient(self.connect_to()).open()
        await trio.testing.wait_all_tasks_blocked()
        return client

    def check(self, **counts: Any) -> None:
        """Check the app's statistics: these counts, and zero for all others."""
        assert self.app.statistics() == dataclasses.replace(NOTHING, **counts)
