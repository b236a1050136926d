"""Turns of the writers: before a broadcast drops messages or closes a stream, the peer gets a chance to read.

A socket accepts bytes only when its writer runs, so an outbox may be full although its peer reads. A broadcast
does not wait for a peer, but it lets the writers run for a bounded number of scheduler passes.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._outbox import Outbox

# In one turn, a writer sends at least this many bytes if its peer reads: one chunk of a trio stream. Over TLS this
# takes two scheduler passes, and up to five if a stream passes each chunk between tasks.
_TURN_BYTES = 16 * 1024
_TURN_PASSES = 8


async def give_turns(waiting: Iterable[tuple[Outbox, int]]) -> None:
    """Let the writers of full outboxes run, until there is room or their peers accept no bytes.

    An outbox whose peer accepts nothing in a turn is noted as stuck. The number of turns depends only on the
    missing bytes, so a peer that accepts a few bytes in each turn does not delay the caller further.

    Args:
        waiting: pairs of an outbox and the size in bytes of the frame that is to be put.
    """
    full = [(outbox, size) for outbox, size in waiting if outbox.bytes_over(size) and not outbox.is_stuck]
    turns = max((ceil(outbox.bytes_over(size) / _TURN_BYTES) for outbox, size in full), default=0)
    for _ in range(turns + 1):
        full = [(outbox, size) for outbox, size in full if outbox.bytes_over(size) and not outbox.is_stuck]
        if not full:
            return
        sent = [outbox.bytes_sent for outbox, _ in full]
        for _ in range(_TURN_PASSES):
            await trio.lowlevel.checkpoint()
        for (outbox, _), before in zip(full, sent, strict=True):
            if outbox.bytes_sent == before:
                outbox.note_stuck()
