"""An app with clients that do not read, for tests of the policies of broadcasts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, async_websocket_handler
from humphrey_trio.websocket import CloseRecord, Deflate, KeepLatest, WhenFull
from tests.support import PATIENCE
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.wire import CLOSE, TEXT

CLOSING, NEWEST, OLDEST = WhenFull.CLOSE, WhenFull.DROP_NEWEST, WhenFull.DROP_OLDEST

LATEST = KeepLatest("key")

Policy = WhenFull | KeepLatest

Connect = Callable[[], trio.abc.Stream]

TOPIC = "topic"


class PolicyApp:
    """An app, and the streams of its clients in the order in which they connected. All subscribe to one topic.

    Attributes:
        records: the close records of ended streams.
    """

    def __init__(self, **options: Any) -> None:
        self.streams: list[AsyncStream] = []
        self.records: list[CloseRecord | None] = []
        self.app = (
            AsyncWebsocketApp.new_unlinked(**options)
            .with_connect_handler(self._connected)
            .with_disconnect_handler(self._left)
        )
        self.sender = self.app.sender()

    async def _connected(self, stream: AsyncStream, state: None) -> None:
        stream.subscribe(TOPIC)
        self.streams.append(stream)

    async def _left(self, stream: AsyncStream, state: None) -> None:
        self.records.append(stream.close_record)

    @asynccontextmanager
    async def served(self, deflate: Deflate | None = None) -> AsyncGenerator[Connect]:
        """Serve clients whose messages stay in the outbox until they read. The end of the block closes them."""
        app = App().with_websocket_route("/", async_websocket_handler(self.app.connect_hook(), deflate=deflate))
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.app.run)
                async with served_in_memory(app, trio.testing.lockstep_stream_pair) as connect:
                    ends: list[trio.abc.Stream] = []

                    def connect_and_remember() -> trio.abc.Stream:
                        ends.append(connect())
                        return ends[-1]

                    yield connect_and_remember
                    # Otherwise the app would wait for the clients that do not read.
                    for end in ends:
                        await trio.aclose_forcefully(end)
                nursery.cancel_scope.cancel()

    async def connect(self, connect: Connect) -> tuple[RawClient, AsyncStream]:
        """A client that does not read, and its stream."""
        client = await RawClient(connect()).open()
        await trio.testing.wait_all_tasks_blocked()
        return client, self.streams[-1]


async def read_texts(client: RawClient, until: str) -> list[str]:
    """Read texts up to a last one."""
    texts: list[str] = []
    while texts[-1:] != [until]:
        opcode, payload = await client.frame()
        assert opcode == TEXT, (texts, payload)
        texts.append(payload.decode())
    return texts


async def read_to_close(client: RawClient) -> tuple[list[str], int]:
    """Read texts up to the Close frame. Returns the texts and the close code."""
    texts: list[str] = []
    while (frame := await client.frame())[0] == TEXT:
        texts.append(frame[1].decode())
    assert frame[0] == CLOSE
    return texts, int.from_bytes(frame[1][:2], "big")


def numbers(*some: int) -> list[str]:
    """Texts of one size."""
    return [f"{number:02}" for number in some]


#: The size in bytes of the frame of such a text.
SIZE = 4

EVERY = pytest.mark.parametrize(
    "policy", [CLOSING, NEWEST, OLDEST, LATEST], ids=["close", "newest", "oldest", "latest"]
)

DROPPING = pytest.mark.parametrize("policy", [NEWEST, OLDEST, LATEST], ids=["newest", "oldest", "latest"])
