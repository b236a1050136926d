"""Clients that send and receive streamed bodies, and the streams that they are tested over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from humphrey_trio import App, Response
from humphrey_trio.http import Headers, Request, Write
from humphrey_trio.testing import memory_connection

from . import PATIENCE
from .apps import StreamPair, served_in_memory

#: Runs a test over a ``DirectStream``, as over a socket, and over a trio stream that only sends by waiting.
each_stream = pytest.mark.parametrize(
    "pair", [memory_connection, trio.testing.memory_stream_pair], ids=["direct", "foreign"]
)


class Head(NamedTuple):
    """The head of a response."""

    status: int
    headers: Headers


class Incomplete(Exception):
    """The connection has ended before the end of a message."""


class StreamClient:
    """A client that sends any bytes, and receives responses piece by piece."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, path: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> None:
        """Send a request without a body."""
        await self.send("\r\n".join([f"{method} {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode())

    async def post(self, path: str, content: bytes, *lines: str) -> None:
        """Send a request with a body."""
        fields = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(content)}", *lines, "", ""]
        await self.send("\r\n".join(fields).encode() + content)

    async def head(self) -> Head:
        """Receive the head of a response."""
        raw = await self._until(b"\r\n\r\n")
        status, *lines = raw.decode("latin-1").split("\r\n")
        return Head(int(status.split(" ")[1]), Headers([(n, v) for n, _, v in (x.partition(": ") for x in lines)]))

    async def chunk(self) -> bytes:
        """Receive a chunk; empty for the last one."""
        data = await self.exactly(int(await self._until(b"\r\n"), 16))
        assert await self.exactly(2) == b"\r\n"
        return data

    async def chunks(self) -> list[bytes]:
        """Receive all chunks."""
        chunks: list[bytes] = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks

    async def body(self, head: Head) -> bytes:
        """Receive the body of a response, as its head says."""
        if head.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(await self.chunks())
        size = head.headers.get("Content-Length")
        return await self.rest() if size is None else await self.exactly(int(size))

    async def reply(self) -> tuple[int, bytes]:
        """Receive a response: its status and its body."""
        head = await self.head()
        return head.status, await self.body(head)

    async def exactly(self, size: int) -> bytes:
        """Receive so many bytes."""
        while len(self._buffer) < size:
            await self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def rest(self) -> bytes:
        """Receive all bytes up to an end of file. ``trio.BrokenResourceError`` if there is a reset instead."""
        while data := await self.stream.receive_some():
            self._buffer += data
        rest, self._buffer = self._buffer, b""
        return rest

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise Incomplete(self._buffer)
        self._buffer += data


@asynccontextmanager
async def streaming(app: App[Any], pair: StreamPair) -> AsyncGenerator[Callable[[], StreamClient]]:
    """Serve an app without sockets. Yields a function that connects a client."""
    with trio.fail_after(PATIENCE):
        async with served_in_memory(app, pair) as connect:
            yield lambda: StreamClient(connect())


async def hello(write: Write) -> None:
    """A producer of two pieces."""
    await write(b"hello ")
    await write("wörld")


def app_of(produce: Any, *, length: int | None = None, **settings: Any) -> App:
    """An app that streams a body at ``/``, and says fine at ``/fine``."""

    async def handler(_: Request) -> Response:
        return Response.stream(produce, length=length)

    app = App(**settings).with_stateless_route("/", handler)
    return app.with_stateless_route("/fine", lambda _: Response(200, "fine"))


async def is_alive(client: StreamClient) -> bool:
    """Whether the connection serves another request."""
    await client.get("/fine")
    return await client.reply() == (200, b"fine")
