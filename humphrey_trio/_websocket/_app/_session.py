"""One client of an application: its handlers from connect to disconnect, and what else belongs to it.

Handlers run in the stream's reader task, one at a time and in order; with ``concurrency`` the message handlers get
tasks of their own, in a nursery of the reader's. An exception of a handler stops here. A session never closes the
transport, and never waits for its client except for messages.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic

import trio

from ..._failures import failure_of
from .._errors import tells_the_end
from .._policies import WhenLeft
from .._protocol._close_codes import INTERNAL_ERROR
from ._handlers import Stream
from ._read_ahead import ReadAheadTask
from ._stream_tasks import StreamTasks

if TYPE_CHECKING:
    from ..._http._drain import Drain
    from .._message import Message
    from .._stream._connection import WebsocketConnection
    from ._broadcaster import Broadcaster
    from ._handlers import Handlers, MessageHandler
    from ._sessions import Sessions

logger = logging.getLogger("humphrey_trio.websocket")

# A reader that was busy at so many checks in a row gets a task that reads ahead.
_BUSY_CHECKS = 2

# The cause in the record of a stream.
_HANDLER_FAILED = "its handler failed"
_TASK_FAILED = "a task of it failed"


class Session(Generic[Stream]):
    """One client of an application.

    What handlers get of it, the ``AsyncStream``, refers to this and is passed through; a reference back would be
    a cycle.

    Args:
        connection: the machinery of its stream.
        handlers: those of the application.
        broadcaster: what the application sends to many clients with.
        sessions: those of the application.
        nursery: where its tasks run.

    Attributes:
        connection, broadcaster: as given.
        topics: what it has subscribed to; None before the first subscription.
    """

    __slots__ = (
        "_busy",
        "_busy_checks",
        "_drain",
        "_handlers",
        "_nursery",
        "_read_ahead",
        "_running",
        "_scopes",
        "_sessions",
        "_tasks",
        "broadcaster",
        "connection",
        "topics",
    )

    def __init__(
        self,
        connection: WebsocketConnection,
        handlers: Handlers[Stream],
        broadcaster: Broadcaster,
        sessions: Sessions[Any],
        nursery: trio.Nursery,
    ) -> None:
        self.connection = connection
        self.broadcaster = broadcaster
        self.topics: set[Hashable] | None = None
        self._handlers = handlers
        self._sessions = sessions
        self._nursery = nursery
        self._busy = False  # whether the reader task runs a handler, or waits until one may begin
        self._busy_checks = 0  # in a row, at which it was busy and no task read
        self._running = 0  # handlers that have tasks of their own
        # The tasks in which handlers run, each with what cancels it when the client leaves. The task whose handler
        # has closed the stream is taken out: that handler may finish.
        self._scopes: dict[trio.lowlevel.Task, trio.CancelScope] | None = None
        self._drain: Drain | None = None  # how the stream is closed as soon as its handlers have ended
        self._read_ahead: ReadAheadTask | None = None
        self._tasks: StreamTasks | None = None

    @property
    def id(self) -> int:
        """The id of its stream."""
        return self.connection.id

    @property
    def closed(self) -> bool:
        """Whether its stream is closed."""
        return self.connection.closed

    @property
    def handlers_running(self) -> int:
        """How many connect and message handlers run."""
        return self._running or int(self._busy)

    @property
    def tasks_running(self) -> int:
        """How many tasks of ``start_task`` run."""
        return 0 if self._tasks is None else len(self._tasks)

    def __repr__(self) -> str:
        """That of the ``AsyncStream``, which stands in log lines."""
        return f"<AsyncStream of {self.connection!r}>"

    # From connect to disconnect...

    @trio.lowlevel.enable_ki_protection
    async def run(self, stream: Stream) -> None:
        """The reader task of the stream, from its connect handler to its disconnect handler.

        Args:
            stream: what the handlers get.
        """
        on_connect = self._handlers.on_connect
        begun = not self.connection.closed  # else it ended before its connect handler could begin
        try:
            # A scope costs 750 bytes and 15 microseconds; before the first handler there is nothing to cancel.
            message = await self._next() if begun and on_connect is None else None
            if begun and (message is not None or on_connect is not None):
                with trio.CancelScope() as scope:
                    self._scopes = {trio.lowlevel.current_task(): scope}
                    await self._handle_all(stream, message)
        except BaseException as exc:
            self.report(failure_of(exc, self.report))
        finally:
            await self._end(stream, begun)

    @trio.lowlevel.disable_ki_protection
    async def _handle_all(self, stream: Stream, message: Message | None) -> None:
        # One coroutine for all of this: each further one would cost every client 200 bytes.
        handlers, on_message = self._handlers, self._handlers.on_message
        try:
            if handlers.on_connect is not None:
                self._busy = True
                await handlers.on_connect(stream, handlers.state)
                self._busy = False
                message = await self._next()
            if handlers.concurrency > 1:
                await self._handle_together(stream, message, on_message)
                return
            while message is not None:
                try:
                    await self._choose(on_message)(stream, message, handlers.state)
                except BaseException as exc:
                    # The next message is wanted none the less, if its client has left and handlers finish.
                    self._fail(failure_of(exc, self.report), _HANDLER_FAILED)
                self._busy = False
                message = await self._next()
        except BaseException as exc:
            self._busy = False
            self._fail(failure_of(exc, self.report), _HANDLER_FAILED)
            self._drop_ahead()
            # What still comes is read away up to the client's own Close; the close deadline ends that.
            while await self._next() is not None:
                self._count_unhandled()

    def _choose(self, handler: MessageHandler[Stream] | None) -> MessageHandler[Stream]:
        """What to run for the next message: the handler, or nothing if the message is not wanted any more."""
        if handler is None:
            return _do_nothing
        if (self._drain is None and self.connection.lifecycle.ending is None) or self.is_wanted:
            self._busy = True
            return handler
        self._count_unhandled()
        return _do_nothing

    @trio.lowlevel.enable_ki_protection
    async def _handle_together(
        self, stream: Stream, message: Message | None, handler: MessageHandler[Stream] | None
    ) -> None:
        """Run message handlers in tasks of their own."""
        self._scopes = {}  # the reader runs no handler from here on, and ends by itself when the client leaves
        slot_freed = trio.lowlevel.ParkingLot()
        async with trio.open_nursery() as nursery:
            while message is not None:
                if handler is None:
                    pass
                elif not self.is_wanted:
                    self._count_unhandled()
                elif self._running < self._handlers.concurrency:
                    self._running += 1
                    nursery.start_soon(self._handle_apart, stream, message, handler, slot_freed)
                    # Tasks that start in the same pass of the scheduler begin in any order; this one begins first.
                    await trio.lowlevel.checkpoint()
                else:
                    # It waits in front of those that are read ahead, and is counted with them.
                    self.connection.inbox.put_back(message)
                    self._busy = True
                    await slot_freed.park()
                    self._busy = False
                message = await self._next()

    @trio.lowlevel.enable_ki_protection
    async def _handle_apart(
        self,
        stream: Stream,
        message: Message,
        handler: MessageHandler[Stream],
        slot_freed: trio.lowlevel.ParkingLot,
    ) -> None:
        task, scope = trio.lowlevel.current_task(), trio.CancelScope()
        scopes = self._scopes
        assert scopes is not None
        scopes[task] = scope
        try:
            with scope:
                try:
                    await self._handle(stream, message, handler)
                except BaseException as exc:
                    self._fail(failure_of(exc, self.report), _HANDLER_FAILED)
        finally:
            scopes.pop(task, None)
            self._running -= 1
            self._end_drained()
            slot_freed.unpark()

    @trio.lowlevel.disable_ki_protection
    async def _handle(self, stream: Stream, message: Message, handler: MessageHandler[Stream]) -> None:
        if self.is_wanted:
            await handler(stream, message, self._handlers.state)
        else:  # its client has left since
            self._count_unhandled()

    async def _end(self, stream: Stream, begun: bool) -> None:
        """End what belongs to the session, whatever is cancelled.

        Args:
            stream: what the disconnect handler gets.
            begun: whether handlers have begun, so that the disconnect handler has to run.
        """
        # Each step may be cancelled, and none may be left out: the slot is freed in any case. What is waited for
        # here was cancelled, so it ends by itself; only the disconnect handler is bounded by time.
        try:
            self._busy = False
            self._scopes = None
            await self._stop_read_ahead()
            self._drop_ahead()
            self._leave()
            if self._tasks is not None:
                await self._tasks.end()
                self._tasks = None  # they refer to this
            if begun and self._handlers.on_disconnect is not None:
                disconnects = self._sessions.disconnects
                await disconnects.run(self._handlers.on_disconnect, stream, self._handlers.state, self)
        finally:
            self._sessions.remove(self)

    def _leave(self) -> None:
        """Get no more broadcasts; a stream that is still open is closed."""
        for topic in self.topics or ():
            self.broadcaster.topics.unsubscribe(topic, self)
        if self._drain is not None:
            self.connection.drain(self._drain, 0)  # even if it was cancelled at last
        self.connection.leave()

    # Messages...

    @trio.lowlevel.enable_ki_protection
    async def _next(self) -> Message | None:
        """The next message for a handler; None when there will be none."""
        if self._read_ahead is not None:
            await self._stop_read_ahead()
        if self._drain is not None:
            self._end_drained()
        connection = self.connection
        message = await connection.inbox.next(connection)
        if message is None and self.is_wanted:
            message = await connection.inbox.next(connection, left=True)
        return message

    @property
    def is_wanted(self) -> bool:
        """Whether messages still go to the handler: those of a client that has left may have to."""
        if self._drain is not None:
            return False  # an app that ends lets handlers finish, and begins none
        ending = self.connection.lifecycle.ending
        return ending is None or (ending.initiator == "client" and self._handlers.when_left is WhenLeft.FINISH)

    def _count_unhandled(self) -> None:
        if self._handlers.on_message is not None:  # an app without a handler reads messages away
            self.connection.counters.count_unhandled(1)

    def _drop_ahead(self) -> None:
        """Drop and count what was read ahead, since no handler gets it any more."""
        if self._handlers.on_message is not None:
            self.connection.inbox.drop_ahead()

    def check_reader(self) -> None:
        """Have a task read ahead while the reader is busy, be it with one handler or with many in a row.

        Where no task reads even so, because enough was read ahead, notice that the client has left; that does not
        matter where its handlers may finish. The app's sweep calls this.
        """
        connection = self.connection
        if not self._busy or connection.inbox.waiting:
            self._busy_checks = 0
            return
        self._busy_checks += 1
        if self._busy_checks >= _BUSY_CHECKS and self._read_ahead is None:
            self._read_ahead = ReadAheadTask(connection)
            self._nursery.start_soon(self._read_ahead.run)
        if self._busy_checks > _BUSY_CHECKS and self._handlers.when_left is WhenLeft.CANCEL:
            connection.look_for_peer()

    async def _stop_read_ahead(self) -> None:
        """End the task that reads ahead, if there is one, whatever is cancelled: what it has read is counted."""
        if self._read_ahead is not None:
            with trio.CancelScope(shield=True):
                await self._read_ahead.stop()
            self._read_ahead = None

    # The end of the client...

    def peer_gone(self) -> None:
        """The client has left: cancel what runs for it, and count at once what no handler will get."""
        if not self.is_wanted:
            self._drop_ahead()
        if self._tasks is not None:
            self._tasks.cancel()
        if self._handlers.when_left is WhenLeft.CANCEL and self.handlers_running:
            for scope in (self._scopes or {}).values():
                scope.cancel()

    def report(self, exception: Exception) -> None:
        """Log what a handler or a task raised, unless it only says that the stream is closed."""
        if not (self.connection.closed and tells_the_end(exception)):
            logger.error("a handler or task of %r failed", self, exc_info=exception)

    def _fail(self, exception: Exception, cause: str) -> None:
        self.report(exception)
        self.connection.close(INTERNAL_ERROR, "", cause=cause, exception=exception)

    def drain(self, drain: Drain) -> None:
        """The app ends: begin no further handler, and close behind what those that run still send."""
        self._drain = drain
        if not self.connection.closed:
            self.connection.drain(drain, drain.patience if self.handlers_running else 0)

    def _end_drained(self) -> None:
        if self._drain is not None and not self._running:
            self.connection.drain(self._drain, 0)

    # For handlers...

    def subscribe(self, topic: Hashable) -> None:
        """Get what is published on a topic; see ``AsyncStream.subscribe``."""
        self.connection.check_open()
        if self.topics is None:
            self.topics = set()
        self.topics.add(topic)
        self.broadcaster.topics.subscribe(topic, self)

    def unsubscribe(self, topic: Hashable) -> None:
        """Get it no more; see ``AsyncStream.unsubscribe``."""
        # In this order, so that nothing is done if the topic is not hashable: a set would discard another set.
        self.broadcaster.topics.unsubscribe(topic, self)
        if self.topics is not None:
            self.topics.discard(topic)

    def start_task(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        """Run a function in a task that belongs to the client; see ``AsyncStream.start_soon``."""
        self.connection.check_open()
        if self._tasks is None:
            self._tasks = StreamTasks(self._nursery, self._task_failed)
        self._tasks.start_soon(async_fn, args)

    def _task_failed(self, exception: Exception) -> None:
        self._fail(exception, _TASK_FAILED)

    def close(self, code: int, reason: str) -> None:
        """Close the stream from the calling task; if a handler does that, it may finish."""
        if not self.connection.closed and self._scopes:
            task = self._handler_around(trio.lowlevel.current_task())
            if task is not None:
                del self._scopes[task]
        self.connection.close(code, reason)

    def _handler_around(self, task: trio.lowlevel.Task | None) -> trio.lowlevel.Task | None:
        """The task of the handler of this stream that a task is, or is a child of; None if it is neither."""
        while task is not None and task not in (self._scopes or ()):
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task


async def _do_nothing(*_: object) -> None: ...
