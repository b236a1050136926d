"""An app whose clients have names and subscribe to topics."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from humphrey_trio import AsyncStream, AsyncWebsocketApp, Message
from humphrey_trio.testing import WebsocketClient, open_websocket
from tests.support.apps import linked, served_in_memory

#: The text up to which ``TopicApp.received_by`` reads.
END = "that was all"


class TopicApp:
    """An app whose streams are known by a name, the query of their handshake.

    Attributes:
        app: the app, whose message handler is set by some tests.
        streams: all streams that have connected, by name.
        last_topics: the topics of each stream when its disconnect handler ran.
    """

    def __init__(self, **options: Any) -> None:
        self.streams: dict[str, AsyncStream[None]] = {}
        self.last_topics: dict[str, frozenset[Hashable]] = {}
        self.app: AsyncWebsocketApp = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self._connect)
            .with_disconnect_handler(self._disconnect)
        )
        self._connect_to: Callable[[], trio.abc.Stream] | None = None

    async def _connect(self, stream: AsyncStream[None], state: None) -> None:
        self.streams[stream.request.query] = stream

    async def _disconnect(self, stream: AsyncStream[None], state: None) -> None:
        self.last_topics[stream.request.query] = stream.topics

    @asynccontextmanager
    async def served(
        self, stream_pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair
    ) -> AsyncGenerator[TopicApp]:
        """Serve the app in memory until the end of the block."""
        async with linked(self.app) as app, served_in_memory(app, stream_pair) as self._connect_to:
            yield self

    async def join(self, name: object, *topics: Hashable) -> WebsocketClient:
        """Connect a client and subscribe it."""
        assert self._connect_to is not None
        client = await open_websocket(self._connect_to(), f"/?{name}")
        await trio.testing.wait_all_tasks_blocked()
        for topic in topics:
            self.streams[str(name)].subscribe(topic)
        return client

    async def received_by(self, *clients: WebsocketClient) -> list[list[str | None]]:
        """The messages of each client that it has not received yet."""
        await self.app.sender().broadcast(END)
        return [[message.text async for message in _up_to_end(client)] for client in clients]

    @property
    def subscribers(self) -> dict[Hashable, int]:
        """The number of subscribers of each topic."""
        return dict(self.app.statistics().subscribers)


async def _up_to_end(client: WebsocketClient) -> AsyncGenerator[Message]:
    while (message := await client.receive()).text != END:
        yield message
