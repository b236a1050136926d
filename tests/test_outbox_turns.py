"""Turns: how long a broadcast waits for the writers of full outboxes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import trio
import trio.testing

from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._stream._outbox import Outbox
from humphrey_trio._websocket._stream._writer_turns import give_turns
from tests.support.outboxes import NORMAL_CLOSE, ScriptedTransport, blocked, opened

MIB = 2**20


@pytest.fixture
async def passes(nursery: trio.Nursery) -> list[int]:
    """The number of passes of the scheduler, as the only item of a list."""
    counted = [0]

    async def count() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            counted[0] += 1

    nursery.start_soon(count)
    return counted


def full_outbox(script: Iterable[int], size: int) -> tuple[Outbox, ScriptedTransport]:
    """An outbox that is full with one frame, of which no byte was taken. From now on the script holds."""
    transport = ScriptedTransport()
    outbox = opened(transport, StreamLimits(max_outbox_bytes=size))
    transport.blocked = True
    outbox.put(bytes(size))
    transport.script = iter(script)
    return outbox, transport


async def write_forever(outbox: Outbox) -> None:
    """Write until the task is cancelled, as the connection task does."""
    while True:
        await (outbox.flush_some() if outbox.pending else outbox.wait_for_work())


@pytest.mark.parametrize("size", [1, MIB, 10 * MIB])
async def test_turns_last_until_there_is_room(size: int, nursery: trio.Nursery) -> None:
    """A writer that sends 16 KiB in each turn gets as many turns as the missing room needs."""
    outbox, _ = full_outbox(itertools.repeat(16 * 1024), size)
    nursery.start_soon(write_forever, outbox)
    assert outbox.bytes_over(size) == size
    await give_turns([(outbox, size)])
    assert outbox.bytes_over(size) == 0
    assert outbox.has_room(size)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("drops", [1, 100])
async def test_turns_of_slow_peers(drops: int, passes: list[int], nursery: trio.Nursery) -> None:
    """Peers that take one byte at a time get as few turns as one that reads, and all of them together."""
    outboxes = [full_outbox(itertools.repeat(1), MIB)[0] for _ in range(drops)]
    for outbox in outboxes:
        nursery.start_soon(write_forever, outbox)
    before = passes[0]
    await give_turns([(outbox, 1000) for outbox in outboxes])
    assert passes[0] - before < 2 * 10
    assert all(0 < outbox.bytes_over(1000) < 1000 for outbox in outboxes)
    assert not any(outbox.is_stuck for outbox in outboxes)
    nursery.cancel_scope.cancel()


async def test_stuck_peer_gets_no_turn(passes: list[int], nursery: trio.Nursery) -> None:
    """A peer that takes nothing in one turn gets no other turn until it takes something."""
    outbox, transport = full_outbox((), MIB)
    transport.resume = trio.Event()
    nursery.start_soon(write_forever, outbox)
    before = passes[0]
    await give_turns([(outbox, MIB)])
    assert outbox.is_stuck
    after = passes[0]
    assert after - before < 10
    await give_turns([(outbox, MIB)])
    assert passes[0] == after
    transport.resume.set()
    while outbox.pending:
        await trio.lowlevel.checkpoint()
    assert not outbox.is_stuck
    nursery.cancel_scope.cancel()


def test_missing_room() -> None:
    """The missing room is the number of bytes that have to be sent first: at least one if messages are limited."""
    outbox, _ = blocked(StreamLimits(max_outbox_bytes=100, max_outbox_messages=3))
    assert outbox.bytes_over(1000) == 0  # nothing waits
    for _ in range(3):
        outbox.put(bytes(20))
    assert [outbox.bytes_over(size) for size in (40, 41, 100, 1000)] == [0, 1, 60, 60]
    outbox.put(bytes(20))
    assert [outbox.bytes_over(size) for size in (1, 20, 100, 1000)] == [1, 1, 80, 80]
    outbox.end(NORMAL_CLOSE)
    assert outbox.bytes_over(1000) == 0
