"""One connection of an attacker. It counts what is sent, and finds out how the server ended it.

It belongs to the process of the attackers, and sends bytes that were encoded in advance, so that it needs little
time of the core that it shares with the timed clients.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from benchmarks import wire
from benchmarks.load import READ

ECHO, SINK = "/ws", "/sink"  # the first path echoes every message, the second discards it
SWITCHED = b"HTTP/1.1 101 "
RESET = struct.pack("@ii", 1, 0)  # SO_LINGER: closing sends a RST
SMALL_BUFFER = 4096  # the receive buffer of attackers that do not read
DISCARD = 2**18  # bytes of one receive whose content does not matter
RETRY_SECONDS = 0.1  # after a connection that could not be opened


class Ended(Exception):
    """The connection has ended. The argument says how."""


class Connection:
    """One connection of an attacker, which counts what is sent.

    Attributes:
        slot: the number of the connection among those that are open at the same time.
        number: the number of earlier connections in this slot.
    """

    def __init__(self, port: int, slot: int, number: int, counts: Counter[str], reads: bool) -> None:
        self.slot = slot
        self.number = number
        self._port = port
        self._counts = counts
        self._socket = trio.socket.socket()
        self._stream: trio.SocketStream | None = None
        if not reads:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        self._received = bytearray()

    async def connect(self) -> None:
        try:
            await self._socket.connect(("127.0.0.1", self._port))
        except OSError as problem:
            await trio.sleep(RETRY_SECONDS)
            raise Ended(f"not connected: {problem.strerror}") from None
        self._stream = trio.SocketStream(self._socket)
        self._counts["connections"] += 1

    async def open(self, offer: bytes = b"", path: str = ECHO) -> None:
        """Connect, and open a WebSocket."""
        await self.connect()
        await self.send(wire.upgrade(path, offer).request)
        while b"\r\n\r\n" not in self._received:
            await self.read()
        if not self._received.startswith(SWITCHED):
            raise Ended(self._ending(""))

    async def send(self, data: bytes, **contents: int) -> None:
        """Send data.

        Args:
            data: the bytes.
            **contents: numbers that are added to the counts, such as ``pings=2000``.
        """
        assert self._stream is not None
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            with suppress(OSError):  # a Close frame of the server may still be in the buffer
                self._received += await self._socket.recv(READ)
            raise Ended(self._ending("reset")) from None
        self._counts["bytes"] += len(data)
        self._counts.update(contents)

    async def read_until_end(self) -> None:
        """Read until the connection ends."""
        while True:
            await self.read()

    async def discard_until_end(self) -> None:
        """Read until the connection ends, as fast as possible. Replies are not kept."""
        buffer = memoryview(bytearray(DISCARD))
        while True:
            with self._breaking():
                size = await self._socket.recv_into(buffer)
            if not size:
                raise Ended("end of file")

    def reset(self) -> None:
        """End the connection with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise Ended("RST by the attacker")

    def close(self) -> None:
        self._socket.close()

    async def read(self, size: int = READ) -> None:
        """Wait for data, and read up to `size` bytes."""
        with self._breaking():
            data = await self._socket.recv(size)
        if not data:
            raise Ended(self._ending("end of file"))
        self._received += data

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Around a receive: a reset ends the connection."""
        try:
            yield
        except OSError:
            raise Ended(self._ending("reset")) from None

    def _ending(self, otherwise: str) -> str:
        """Return the HTTP status or the close code that the server has sent, or `otherwise` if it sent neither."""
        head, _, frames = self._received.partition(b"\r\n\r\n")
        if head and not head.startswith(SWITCHED):
            return head.split(b" ", 2)[1].decode()
        at = 0
        while at < len(frames):
            start, size = wire.frame_bounds(frames, at)
            if frames[at] & 0xF == wire.CLOSE:
                return str(int.from_bytes(frames[start : start + 2], "big"))
            at = start + size
        return otherwise
