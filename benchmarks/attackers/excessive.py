"""Attackers that keep to the rules of HTTP and WebSockets, and take as much of a server as these allow.

The docstring of an attacker is its description in `--list`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from benchmarks import downloads, wire
from benchmarks.attackers.connection import ECHO, Connection, Ended

SLOW_RATE = 1000  # bytes per second of a slow download
FLOOD = 2**16  # bytes of requests in one send
MIB = 2**20
GETS = wire.get().request * (FLOOD // len(wire.get().request))
ECHOES = wire.echo(32).request * (FLOOD // len(wire.echo(32).request))
LONG = wire.echo(MIB, binary=True).request
SLOW_HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
SLOW_BODY = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"


async def slow_reader(connection: Connection) -> None:
    """A client that downloads a file of 100 MB, and reads 1 kB per second."""
    await connection.connect()
    await connection.send(downloads.REQUEST)
    while True:
        await connection.read(SLOW_RATE)
        await trio.sleep(1.0)


async def slow_readers(connection: Connection) -> None:
    """100 such clients."""
    await slow_reader(connection)


async def idle(connection: Connection) -> None:
    """10,000 connections that are kept alive after a GET, and send nothing."""
    await connection.connect()
    await connection.send(wire.get().request)
    await connection.read_until_end()


async def slow_heads(connection: Connection) -> None:
    """1,000 clients that send a request head, one byte per second."""
    await connection.connect()
    await connection.send(SLOW_HEAD)
    await send_slowly(connection)


async def slow_bodies(connection: Connection) -> None:
    """1,000 clients that send a request body, one byte per second."""
    await connection.connect()
    await connection.send(SLOW_BODY)
    await send_slowly(connection)


async def send_slowly(connection: Connection) -> None:
    while True:
        await connection.send(b"x", single_bytes=1)
        with trio.move_on_after(1.0):
            await connection.read_until_end()


async def get_flood(connection: Connection) -> None:
    """A client that pipelines GETs without a pause, and reads the responses."""
    await connection.connect()
    await flood(connection, GETS)


async def echo_flood(connection: Connection) -> None:
    """A client that sends messages of 32 bytes without a pause, and reads the echoes."""
    await connection.open(path=ECHO)
    await flood(connection, ECHOES)


async def long_flood(connection: Connection) -> None:
    """A client that sends messages of 1 MiB without a pause, and reads the echoes."""
    await connection.open(path=ECHO)
    await flood(connection, LONG)


async def flood(connection: Connection, requests: bytes) -> None:
    """Send requests and discard the replies, until the connection ends."""

    async def send() -> None:
        while True:
            await connection.send(requests)

    await until_one_ends(send, connection.discard_until_end)


async def until_one_ends(*works: Callable[[], Awaitable[None]]) -> None:
    """Do all of this at once. Raises the first `Ended`."""
    ends: list[Ended] = []

    async def work_until_end(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Ended as end:
            ends.append(end)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work_until_end, work)
    raise ends[0]
