"""The limit of the worker threads that operate on files, which may wait for a disk or a network file system.

It is separate, so that a file system that does not respond blocks no other use of threads.
"""

from __future__ import annotations

import trio
from trio.lowlevel import RunVar

#: The most threads that operate on files at the same time, in one ``trio.run``.
MAX_FILE_THREADS = 32

_limiter: RunVar[trio.CapacityLimiter] = RunVar("humphrey_trio file threads")


def file_limiter() -> trio.CapacityLimiter:
    """Return the limiter of this run of trio."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(MAX_FILE_THREADS)
        _limiter.set(limiter)
        return limiter
