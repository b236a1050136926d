"""The handlers of an event-driven app, and how they are run for one client: from connect to disconnect.

Everything happens in the stream's reader task, one handler at a time and in order; with ``concurrency`` the
message handlers get tasks of their own, in a nursery of the reader's. An exception of a handler stops here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, TypeAlias

import trio

from .._failures import report_and_pass
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

    Attributes:
        on_connect, on_message, on_disconnect: the handlers; None for none.
        sweeps: how often the app has looked at its streams; a handler that began some sweeps ago takes long.
    """

    def __init__(self, state: State, concurrency: int) -> None:
        self._state = state
        self._concurrency = concurrency
        self.on_connect: ConnectHandler[StreamState, State] | None = None
        self.on_message: MessageHandler[StreamState, State] | None = None
        self.on_disconnect: DisconnectHandler[StreamState, State] | None = None
        self.sweeps = 1
        self._parting: set[trio.CancelScope] = set()
        self._parting_limit = inf

    # From connect on...

    async def hold(self, stream: AsyncStream[StreamState]) -> None:
        """Run the connect handler and the message handlers, until the stream has ended."""
        stream._reader = trio.lowlevel.current_task()
        try:
            # A scope costs 750 bytes and 15 microseconds; before the first handler there is nothing to cancel.
            message = await stream._next() if self.on_connect is None else None
            if message is not None or self.on_connect is not None:
                with trio.CancelScope() as stream._scope:
                    await self._converse(stream, message)
        except Exception as exc:
            stream._report(exc)
        except BaseExceptionGroup as group:
            report_and_pass(group, stream._report)
        finally:
            self._count_unread(stream)

    @trio.lowlevel.disable_ki_protection
    async def _converse(self, stream: AsyncStream[StreamState], message: Message | None) -> None:
        try:
            if self.on_connect is not None:
                stream._busy_since = self.sweeps
                await self.on_connect(stream, self._state)
                stream._busy_since = 0
                message = await stream._next()
            if self._concurrency > 1:
                await self._handle_together(stream, message)
            else:
                await self._handle_in_turn(stream, message)
        except Exception as exc:
            stream._busy_since = 0
            stream._fail(exc, _FAILED)
            self._count_unread(stream)
            # What still comes is read away up to the client's own Close; the close deadline ends that.
            while await stream._next() is not None:
                pass

    async def _handle_in_turn(self, stream: AsyncStream[StreamState], message: Message | None) -> None:
        handler = self.on_message
        while message is not None:
            if handler is not None:
                if stream._is_wanted:
                    stream._busy_since = self.sweeps
                    try:
                        await handler(stream, message, self._state)
                    except Exception as exc:
                        # The next message is wanted none the less, if its client has left and handlers finish.
                        stream._fail(exc, _FAILED)
                    stream._busy_since = 0
                else:
                    stream._websocket._tally.count_unhandled(1)
            message = await stream._next()

    @trio.lowlevel.enable_ki_protection
    async def _handle_together(self, stream: AsyncStream[StreamState], message: Message | None) -> None:
        handler = self.on_message
        slot_freed = trio.lowlevel.ParkingLot()
        async with trio.open_nursery() as nursery:
            while message is not None:
                if handler is None:
                    pass
                elif not stream._is_wanted:
                    stream._websocket._tally.count_unhandled(1)
                elif stream._running < self._concurrency:
                    stream._running += 1
                    nursery.start_soon(self._handle_apart, stream, handler, message, slot_freed)
                    # Tasks that start in the same pass of the scheduler begin in any order; this one begins first.
                    await trio.lowlevel.checkpoint()
                else:
                    # It waits in front of those that are read ahead, and is counted with them.
                    stream._websocket._put_back(message)
                    stream._busy_since = self.sweeps
                    await slot_freed.park()
                    stream._busy_since = 0
                message = await stream._next()

    @trio.lowlevel.enable_ki_protection
    async def _handle_apart(
        self,
        stream: AsyncStream[StreamState],
        handler: MessageHandler[StreamState, State],
        message: Message,
        slot_freed: trio.lowlevel.ParkingLot,
    ) -> None:
        task = trio.lowlevel.current_task()
        try:
            with trio.CancelScope() as stream._apart[task]:
                await self._handle(stream, handler, message)
        except Exception as exc:
            stream._fail(exc, _FAILED)
        except BaseExceptionGroup as group:
            report_and_pass(group, stream._report)
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
            stream._websocket._tally.count_unhandled(1)

    # The end...

    def gone(self, stream: AsyncStream[StreamState]) -> None:
        """The client has left: cancel what was for it, and count at once what no handler will get."""
        if not stream._is_wanted:
            self._count_unread(stream)
        stream._client_left()

    def _count_unread(self, stream: AsyncStream[StreamState]) -> None:
        """What was read ahead goes to no handler any more."""
        if self.on_message is not None:
            stream._websocket._count_unread()

    @trio.lowlevel.disable_ki_protection
    async def part(self, stream: AsyncStream[StreamState]) -> None:
        """Run the disconnect handler, whatever is cancelled; an app that ends bounds its time."""
        if self.on_disconnect is None:
            return
        scope = trio.CancelScope(deadline=self._parting_limit, shield=True)
        self._parting.add(scope)
        try:
            with scope:
                await self.on_disconnect(stream, self._state)
        except Exception:
            logger.exception("the disconnect handler of %r failed", stream)
        finally:
            self._parting.discard(scope)
        if scope.cancelled_caught:
            logger.warning("the disconnect handler of %r was cut off, because the app ends", stream)

    @property
    def parting(self) -> int:
        """How many disconnect handlers run."""
        return len(self._parting)

    def hurry(self, seconds: float) -> None:
        """Give the disconnect handlers that run, and those that come, so many seconds."""
        self._parting_limit = trio.current_time() + seconds
        for scope in self._parting:
            scope.deadline = self._parting_limit
