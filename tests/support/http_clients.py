"""Clients of HTTP/1.1, the bytes of their requests, and apps that are served to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from humphrey_trio.http import Address, App, Headers
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.links import Link
from tests.support.links import reset as reset_connection


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Headers
    content: bytes


class Closed(Exception):
    """The server has closed the connection instead of answering."""


class Client:
    """A client of HTTP/1.1 on any stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, *data: bytes) -> None:
        for piece in data:
            await self.stream.send_all(piece)

    async def receive(self, *, head_only: bool = False) -> Answer:
        """The next response. The bytes after it are kept."""
        raw, self._buffer = await self._until(b"\r\n\r\n")
        status_line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        headers = Headers([(name, value) for name, _, value in (line.partition(": ") for line in lines)])
        size = 0 if head_only else int(headers.get("Content-Length", "0"))
        while len(self._buffer) < size:
            self._buffer += await self._more()
        content, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(status_line.split()[1]), headers, content)

    async def ask(self, *data: bytes) -> Answer:
        await self.send(*data)
        return await self.receive()

    async def rest(self) -> bytes:
        """All bytes up to the end of file of the server."""
        while data := await self.stream.receive_some():
            self._buffer += data
        return self._buffer

    async def _until(self, mark: bytes) -> tuple[bytes, bytes]:
        while mark not in self._buffer:
            self._buffer += await self._more()
        found, _, rest = self._buffer.partition(mark)
        return found + mark, rest

    async def _more(self) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise Closed(f"behind {self._buffer!r}")
        return bytes(data)


def get(path: str = "/", *lines: str, version: str = "1.1") -> bytes:
    """A GET request."""
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


def post(path: str, *lines: str, content: bytes = b"", version: str = "1.1") -> bytes:
    """A POST request. The fields that frame its content are among the lines."""
    return "\r\n".join([f"POST {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode() + content


def sized(path: str, content: bytes) -> bytes:
    """A POST request with a Content-Length."""
    return post(path, f"Content-Length: {len(content)}", content=content)


def chunks(*pieces: bytes) -> bytes:
    """Chunks of a chunked body, without the last chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


Connect = Callable[[], Client]


@asynccontextmanager
async def in_memory(app: App[Any], *, patience: float = PATIENCE, **options: Any) -> AsyncGenerator[Connect]:
    """Serve an app without sockets. Yields a function that connects a client."""
    with trio.fail_after(patience):
        async with served_in_memory(app, **options) as connect:
            yield lambda: Client(connect())


@asynccontextmanager
async def serving(app: App[Any], *addresses: str) -> AsyncGenerator[tuple[Address, ...]]:
    """Run an app on sockets until the end of the block. Yields its addresses."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(app.run, *(addresses or (ANY_PORT,)))
            nursery.cancel_scope.cancel()


async def dial(address: Address) -> Client:
    """Connect a client."""
    return Client(await Link.PLAIN.connect(address))


async def is_served(address: Address) -> bool:
    """Whether a new client receives the response of ``small_app``."""
    client = await dial(address)
    async with client.stream:
        return (await client.ask(get())).content == b"fine"


async def reset(client: Client) -> None:
    """Reset the connection."""
    reset_connection(client.stream)
    await trio.lowlevel.checkpoint()


EXPECT = "Expect: 100-continue"
