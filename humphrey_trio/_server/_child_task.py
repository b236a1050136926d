"""A child task for the time of a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def child_task(run: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Run a task beside a block, and cancel it at the end of the block.

    An exception of the block is raised as it is, and not in an ExceptionGroup. It never reaches the nursery, which
    would take any ``trio.Cancelled`` for its own.

    Args:
        run: the async function of the task. Must not raise an ``Exception``.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_protected, run)
            try:
                yield
            except BaseException as exc:
                error = exc
                # If the parent is cancelled as well, the Cancelled of this wait would replace the exception.
                nursery.cancel_scope.shield = True
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
    finally:
        del error  # break the reference cycle between the exception and this frame


@trio.lowlevel.enable_ki_protection
async def _protected(run: Callable[[], Awaitable[None]]) -> None:
    await run()
