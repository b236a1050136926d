"""Worker threads for operations on files, which may wait for a disk or a network file system.

They have a limit of their own, so that a file system that does not respond blocks no other use of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio
from trio.lowlevel import RunVar

from .._http._file_body import OpenFile

#: The most threads that operate on files at the same time, in one ``trio.run``.
MAX_FILE_THREADS = 32

_Result = TypeVar("_Result")

_limiter: RunVar[trio.CapacityLimiter] = RunVar("humphrey_trio file threads")


async def with_file_in_thread(job: Callable[[OpenFile], _Result], file: OpenFile) -> _Result:
    """Call a function with a file in a worker thread.

    If the task is cancelled, it does not wait for the function, which may wait for a disk. The file is then closed
    at once, or when the function no longer uses it, or when the function gives its descriptor to ``file``.

    Args:
        job: called with ``file``. It must own every other descriptor that it opens.
        file: closed if this raises.

    Returns:
        What ``job`` returns.

    Raises:
        Exception: what ``job`` raises.
    """
    try:
        return await trio.to_thread.run_sync(job, file, abandon_on_cancel=True, limiter=_file_limiter())
    except BaseException:
        file.close()
        raise


def _file_limiter() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(MAX_FILE_THREADS)
        _limiter.set(limiter)
        return limiter
