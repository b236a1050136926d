"""Detect the use of an object in another run of trio, such as a second ``trio.run`` in another thread.

Without this check trio fails with an AssertionError without a message, possibly after it lost a waiting task.
"""

from __future__ import annotations

from typing import TypeAlias

import trio

#: Identifies a run: the same for all its tasks, and different in every other run.
Run: TypeAlias = trio.lowlevel.TrioToken

current_run = trio.lowlevel.current_trio_token

_FROM_A_THREAD = (
    "from another thread, call trio.from_thread.run(f, *args, trio_token=...) with the token of that run"
)


def check_run(run: Run | None, owner: str, remedy: str = _FROM_A_THREAD) -> None:
    """Check that the caller is in a given run.

    Args:
        run: the run in which the call is allowed; None allows it anywhere.
        owner: the name of the object that belongs to the run, for the error message.
        remedy: what to do instead, for the error message.

    Raises:
        RuntimeError: the caller is in another run.
    """
    if run is not None and run is not current_run():
        raise RuntimeError(f"{owner} belongs to another run of trio: {remedy}")


def check_trio(call: str) -> None:
    """Check that the caller runs in trio.

    Args:
        call: how to run it, for the error message: ``"trio.run(app.run, '127.0.0.1:8080')"``.

    Raises:
        RuntimeError: it runs in asyncio, or in nothing.
    """
    try:
        current_run()
    except RuntimeError:
        raise RuntimeError(
            f"humphrey_trio runs on trio, and neither on asyncio nor without an event loop: write {call}"
        ) from None
