"""The handlers of an event-driven app, and how they are run for one client: from connect to disconnect.

Everything happens in the stream's reader task, one handler at a time and in order; with ``concurrency`` the
message handlers get tasks of their own, in a nursery of the reader's. An exception of a handler stops here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, Generic, TypeAlias

import trio

from .._failures import failure_of
from .._state import State, StreamState
from ._async_stream import AsyncStream
from ._message import Message

logger = logging.getLogger("humphrey_trio.websocket")

#: What ``with_connect_handler`` takes: ``async (stream, state)``.
ConnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: What ``with_disconnect_handler`` takes: ``async (stream, state)``.
DisconnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: What ``with_message_handler`` takes: ``async (stream, message, state)``.
MessageHandler: TypeAlias = Callable[[AsyncStream[StreamState], Message, State], Awaitable[object]]


# The cause in the record of a stream.
_FAILED = "its handler failed"


class Conversations(Generic[State, StreamState]):
    """The handlers of one app.

    Args:
        state: what every handler gets.
        concurrency: how many message handlers of one stream may run at once.
        forget: called when all of a stream has ended, its tasks and its disconnect handler, too.

    Attributes:
        on_connect, on_message, on_disconnect: the handlers; None for none.
    """

    def __init__(self, state: State, concurrency: int, forget: Callable[[AsyncStream[StreamState]], None]) -> None:
        self._state = state
        self._concurrency = concurrency
        self._forget = forget
        self.on_connect: ConnectHandler[StreamState, State] | None = None
        self.on_message: MessageHandler[StreamState, State] | None = None
        self.on_disconnect: DisconnectHandler[StreamState, State] | None = None
        self._parting: set[trio.CancelScope] = set()
        self._parting_limit = inf

    # From connect on...

    @trio.lowlevel.enable_ki_protection
    async def hold(self, stream: AsyncStream[StreamState]) -> None:
        """The reader task of one stream, from its connect handler to its disconnect handler."""
        stream._reader = trio.lowlevel.current_task()
        begun = not stream._websocket.closed  # else it ended before its connect handler could begin
        try:
            # A scope costs 750 bytes and 15 microseconds; before the first handler there is nothing to cancel.
            message = await stream._next() if begun and self.on_connect is None else None
            if begun and (message is not None or self.on_connect is not None):
                with trio.CancelScope() as stream._scope:
                    await self._converse(stream, message)
        except BaseException as exc:
            stream._report(failure_of(exc, stream._report))
        finally:
            await self._end(stream, begun)

    @trio.lowlevel.disable_ki_protection
    async def _converse(self, stream: AsyncStream[StreamState], message: Message | None) -> None:
        # One coroutine for all of this: each further one would cost every client 200 bytes.
        handler = self.on_message
        try:
            if self.on_connect is not None:
                stream._busy = True
                await self.on_connect(stream, self._state)
                stream._busy = False
                message = await stream._next()
            if self._concurrency > 1:
                await self._handle_together(stream, message)
                return
            while message is not None:
                if handler is None:
                    pass
                elif stream._is_wanted:
                    stream._busy = True
                    try:
                        await handler(stream, message, self._state)
                    except BaseException as exc:
                        # The next message is wanted none the less, if its client has left and handlers finish.
                        stream._fail(failure_of(exc, stream._report), _FAILED)
                    stream._busy = False
                else:
                    self._count_unhandled(stream)
                message = await stream._next()
        except BaseException as exc:
            stream._busy = False
            stream._fail(failure_of(exc, stream._report), _FAILED)
            self._count_unread(stream)
            # What still comes is read away up to the client's own Close; the close deadline ends that.
            while await stream._next() is not None:
                self._count_unhandled(stream)

    @trio.lowlevel.enable_ki_protection
    async def _handle_together(self, stream: AsyncStream[StreamState], message: Message | None) -> None:
        handler = self.on_message
        slot_freed = trio.lowlevel.ParkingLot()
        async with trio.open_nursery() as nursery:
            while message is not None:
                if handler is None:
                    pass
                elif not stream._is_wanted:
                    self._count_unhandled(stream)
                elif stream._running < self._concurrency:
                    stream._running += 1
                    nursery.start_soon(self._handle_apart, stream, handler, message, slot_freed)
                    # Tasks that start in the same pass of the scheduler begin in any order; this one begins first.
                    await trio.lowlevel.checkpoint()
                else:
                    # It waits in front of those that are read ahead, and is counted with them.
                    stream._websocket._put_back(message)
                    stream._busy = True
                    await slot_freed.park()
                    stream._busy = False
                message = await stream._next()

    @trio.lowlevel.enable_ki_protection
    async def _handle_apart(
        self,
        stream: AsyncStream[StreamState],
        handler: MessageHandler[StreamState, State],
        message: Message,
        slot_freed: trio.lowlevel.ParkingLot,
    ) -> None:
        task, scope = trio.lowlevel.current_task(), trio.CancelScope()
        if stream._apart is None:
            stream._apart = {}
        stream._apart[task] = scope
        try:
            with scope:
                try:
                    await self._handle(stream, handler, message)
                except BaseException as exc:
                    stream._fail(failure_of(exc, stream._report), _FAILED)
        finally:
            del stream._apart[task]
            stream._running -= 1
            stream._end_drained()
            slot_freed.unpark()

    @trio.lowlevel.disable_ki_protection
    async def _handle(
        self,
        stream: AsyncStream[StreamState],
        handler: MessageHandler[StreamState, State],
        message: Message,
    ) -> None:
        if stream._is_wanted:
            await handler(stream, message, self._state)
        else:  # its client has left since
            self._count_unhandled(stream)

    def _count_unhandled(self, stream: AsyncStream[StreamState]) -> None:
        if self.on_message is not None:  # an app without a handler reads messages away
            stream._websocket._tally.count_unhandled(1)

    def _count_unread(self, stream: AsyncStream[StreamState]) -> None:
        """Count what was read ahead: no handler gets it any more."""
        if self.on_message is not None:
            stream._websocket._count_unread()

    # The end...

    def gone(self, stream: AsyncStream[StreamState]) -> None:
        """The client has left: cancel what was for it, and count at once what no handler will get."""
        if not stream._is_wanted:
            self._count_unread(stream)
        stream._client_left()

    async def _end(self, stream: AsyncStream[StreamState], begun: bool) -> None:
        """End what belongs to a stream, whatever is cancelled.

        Args:
            begun: whether handlers have begun, so that the disconnect handler has to run.
        """
        try:
            stream._busy = False
            await stream._stop_reading_ahead()
            self._count_unread(stream)
            stream._leave()
            await stream._end_tasks()
            if begun and self.on_disconnect is not None:
                await self._disconnect(stream, self.on_disconnect)
        finally:
            self._forget(stream)

    async def _disconnect(
        self, stream: AsyncStream[StreamState], handler: DisconnectHandler[StreamState, State]
    ) -> None:
        """Run the disconnect handler, shielded; an app that ends bounds its time."""
        scope = trio.CancelScope(deadline=self._parting_limit, shield=True)
        self._parting.add(scope)
        try:
            with scope:
                try:
                    await self._run_disconnect_handler(stream, handler)
                except BaseException as exc:
                    report = partial(_log_failed_disconnect, stream)
                    report(failure_of(exc, report))
        finally:
            self._parting.discard(scope)
        if scope.cancelled_caught:
            logger.warning("the disconnect handler of %r was cut off, because the app ends", stream)

    @trio.lowlevel.disable_ki_protection
    async def _run_disconnect_handler(
        self, stream: AsyncStream[StreamState], handler: DisconnectHandler[StreamState, State]
    ) -> None:
        await handler(stream, self._state)

    @property
    def parting(self) -> int:
        """How many disconnect handlers run."""
        return len(self._parting)

    def hurry(self, seconds: float) -> None:
        """Give the disconnect handlers that run, and those that come, so many seconds."""
        self._parting_limit = trio.current_time() + seconds
        for scope in self._parting:
            scope.deadline = self._parting_limit


def _log_failed_disconnect(stream: AsyncStream[Any], failure: Exception) -> None:
    logger.error("the disconnect handler of %r failed", stream, exc_info=failure)
