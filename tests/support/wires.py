"""Connections in memory whose clients need no task, and servers for many of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from humphrey_trio import App
from humphrey_trio.testing import DirectStream
from tests.support import ANY_PORT
from tests.support.apps import linked
from tests.support.topics import TopicApp
from tests.support.wire import TEXT, close_frame, request_bytes, split_frames


class Wire(DirectStream):
    """A connection whose client has no task. Tests feed it bytes, and it keeps what the server sends.

    Args:
        taken_now: how many bytes it accepts at once: None for all, like a socket whose client reads; 0 for
            none, like TLS; with another number the writer sends the rest of longer frames.
    """

    def __init__(self, taken_now: int | None = None) -> None:
        self._taken_now = taken_now
        self._has_room = False  # set when the server has waited for it
        self._received = bytearray()
        self._read = 0
        self._fed = bytearray()
        self._readers = trio.lowlevel.ParkingLot()
        self._notices = 0
        self._ended = self._gone = self._cut = False
        self.closed = False

    # The side of the client.

    def feed(self, *data: bytes) -> None:
        """Send bytes to the server."""
        self._fed += b"".join(data)
        self._readers.unpark_all()

    def close_with(self, *frames: bytes) -> None:
        """Send frames and a Close frame, then an end of file."""
        self.feed(*frames, close_frame(1000))
        self._end()

    def end(self) -> None:
        """Send an end of file without a Close frame, and continue to read."""
        self._cut = True
        self._end()

    def reset(self) -> None:
        """Neither send nor read any more."""
        self._gone = self._cut = True
        self._end()

    def frames(self) -> list[tuple[int, bytes]]:
        """The frames after the response to the handshake."""
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") or self._cut
        frames, rest = split_frames(rest)
        assert not rest or self._cut
        return frames

    def texts(self) -> list[str]:
        """The text messages."""
        return [payload.decode() for opcode, payload in self.frames() if opcode == TEXT]

    def new_texts(self) -> list[str]:
        """The text messages since the last call."""
        texts = self.texts()
        new, self._read = texts[self._read :], len(texts)
        return new

    def _end(self) -> None:
        self._ended = True
        self._readers.unpark_all()

    # The side of the server.

    def send_nowait(self, data: bytes | memoryview) -> int:
        self._check()
        if self._has_room:
            self._has_room = False
            taken = data[: max(self._taken_now or len(data), 50)]
        else:
            taken = data[: self._taken_now]
        self._received += taken
        return len(taken)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._has_room = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError("the server does not use it")

    def receive_nowait(self, max_bytes: int) -> bytes:
        self._check()
        if not self._fed:
            if not self._ended:
                raise trio.WouldBlock
            return b""
        data = bytes(self._fed[:max_bytes])
        del self._fed[:max_bytes]
        return data

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        notices = self._notices
        while not (self._fed or self._ended or self.closed) and self._notices == notices:
            await self._readers.park()
        if self.closed or self._notices != notices:
            raise trio.ClosedResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError("the server does not use it")

    def send_eof_nowait(self) -> None:
        self._check()

    async def send_eof(self) -> None:
        self._check()

    def notify_closing(self) -> None:
        self._notices += 1
        self._readers.unpark_all()

    def close(self) -> None:
        self.closed = True
        self._readers.unpark_all()

    async def aclose(self) -> None:
        self.close()

    @property
    def hung_up(self) -> bool:
        return self._ended

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        if self._gone:
            raise trio.BrokenResourceError


@asynccontextmanager
async def on_wires(app: App[Any]) -> AsyncGenerator[Callable[[str, Wire], None]]:
    """Serve an app on wires. Yields a function that connects a wire under a name, the query of its stream."""
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)

        def connect(name: str, wire: Wire) -> None:
            nursery.start_soon(app.serve_stream, wire)
            wire.feed(request_bytes(f"GET /?{name} HTTP/1.1"))

        yield connect
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def topic_app_on_wires(
    count: int, make_wire: Callable[[], Wire] = Wire, **options: Any
) -> AsyncGenerator[tuple[TopicApp, dict[str, Wire]]]:
    """Serve a ``TopicApp`` to clients on wires, whose names are their numbers, in their order."""
    topic_app = TopicApp(**options)
    wires = {str(number): make_wire() for number in range(count)}
    async with linked(topic_app.app) as app, on_wires(app) as connect:
        for name, wire in wires.items():
            connect(name, wire)
        await trio.testing.wait_all_tasks_blocked()
        topic_app.streams = {name: topic_app.streams[name] for name in wires}
        yield topic_app, wires
