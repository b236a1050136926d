"""The attackers: what each of them does to the server, and how its connections end.

An attacker is a coroutine that gets one connection. When the connection has ended, the coroutine is called again
with the next one. Attackers are trio tasks in another process. They send bytes that were encoded in advance, so
that they need little time of the core that they share with the timed clients.
"""

from __future__ import annotations

import gc
import itertools
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import trio

from benchmarks import wire
from benchmarks.load import POLL_SECONDS, READ

MIB = 2**20
COMPRESSED = 0x40  # the bit RSV1 of the first byte of a frame (RFC 7692, section 6)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
ECHO, SINK = "/ws", "/sink"  # the first path echoes every message, the second discards it
SWITCHED = b"HTTP/1.1 101 "
RESET = struct.pack("@ii", 1, 0)  # SO_LINGER: closing sends a RST
SMALL_BUFFER = 4096  # the receive buffer of attackers that do not read
BATCH = 2000  # small frames in one send
FIRST_FRAGMENT = wire.client_frame(wire.TEXT, b"", last=False)
FRAGMENTS = wire.client_frame(wire.CONTINUATION, b"", last=False) * BATCH
LAST_FRAGMENT = wire.client_frame(wire.CONTINUATION, b"")
PINGS = wire.client_frame(wire.PING, wire.some_bytes(125)) * BATCH
MESSAGES = wire.echo(32).request * BATCH
LONG = wire.echo(2**16, binary=True).request
RANDOM = wire.client_frame(wire.BINARY, random.Random(0).randbytes(MIB))
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
        """Read and discard until the connection ends."""
        while True:
            await self.read()

    def reset(self) -> None:
        """End the connection with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise Ended("RST by the attacker")

    def close(self) -> None:
        self._socket.close()

    async def read(self) -> None:
        """Wait for data and read it."""
        assert self._stream is not None
        try:
            data = await self._stream.receive_some(READ)
        except trio.BrokenResourceError:
            raise Ended(self._ending("reset")) from None
        if not data:
            raise Ended(self._ending("end of file"))
        self._received += data

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


# The docstring of an attacker is its description in `--list`.


@cache
def zeros(size: int, times: int = 1) -> bytes:
    """Return a compressed message that inflates to `times * size` zero bytes.

    A full flush after each part makes the compressed parts equal, so one of them is repeated.
    """
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    compressed = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return wire.client_frame(wire.BINARY | COMPRESSED, compressed * times)


async def bomb(connection: Connection) -> None:
    """Compressed messages that inflate to 200 MiB and to 1 GiB, alternating."""
    await connection.open(DEFLATE)
    await connection.send(zeros(MIB, 1024 if connection.number % 2 else 200), bombs=1)
    await connection.read_until_end()


async def fragments(connection: Connection) -> None:
    """200,000 empty fragments of one message."""
    await connection.open()
    await connection.send(FIRST_FRAGMENT)
    for _ in range(200_000 // BATCH):
        await connection.send(FRAGMENTS, fragments=BATCH)
    await connection.read_until_end()


async def pings(connection: Connection) -> None:
    """Pings without a pause. The pongs are not read."""
    await connection.open()
    while True:
        await connection.send(PINGS, pings=BATCH)


async def echoes(connection: Connection) -> None:
    """Messages of 32 bytes without a pause. The echoes are not read."""
    await connection.open()
    while True:
        await connection.send(MESSAGES, messages=BATCH)


async def half_open(connection: Connection) -> None:
    """200 clients that open a WebSocket, and then send nothing, not even pongs."""
    await connection.open()
    await connection.read_until_end()


async def resets(connection: Connection) -> None:
    """Half of a message of 64 KiB, and then a RST."""
    await connection.open()
    await connection.send(LONG[: len(LONG) // 2], messages=1)
    connection.reset()


async def trickle(connection: Connection) -> None:
    """200 clients that send one byte per second: half of them a request head, the other half a frame."""
    if connection.slot % 2:
        await connection.connect()
        await send_slowly(connection, wire.upgrade(ECHO).request)
    else:
        await connection.open()
        await send_slowly(connection, LONG)


async def send_slowly(connection: Connection, data: bytes) -> None:
    for at in range(len(data)):
        await connection.send(data[at : at + 1], single_bytes=1)
        with trio.move_on_after(1.0):
            await connection.read_until_end()


async def allowed_fragments(connection: Connection) -> None:
    """Messages of 4,001 empty fragments each, which is within the limit. The echoes are not read."""
    await connection.open()
    while True:
        await connection.send(FIRST_FRAGMENT + FRAGMENTS + FRAGMENTS + LAST_FRAGMENT, messages=1)


async def allowed_inflation(connection: Connection) -> None:
    """Compressed messages of 1 kB that inflate to 1 MB, which is within the limit, to an app without a handler."""
    await connection.open(DEFLATE, SINK)
    while True:
        await connection.send(zeros(10**6) * 50, messages=50)


async def incompressible(connection: Connection) -> None:
    """Messages of 1 MiB of random bytes, to an app that echoes them compressed. Then a RST."""
    await connection.open(DEFLATE)
    await connection.send(RANDOM, messages=1)
    await connection.read()
    connection.reset()


async def busy_core(connection: Connection) -> None:
    """For comparison: uses all time of the shared core, and does not connect to the server."""
    while True:
        sum(range(10_000))
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Attacker:
    """A coroutine that attacks, and how to run it.

    Attributes:
        attack: what it does with one connection.
        connections: how many connections are open at the same time.
        reads: False for a small receive buffer.
        least_seconds: the shortest measurement in which the server cuts it off.
    """

    attack: Callable[[Connection], Awaitable[None]]
    connections: int = 1
    reads: bool = True
    least_seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.attack.__name__.replace("_", "-")

    @property
    def about(self) -> str:
        return self.attack.__doc__ or ""


ATTACKERS = (
    Attacker(bomb),
    Attacker(fragments),
    Attacker(pings, reads=False, least_seconds=4.0),
    Attacker(half_open, connections=200, least_seconds=4.0),
    Attacker(resets, connections=4),
    Attacker(trickle, connections=200, least_seconds=4.0),
    Attacker(echoes, reads=False, least_seconds=4.0),
    Attacker(allowed_fragments, reads=False),
    Attacker(allowed_inflation),
    Attacker(incompressible),
    Attacker(busy_core),
)
BY_NAME = {attacker.name: attacker for attacker in ATTACKERS}


class Attack:
    """Runs an attacker against a server.

    Attributes:
        counts: what was sent, by kind.
        endings: the number of connections by the way in which they ended.
    """

    def __init__(self, attacker: Attacker, port: int) -> None:
        self._attacker = attacker
        self._port = port
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Attack until `stopped` returns True."""
        gc.enable()  # the parent process has disabled it
        trio.run(self._run, stopped)

    async def _run(self, stopped: Callable[[], bool]) -> None:
        async with trio.open_nursery() as nursery:
            for slot in range(self._attacker.connections):
                nursery.start_soon(self._attack_repeatedly, slot)
            while not stopped():  # noqa: ASYNC110  (a signal handler sets it)
                await trio.sleep(POLL_SECONDS)
            nursery.cancel_scope.cancel()

    async def _attack_repeatedly(self, slot: int) -> None:
        for number in itertools.count():
            connection = Connection(self._port, slot, number, self.counts, self._attacker.reads)
            ending = "open"  # if the attack is stopped first
            try:
                await self._attacker.attack(connection)
            except Ended as end:
                ending = str(end)
            finally:
                self.endings[ending] += 1
                connection.close()
