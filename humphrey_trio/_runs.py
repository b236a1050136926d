"""Runs of trio: what belongs to one must not be used in another, such as a second ``trio.run`` in another thread.

trio itself fails there with an AssertionError without a message, after it may have lost a task that waited.
"""

from __future__ import annotations

from typing import TypeAlias

import trio

#: What all tasks of one run have in common, and those of no other.
Run: TypeAlias = trio.lowlevel.TrioToken

current_run = trio.lowlevel.current_trio_token

_FROM_A_THREAD = (
    "from another thread, call trio.from_thread.run(f, *args, trio_token=...) with the token of that run"
)


def check_run(run: Run | None, owner: str, remedy: str = _FROM_A_THREAD) -> None:
    """Refuse a call from another run.

    Args:
        run: where the call has to be made; None for anywhere.
        owner: what belongs to that run, for the message.
        remedy: what to do instead, for the message.

    Raises:
        RuntimeError: this is another run.
    """
    if run is not None and run is not current_run():
        raise RuntimeError(f"{owner} belongs to another run of trio: {remedy}")
