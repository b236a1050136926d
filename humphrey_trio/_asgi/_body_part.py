"""A part of the body of a response, on its way from an ASGI app to the task that writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._waiter import Waiter

if TYPE_CHECKING:
    from .._http._file_body import FileBody


class BodyPart:
    """A part of the body, on its way from the app to the producer.

    Args:
        data: its bytes, or the file that has them.
        is_last: whether it is the last one.

    Attributes:
        data, is_last: as the arguments.
    """

    __slots__ = ("_behind", "_sender", "data", "is_last")

    def __init__(self, data: bytes | FileBody, *, is_last: bool) -> None:
        self.data = data
        self.is_last = is_last
        self._sender = Waiter()
        self._behind: trio.Event | None = None  # for other tasks of the app, which few apps have

    async def wait(self) -> None:
        """Wait, in the task that sends it, until it was written, or never will be."""
        await self._sender.wait()

    async def wait_behind(self) -> None:
        """Wait the same in another task."""
        if self._behind is None:
            self._behind = trio.Event()
        await self._behind.wait()

    def finish(self) -> None:
        """It was written, or never will be."""
        self._sender.wake()
        if self._behind is not None:
            self._behind.set()
