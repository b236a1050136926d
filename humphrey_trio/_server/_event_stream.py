"""Send server-sent events: the object that a producer sends with, and comments while it is silent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from .._http._body import EventSender, Write
from .._http._event_encoding import COMMENT, encode_event, encode_id
from ._child_task import child_task

#: Seconds without an event after which a comment is sent, so that no proxy closes the connection as idle (HTML
#: standard, section 9.2.7).
SILENCE = 15.0


class _Events:
    """The ``EventSender`` of one response."""

    __slots__ = ("_write", "silent_since")

    def __init__(self, write: Write) -> None:
        self._write = write
        self.silent_since = trio.current_time()

    async def send(
        self, data: str, *, event: str | None = None, id: str | None = None, retry: int | None = None
    ) -> None:
        await self.put(encode_event(data, event, id, retry))

    async def send_id(self, id: str) -> None:
        await self.put(encode_id(id))

    async def put(self, encoded: bytes) -> None:
        await self._write(encoded)
        self.silent_since = trio.current_time()


async def send_events(
    produce: Callable[[EventSender], Awaitable[None]], write: Write, scope: trio.CancelScope
) -> None:
    """Call a producer of events, and send a comment whenever it has been silent for ``SILENCE`` seconds.

    Args:
        produce: called with an ``EventSender``.
        write: sends encoded events.
        scope: cancelled to end the stream, which is not a failure. If it is cancelled already, nothing is sent.
    """
    if scope.cancel_called:
        return
    events = _Events(write)
    async with child_task(partial(_break_silence, events)):
        with scope:
            await produce(events)


async def _break_silence(events: _Events) -> None:
    try:
        while True:
            await trio.sleep_until(events.silent_since + SILENCE)
            if trio.current_time() >= events.silent_since + SILENCE:
                await events.put(COMMENT)
    except trio.BrokenResourceError:
        pass  # the client has left, which the producer notices itself
