"""Operations on open files in worker threads, which a cancelled task does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from .._http._file_body import OpenFile
from .._thread_limiters import file_limiter

_Result = TypeVar("_Result")


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
        return await trio.to_thread.run_sync(job, file, abandon_on_cancel=True, limiter=file_limiter())
    except BaseException:
        file.close()
        raise
