"""The attackers: what each of them does to the server, and how its connections end.

An attacker is a coroutine that has one connection; whenever that has ended, it gets the next. Attackers are
trio tasks in a process of their own, and send bytes that were made before, so that they cost their core little.
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
from benchmarks.load import READ

MIB = 2**20
COMPRESSED = 0x40  # a bit beside the opcode
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
ECHO, SINK = "/ws", "/sink"  # what the server has: the one sends every message back, the other reads it away
SWITCHED = b"HTTP/1.1 101 "
RESET = struct.pack("@ii", 1, 0)  # SO_LINGER: closing sends a RST
LITTLE = 4096  # the receive buffer of those who do not read
MANY = 2000  # small frames that are sent at once
FIRST_FRAGMENT = wire.client_frame(wire.TEXT, b"", last=False)
FRAGMENTS = wire.client_frame(wire.CONTINUATION, b"", last=False) * MANY
LAST_FRAGMENT = wire.client_frame(wire.CONTINUATION, b"")
PINGS = wire.client_frame(wire.PING, wire.some_bytes(125)) * MANY
MESSAGES = wire.echo(32).request * MANY
LONG = wire.echo(2**16, binary=True).request
NOISE = wire.client_frame(wire.BINARY, random.Random(0).randbytes(MIB))
LOOK = 0.02  # seconds between two looks at whether it is enough
PAUSE = 0.1  # after a connection that could not be made


class Ended(Exception):
    """The connection has ended, in this way."""


class Line:
    """One connection of an attacker, which counts what it does.

    Attributes:
        place: which of those that the attacker has side by side.
        turn: how many had that place before.
    """

    def __init__(self, port: int, place: int, turn: int, did: Counter[str], reads: bool) -> None:
        self.place = place
        self.turn = turn
        self._port = port
        self._did = did
        self._socket = trio.socket.socket()
        self._stream: trio.SocketStream | None = None
        if not reads:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        self._received = bytearray()

    async def connect(self) -> None:
        try:
            await self._socket.connect(("127.0.0.1", self._port))
        except OSError as problem:
            await trio.sleep(PAUSE)
            raise Ended(f"not connected: {problem.strerror}") from None
        self._stream = trio.SocketStream(self._socket)
        self._did["connections"] += 1

    async def open(self, offer: bytes = b"", path: str = ECHO) -> None:
        """Connect, and open a WebSocket."""
        await self.connect()
        await self.send(wire.upgrade(path, offer).request)
        while b"\r\n\r\n" not in self._received:
            await self.read()
        if not self._received.startswith(SWITCHED):
            raise Ended(self._ending(""))

    async def send(self, data: bytes, **things: int) -> None:
        """Send all of it; count it, and the things of which it is made."""
        assert self._stream is not None
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            with suppress(OSError):  # the last words may still be there
                self._received += await self._socket.recv(READ)
            raise Ended(self._ending("reset")) from None
        self._did["bytes"] += len(data)
        self._did.update(things)

    async def read_on(self) -> None:
        """Read, and answer nothing, until the connection ends."""
        while True:
            await self.read()

    def reset(self) -> None:
        """End the connection with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise Ended("RST by the attacker")

    def close(self) -> None:
        self._socket.close()

    async def read(self) -> None:
        """Read what comes next."""
        assert self._stream is not None
        try:
            data = await self._stream.receive_some(READ)
        except trio.BrokenResourceError:
            raise Ended(self._ending("reset")) from None
        if not data:
            raise Ended(self._ending("end of file"))
        self._received += data

    def _ending(self, otherwise: str) -> str:
        """The status or the Close with which the server ends the connection, if there is one."""
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


# ------------------------------------------------------------------------------------------ the attackers


@cache
def zeros(size: int, times: int = 1) -> bytes:
    """A message of so many zeros, so many times: compressed apart from each other, they all look the same."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    compressed = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return wire.client_frame(wire.BINARY | COMPRESSED, compressed * times)


async def bomb(line: Line) -> None:
    """Compressed messages that inflate to 200 MiB and to 1 GiB, in turn."""
    await line.open(DEFLATE)
    await line.send(zeros(MIB, 1024 if line.turn % 2 else 200), bombs=1)
    await line.read_on()


async def fragments(line: Line) -> None:
    """200,000 empty fragments of one message."""
    await line.open()
    await line.send(FIRST_FRAGMENT)
    for _ in range(200_000 // MANY):
        await line.send(FRAGMENTS, fragments=MANY)
    await line.read_on()


async def pings(line: Line) -> None:
    """Pings without a pause, whose pongs are never read."""
    await line.open()
    while True:
        await line.send(PINGS, pings=MANY)


async def echoes(line: Line) -> None:
    """Messages of 32 bytes without a pause, whose echoes are never read."""
    await line.open()
    while True:
        await line.send(MESSAGES, messages=MANY)


async def half_open(line: Line) -> None:
    """200 clients that open a WebSocket and are not heard of again, nor answer a ping."""
    await line.open()
    await line.read_on()


async def resets(line: Line) -> None:
    """Half of a message of 64 KiB, then a RST."""
    await line.open()
    await line.send(LONG[: len(LONG) // 2], messages=1)
    line.reset()


async def drips(line: Line) -> None:
    """200 clients that send a byte a second: half of them of a request's head, half of a frame."""
    if line.place % 2:
        await line.connect()
        await drip(line, wire.upgrade(ECHO).request)
    else:
        await line.open()
        await drip(line, LONG)


async def drip(line: Line, data: bytes) -> None:
    for at in range(len(data)):
        await line.send(data[at : at + 1], drops=1)
        with trio.move_on_after(1.0):
            await line.read_on()


async def confetti(line: Line) -> None:
    """Messages in 4,001 empty fragments each, which is not too many; their echoes are never read."""
    await line.open()
    while True:
        await line.send(FIRST_FRAGMENT + FRAGMENTS + FRAGMENTS + LAST_FRAGMENT, messages=1)


async def swell(line: Line) -> None:
    """Compressed messages of 1 kB that inflate to 1 MB, which is not too much, for one who only reads."""
    await line.open(DEFLATE, SINK)
    while True:
        await line.send(zeros(10**6) * 50, messages=50)


async def noise(line: Line) -> None:
    """Messages of 1 MiB that do not compress, to one who echoes them compressed; then a RST."""
    await line.open(DEFLATE)
    await line.send(NOISE, messages=1)
    await line.read()
    line.reset()


async def bystander(line: Line) -> None:
    """For comparison: takes as much of its core as it gets, and leaves the server alone."""
    while True:
        sum(range(10_000))
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Attacker:
    """A coroutine that attacks.

    Attributes:
        attack: what it does with a connection.
        at_once: how many connections it has side by side.
        reads: whether it has a buffer for what the server says.
        least: seconds that pass until the server has had enough of it.
    """

    attack: Callable[[Line], Awaitable[None]]
    at_once: int = 1
    reads: bool = True
    least: float = 0.0

    @property
    def name(self) -> str:
        return self.attack.__name__.replace("_", "-")

    @property
    def about(self) -> str:
        return self.attack.__doc__ or ""


ATTACKERS = (
    Attacker(bomb),
    Attacker(fragments),
    Attacker(pings, reads=False, least=4.0),
    Attacker(half_open, at_once=200, least=4.0),
    Attacker(resets, at_once=4),
    Attacker(drips, at_once=200, least=4.0),
    Attacker(echoes, reads=False, least=4.0),
    Attacker(confetti, reads=False),
    Attacker(swell),
    Attacker(noise),
    Attacker(bystander),
)
BY_NAME = {attacker.name: attacker for attacker in ATTACKERS}


class Attack:
    """An attacker at work on a server.

    Attributes:
        did: how much of what it did.
        ended: how many of its connections ended how.
    """

    def __init__(self, attacker: Attacker, port: int) -> None:
        self._attacker = attacker
        self._port = port
        self.did: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def run(self, enough: Callable[[], bool]) -> None:
        """Attack until it is enough."""
        gc.enable()  # the process of which this one is a copy has no use for it
        trio.run(self._run, enough)

    async def _run(self, enough: Callable[[], bool]) -> None:
        async with trio.open_nursery() as nursery:
            for place in range(self._attacker.at_once):
                nursery.start_soon(self._attack_again_and_again, place)
            while not enough():  # noqa: ASYNC110  (a signal sets it)
                await trio.sleep(LOOK)
            nursery.cancel_scope.cancel()

    async def _attack_again_and_again(self, place: int) -> None:
        for turn in itertools.count():
            line = Line(self._port, place, turn, self.did, self._attacker.reads)
            ending = "open"  # when it was enough
            try:
                await self._attacker.attack(line)
            except Ended as end:
                ending = str(end)
            finally:
                self.ended[ending] += 1
                line.close()
