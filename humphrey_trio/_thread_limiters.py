"""The limiters of the worker threads of the library. Each run of trio has its own.

Operations on files may wait for a disk or a network file system. Their limiter is separate, so that a file system
that does not respond blocks no other use of threads.
"""

from __future__ import annotations

import os

import trio
from trio.lowlevel import RunVar

#: The most threads that operate on files at the same time, in one ``trio.run``.
MAX_FILE_THREADS = 32

_files: RunVar[trio.CapacityLimiter] = RunVar("humphrey_trio file threads")
_computations: RunVar[trio.CapacityLimiter] = RunVar("humphrey_trio computing threads")


def file_limiter() -> trio.CapacityLimiter:
    """Return the limiter of operations on files, in this run of trio."""
    return _limiter(_files, MAX_FILE_THREADS)


def computing_limiter() -> trio.CapacityLimiter:
    """Return the limiter of computations, such as compression, in this run of trio: one for each processor."""
    return _limiter(_computations, os.cpu_count() or 1)


def _limiter(variable: RunVar[trio.CapacityLimiter], tokens: int) -> trio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = trio.CapacityLimiter(tokens)
        variable.set(limiter)
        return limiter
