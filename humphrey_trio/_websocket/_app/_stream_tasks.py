"""The tasks of one client, which are cancelled when the client leaves.

They run in the nursery of the app: a nursery for each client would cost memory for clients without tasks. All of
them have ended before the disconnect handler of the client runs. Their exceptions do not propagate.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from ..._failures import failure_of
from ..._naming import qualified_name


class StreamTasks:
    """The tasks of one client.

    Args:
        nursery: the nursery in which they run.
        failed: called with the function of a task, and an exception that it has raised.
    """

    __slots__ = ("_ended", "_failed", "_nursery", "_scopes")

    def __init__(self, nursery: trio.Nursery, failed: Callable[[object, Exception], None]) -> None:
        self._nursery = nursery
        self._failed = failed
        self._scopes: set[trio.CancelScope] = set()
        self._ended: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._scopes)

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        """Start a task."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._run, scope, async_fn, args, name=async_fn)
        self._scopes.add(scope)

    def cancel(self) -> None:
        """Cancel all running tasks."""
        for scope in self._scopes:
            scope.cancel()

    async def end(self) -> None:
        """Cancel all tasks and wait until they have ended. Shielded from cancellation."""
        self.cancel()
        # No task can be added meanwhile, because the stream is closed. There is no deadline: only a task that
        # ignores its cancellation delays this, as it would delay any nursery.
        with trio.CancelScope(shield=True):
            while self._scopes:
                self._ended = trio.Event()
                await self._ended.wait()

    @trio.lowlevel.enable_ki_protection
    async def _run(
        self, scope: trio.CancelScope, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]
    ) -> None:
        try:
            with scope:
                try:
                    await _call(async_fn, args)
                except BaseException as exc:
                    report = partial(self._failed, async_fn)
                    report(failure_of(exc, report))
        finally:
            self._scopes.discard(scope)
            if not self._scopes and self._ended is not None:
                self._ended.set()


@trio.lowlevel.disable_ki_protection
async def _call(async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
    coroutine = async_fn(*args)
    if not inspect.isawaitable(coroutine):
        raise TypeError(f"start_soon takes an async function: {qualified_name(async_fn)} returned {coroutine!r}")
    await coroutine
