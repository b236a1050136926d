"""Streamed responses for clients that are slow or leave, for several writers, and in a graceful shutdown.

RFC 9112, sections 7.1 and 8.
"""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from humphrey_trio import Timeouts
from humphrey_trio.http import Write
from humphrey_trio.testing import memory_connection
from tests.support import PATIENCE
from tests.support.apps import StreamPair
from tests.support.links import Link, limit_send_buffers, listening
from tests.support.streamed import StreamClient, app_of, each_stream, is_alive, streaming

Clock = trio.testing.MockClock


# ------------------------------------------------------------------------------------ slow clients


async def test_backpressure(autojump_clock: Clock) -> None:
    """A producer waits while its client does not read."""
    written = 0

    async def produce(write: Write) -> None:
        nonlocal written
        for _ in range(100):
            await write(b"x" * 10_000)
            written += 1

    async with streaming(app_of(produce), memory_connection) as connect:
        client = connect()
        await client.get()
        await trio.sleep(20)
        assert written <= 7
        assert len((await client.reply())[1]) == 1_000_000


@each_stream
async def test_a_client_that_does_not_read_is_cut_off(pair: StreamPair, autojump_clock: Clock) -> None:
    """After ``Timeouts.write`` without a byte accepted, the producer ends, and nothing is logged as an error."""
    ended: list[float] = []

    async def produce(write: Write) -> None:
        try:
            while True:
                await write(b"x" * 100_000)
        finally:
            ended.append(trio.current_time())

    async with streaming(app_of(produce, timeouts=Timeouts(write=5)), pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.get()
        if pair is memory_connection:
            await trio.sleep(10)
            assert ended == [pytest.approx(start + 5, abs=0.3)]
        else:  # its buffer has no bound
            await client.exactly(300_000)
            await client.stream.aclose()
            await trio.sleep(1)
            assert len(ended) == 1


async def test_cancelled_writes_do_not_delay_the_end(autojump_clock: Clock) -> None:
    """A client that does not read is cut off, although each write of the producer is cancelled after a second."""
    ended: list[float] = []

    async def produce(write: Write) -> None:
        try:
            while True:
                with trio.move_on_after(1):
                    await write(b"x" * 100_000)
        finally:
            ended.append(trio.current_time())

    async with streaming(app_of(produce, timeouts=Timeouts(write=5)), memory_connection) as connect:
        client = connect()
        start = trio.current_time()
        await client.get()
        await trio.sleep(10)
        assert ended == [pytest.approx(start + 5, abs=0.3)]


async def test_cancelled_writes_to_a_slow_client(autojump_clock: Clock) -> None:
    """A client that accepts a byte now and then is not cut off, although writes are cancelled."""
    writes = 0

    async def produce(write: Write) -> None:
        nonlocal writes
        for _ in range(8):
            with trio.move_on_after(0.2):
                await write(b"x" * 100_000)
            writes += 1
            await trio.sleep(1.5)

    async with streaming(app_of(produce, timeouts=Timeouts(write=1)), memory_connection) as connect:
        client = connect()
        await client.get()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            await trio.sleep(0.7)
            received += await client.stream.receive_some(20_000)
        assert writes == 8


async def test_a_slow_client_is_not_cut_off(autojump_clock: Clock) -> None:
    """A client that accepts a byte now and then gets its whole body."""
    async with streaming(
        app_of(lambda write: write(b"x" * 200_000), timeouts=Timeouts(write=5)), memory_connection
    ) as connect:
        client = connect()
        await client.get()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            await trio.sleep(4)
            received += await client.stream.receive_some(10_000)
        assert received.count(b"x") == 200_000


@each_stream
async def test_several_tasks_may_write(pair: StreamPair) -> None:
    """Pieces of several tasks are never mixed."""
    pieces = [bytes([65 + number]) * 70_000 for number in range(10)]

    async def produce(write: Write) -> None:
        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(write, piece)

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        assert sorted(await client.chunks()) == pieces


async def test_a_cancelled_write_is_whole_or_nothing(autojump_clock: Clock) -> None:
    """A piece whose write is cancelled is sent as a whole later, or not at all; memory stays bounded."""
    pieces = [b"%d" % number * 100_000 for number in range(6)]

    async def produce(write: Write) -> None:
        for piece in pieces:
            with trio.move_on_after(1):
                await write(piece)
        await write(b"end")

    async with streaming(app_of(produce), memory_connection) as connect:
        client = connect()
        await client.get()
        await trio.sleep(20)
        await client.head()
        chunks = await client.chunks()
        assert chunks[-1] == b"end"
        # The first was begun. The others were not: it was still in the way.
        assert chunks[:-1] == pieces[:1]
        assert await is_alive(client)


# --------------------------------------------------------------------------------- graceful shutdown


@each_stream
async def test_a_stream_may_finish_in_a_graceful_shutdown(pair: StreamPair, autojump_clock: Clock) -> None:
    """A response that has begun is sent to its end; then the connection ends."""
    shutdown = trio.Event()

    async def produce(write: Write) -> None:
        for number in range(10):
            await write(str(number))
            await trio.sleep(1)

    async with streaming(app_of(produce).with_shutdown(shutdown), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        assert await client.chunk() == b"0"
        shutdown.set()
        assert len(await client.chunks()) == 9
        assert await client.rest() == b""


# ----------------------------------------------------------------------------------------- over sockets


@pytest.mark.parametrize("link", Link, ids=lambda link: link.value)
@pytest.mark.parametrize("length", [None, 6_000_000])
async def test_a_slow_reader_over_sockets(link: Link, length: int | None) -> None:
    """A client with small buffers gets every byte, and the next response, over TCP and TLS."""
    piece = os.urandom(60_000)

    async def produce(write: Write) -> None:
        for _ in range(100):
            await write(piece)

    async with listening(app_of(produce, length=length), link) as address:
        limit_send_buffers(address, 16 * 1024)
        async with await link.connect(address, buffer=16 * 1024) as stream:
            client = StreamClient(stream)
            await client.get()
            assert (await client.reply())[1] == piece * 100
            assert await is_alive(client)


async def test_writes_may_be_cancelled_over_tls() -> None:
    """A write that is cancelled in a record leaves a connection that can be used."""

    async def produce(write: Write) -> None:
        for number in range(20):
            with trio.move_on_after(0.01):
                await write(b"%02d" % number * 200_000)
        await write(b"end")

    async with listening(app_of(produce), Link.TLS) as address:
        limit_send_buffers(address, 16 * 1024)
        async with await Link.TLS.connect(address, buffer=16 * 1024) as stream:
            client = StreamClient(stream)
            await client.get()
            await trio.sleep(0.3)
            with trio.fail_after(PATIENCE):
                await client.head()
                chunks = await client.chunks()
                assert chunks[-1] == b"end"
                assert all(chunk == chunk[:2] * 200_000 for chunk in chunks[:-1])
                assert await is_alive(client)
