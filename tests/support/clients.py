"""Clients on any stream."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import NamedTuple

import trio

from humphrey_trio.http import Headers
from humphrey_trio.testing import WebsocketClient

from .wire import CLOSE, request_bytes, split_frames


async def read_away(client: WebsocketClient) -> None:
    """Read and discard all messages, until the WebSocket is closed."""
    async for _ in client:
        pass


async def half_close(stream: trio.abc.Stream) -> None:
    """Send an end of file. The stream can still receive."""
    assert isinstance(stream, trio.abc.HalfCloseableStream | trio.StapledStream)
    await stream.send_eof()


class ReceivingClient:
    """A client that sends some bytes, and receives everything until the connection ends.

    Attributes:
        received: what the client has received.
        reset: whether the connection has ended without an end of file.
    """

    def __init__(self) -> None:
        self.received = b""
        self.reset = False

    async def talk(self, stream: trio.abc.Stream, data: list[bytes]) -> None:
        """Send the pieces, and receive at the same time."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream, data)
            try:
                while piece := await stream.receive_some():
                    self.received += piece
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.reset = True
            nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.abc.Stream, data: list[bytes]) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for piece in data:
                await stream.send_all(piece)


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    headers: Headers
    content: bytes


class RawClient:
    """A client that sends any bytes, and returns HTTP responses and frames.

    It answers no frame. It closes its stream when the server has sent an end of file.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = b""
        self._frames: deque[tuple[int, bytes]] = deque()

    async def send(self, data: bytes) -> None:
        """Send bytes without framing."""
        await self.stream.send_all(data)

    async def open(self, path: str = "/") -> RawClient:
        """Execute the opening handshake, which must succeed."""
        await self.send(request_bytes(f"GET {path} HTTP/1.1"))
        assert (await self.reply()).status == 101
        return self

    async def reply(self) -> Reply:
        """The next HTTP response; EOFError if the connection has ended."""
        while b"\r\n\r\n" not in self._received:
            await self._fill()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = Headers([(name, value) for name, _, value in (field.partition(": ") for field in lines)])
        content = await self.read(int(headers.get("Content-Length", "0")))
        return Reply(int(line.split(" ")[1]), headers, content)

    async def read(self, size: int) -> bytes:
        """Receive exactly so many bytes; EOFError if the connection ends before."""
        while len(self._received) < size:
            await self._fill()
        data, self._received = self._received[:size], self._received[size:]
        return data

    async def frame(self) -> tuple[int, bytes]:
        """The next frame, as opcode and payload; EOFError if the connection has ended."""
        while not self._frames:
            frames, self._received = split_frames(self._received)
            self._frames.extend(frames)
            if not frames:
                await self._fill()
        return self._frames.popleft()

    async def close_code(self) -> int:
        """The code of the next frame, which is a Close."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE
        return int.from_bytes(payload[:2], "big")

    async def rest(self) -> list[tuple[int, bytes]]:
        """All frames up to the end of the connection."""
        frames: list[tuple[int, bytes]] = []
        with suppress(EOFError):
            while True:
                frames.append(await self.frame())
        return frames

    async def at_end(self) -> bool:
        """Whether the connection ends without another byte."""
        if self._frames or self._received or await self.stream.receive_some():
            return False
        await self.stream.aclose()
        return True

    async def _fill(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            await self.stream.aclose()
            raise EOFError(f"the connection has ended behind {self._received!r}")
        self._received += data
