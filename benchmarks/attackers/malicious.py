"""Attackers that break the rules of WebSockets, or use them up to the limits of the server.

The docstring of an attacker is its description in `--list`.
"""

from __future__ import annotations

import random
import zlib
from functools import cache

import trio

from benchmarks import wire
from benchmarks.attackers.connection import ECHO, SINK, Connection

MIB = 2**20
COMPRESSED = 0x40  # the bit RSV1 of the first byte of a frame (RFC 7692, section 6)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
BATCH = 2000  # small frames in one send
FIRST_FRAGMENT = wire.client_frame(wire.TEXT, b"", last=False)
FRAGMENTS = wire.client_frame(wire.CONTINUATION, b"", last=False) * BATCH
LAST_FRAGMENT = wire.client_frame(wire.CONTINUATION, b"")
PINGS = wire.client_frame(wire.PING, wire.some_bytes(125)) * BATCH
MESSAGES = wire.echo(32).request * BATCH
LONG = wire.echo(2**16, binary=True).request
RANDOM = wire.client_frame(wire.BINARY, random.Random(0).randbytes(MIB))


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
