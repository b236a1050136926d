"""One client of an application: its handlers from connect to disconnect, its tasks and its subscriptions.

Handlers run in the reader task of the stream, one at a time and in order. With ``concurrency`` above 1, message
handlers run in tasks of their own, in a nursery of the reader task. No exception of a handler leaves the session.
A session never closes the transport, and waits for its client only to receive messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import trio

from ..._failures import failure_of
from ..._http._when_left import WhenLeft
from .._causes import HANDLER_FAILED, TASK_FAILED
from .._errors import tells_the_end
from .._protocol._close_codes import INTERNAL_ERROR
from ._failure_log import log_failure
from ._handlers import Stream
from ._read_ahead import BusyReader
from ._stream_tasks import StreamTasks

if TYPE_CHECKING:
    from ..._http._drain import Drain
    from .._message import Message
    from .._stream._connection import WebsocketConnection
    from ._broadcaster import Broadcaster
    from ._handlers import Handlers, MessageHandler
    from ._sessions import AppRun, Sessions


class Session(Generic[Stream]):
    """One client of an application.

    The ``AsyncStream`` of the handlers refers to the session and is passed as an argument. A reference from the
    session would be a cycle, which delays the release of memory.

    Args:
        connection: the connection of the stream.
        handlers: the handlers of the application.
        broadcaster: the broadcaster of the application.
        sessions: the sessions of the application.
        app_run: the run of the application. Its nursery has the tasks of the session.

    Attributes:
        connection, broadcaster, app_run: as the arguments.
        topics: the subscribed topics; None before the first subscription.
    """

    __slots__ = (
        "_busy",
        "_busy_reader",
        "_drain",
        "_handlers",
        "_running",
        "_scopes",
        "_sessions",
        "_tasks",
        "app_run",
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
        app_run: AppRun,
    ) -> None:
        self.connection = connection
        self.broadcaster = broadcaster
        self.topics: set[Hashable] | None = None
        self._handlers = handlers
        self._sessions = sessions
        self.app_run = app_run
        self._busy = False  # whether the reader task runs a handler, or waits to start one
        self._running = 0  # handlers that run in tasks of their own
        # The tasks that run handlers, with the scopes that cancel them when the client leaves. A task whose
        # handler closed the stream is removed, because that handler may finish.
        self._scopes: dict[trio.lowlevel.Task, trio.CancelScope] | None = None
        self._drain: Drain | None = None  # set by a graceful shutdown: how to close after running handlers
        self._busy_reader: BusyReader | None = None  # while checks find the reader busy
        self._tasks: StreamTasks | None = None

    @property
    def id(self) -> int:
        """The id of the stream."""
        return self.connection.id

    @property
    def closed(self) -> bool:
        """Whether the stream is closed."""
        return self.connection.closed

    @property
    def handlers_running(self) -> int:
        """The number of connect and message handlers that run."""
        return self._running or int(self._busy)

    @property
    def tasks_running(self) -> int:
        """The number of running tasks of ``start_task``."""
        return 0 if self._tasks is None else len(self._tasks)

    def __repr__(self) -> str:
        """Return the repr of the ``AsyncStream``, also used in log lines."""
        return f"<AsyncStream of {self.connection!r}>"

    # From connect to disconnect...

    @trio.lowlevel.enable_ki_protection
    async def run(self, stream: Stream) -> None:
        """Run the handlers, from connect to disconnect. This is the reader task of the stream.

        Args:
            stream: the first argument of the handlers.
        """
        on_connect = self._handlers.on_connect
        begun = not self.connection.closed  # closed before the connect handler: no handler runs
        try:
            # A scope costs 750 bytes and 15 us, so it is created before the first handler and not earlier.
            message = await self._next() if begun and on_connect is None else None
            if begun and (message is not None or on_connect is not None):
                with trio.CancelScope() as scope:
                    self._scopes = {trio.lowlevel.current_task(): scope}
                    await self._handle_all(stream, message)
        except BaseException as exc:
            report = partial(self._report, "reader task", None)
            report(failure_of(exc, report))
        finally:
            await self._end(stream, begun)

    @trio.lowlevel.disable_ki_protection
    async def _handle_all(self, stream: Stream, message: Message | None) -> None:
        # Not split into several coroutines: each costs every client 200 bytes.
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
                    # Continue: with WhenLeft.FINISH, the remaining messages of a client that left are handled.
                    self._fail(exc, "message handler", on_message)
                self._busy = False
                message = await self._next()
        except BaseException as exc:
            failed = ("connect handler", handlers.on_connect) if self._busy else ("reader task", None)
            self._busy = False
            self._fail(exc, *failed)
            self._drop_ahead()
            # Discard messages until the Close of the client (RFC 6455, section 7.1.2). The close deadline limits
            # this.
            while await self._next() is not None:
                self._count_unhandled()

    def _choose(self, handler: MessageHandler[Stream] | None) -> MessageHandler[Stream]:
        """Return the handler for the next message, or a function that does nothing if it is to be discarded."""
        if handler is None:
            self._handlers.note_discarded()
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
        self._scopes = {}  # without the reader task: it runs no handler, and ends when the client leaves
        slot_freed = trio.lowlevel.ParkingLot()
        async with trio.open_nursery() as nursery:
            while message is not None:
                if handler is None:
                    self._handlers.note_discarded()
                elif not self.is_wanted:
                    self._count_unhandled()
                elif self._running < self._handlers.concurrency:
                    self._running += 1
                    nursery.start_soon(self._handle_in_task, stream, message, handler, slot_freed)
                    # Trio starts the tasks of one scheduler pass in random order. Handlers must begin in order.
                    await trio.lowlevel.checkpoint()
                else:
                    # It counts as read ahead, and is the first of these messages.
                    self.connection.inbox.put_back(message)
                    self._busy = True
                    await slot_freed.park()
                    self._busy = False
                message = await self._next()

    @trio.lowlevel.enable_ki_protection
    async def _handle_in_task(
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
                    self._fail(exc, "message handler", handler)
        finally:
            scopes.pop(task, None)
            self._running -= 1
            self._end_drained()
            slot_freed.unpark()

    @trio.lowlevel.disable_ki_protection
    async def _handle(self, stream: Stream, message: Message, handler: MessageHandler[Stream]) -> None:
        if self.is_wanted:
            await handler(stream, message, self._handlers.state)
        else:  # the client left before this task started
            self._count_unhandled()

    async def _end(self, stream: Stream, begun: bool) -> None:
        """End the tasks and subscriptions of the session, and run the disconnect handler, even if cancelled.

        Args:
            stream: the first argument of the disconnect handler.
            begun: whether the connect handler began, so that the disconnect handler must run.
        """
        # The task may be cancelled already, so each wait is shielded. The tasks that are waited for were
        # cancelled; only the disconnect handler needs a time limit. The slot is freed in any case.
        try:
            self._busy = False
            self._scopes = None
            if self._busy_reader is not None:
                await self._busy_reader.stop()
            self._drop_ahead()
            self._leave()
            if self._tasks is not None:
                await self._tasks.end()
                self._tasks = None  # breaks a reference cycle
            if begun and self._handlers.on_disconnect is not None:
                disconnects = self.app_run.disconnects
                await disconnects.run(self._handlers.on_disconnect, stream, self._handlers.state, self)
        finally:
            self._sessions.remove(self)

    def _leave(self) -> None:
        """Remove the subscriptions, and close the stream if it is open."""
        for topic in self.topics or ():
            self.broadcaster.topics.unsubscribe(topic, self)
        if self._drain is not None:
            self.connection.drain(self._drain, 0)  # with the code of the drain, also if it was cancelled
        self.connection.release()

    # Messages...

    @trio.lowlevel.enable_ki_protection
    async def _next(self) -> Message | None:
        """Return the next message for a handler; None after the last."""
        if self._busy_reader is not None and self._busy_reader.reads_ahead:
            await self._busy_reader.stop()
        if self._drain is not None:
            self._end_drained()
        connection = self.connection
        message = await connection.inbox.next(connection)
        # The client has left, and ``WhenLeft.FINISH`` applies: what was received before is decoded and handled.
        if message is None and self.is_wanted:
            message = await connection.inbox.next(connection, include_buffered=True)
        return message

    @property
    def is_wanted(self) -> bool:
        """Whether the next message is handled. With ``WhenLeft.FINISH`` also after the client has left."""
        if self._drain is not None:
            return False  # a graceful shutdown waits for running handlers, and starts none
        ending = self.connection.lifecycle.ending
        return ending is None or (ending.initiator == "client" and self._handlers.when_left is WhenLeft.FINISH)

    def _count_unhandled(self) -> None:
        if self._handlers.on_message is not None:  # without a handler, discarded messages are not counted
            self.connection.counters.count_unhandled(1)

    def _drop_ahead(self) -> None:
        """Drop the messages that were read ahead, and count them as unhandled."""
        if self._handlers.on_message is not None:
            self.connection.inbox.drop_ahead()

    def check_reader(self) -> None:
        """Start a task that reads ahead if the reader is busy. Called by the sweep of the app.

        The reader counts as busy if it runs one long handler, or many short ones in a row. If reading ahead has
        paused, check whether the client has left. With ``WhenLeft.FINISH`` this check is not needed.
        """
        reader = self._busy_reader
        if self._busy and not self.connection.inbox.waiting:
            if reader is None:
                reader = self._busy_reader = BusyReader(self.connection, self.app_run.nursery)
            reader.count(detect_disconnect=self._handlers.when_left is WhenLeft.CANCEL)
        elif reader is not None and reader.reads_ahead:
            reader.reset()
        else:
            self._busy_reader = None

    # The end of the client...

    def peer_gone(self) -> None:
        """Cancel handlers and tasks because nothing more is received, and count unhandled messages at once."""
        # Called in whatever task ends the stream, so it only cancels and waits for nothing. What is cancelled
        # ends in its own tasks, and the reader task waits for that before the disconnect handler.
        if not self.is_wanted:
            self._drop_ahead()
        if self._tasks is not None:
            self._tasks.cancel()
        if self._handlers.when_left is WhenLeft.CANCEL and self.handlers_running:
            for scope in (self._scopes or {}).values():
                scope.cancel()

    def _report(self, kind: str, function: object, failure: Exception) -> None:
        """Log the failure of a handler or a task, unless it is a ``ConnectionClosed`` of a closed stream.

        Args:
            kind, function: what has failed, such as ``"message handler"``, and the function.
            failure: the exception.
        """
        if not (self.connection.closed and tells_the_end(failure)):
            log_failure(kind, function, self, failure)

    def _fail(self, exception: BaseException, kind: str, function: object) -> None:
        """Report an exception of a handler, and close the stream. Call it in the except clause."""
        report = partial(self._report, kind, function)
        try:
            failure = failure_of(exception, report)
        finally:
            del exception  # as in failure_of
        report(failure)
        self.connection.close(INTERNAL_ERROR, "", cause=HANDLER_FAILED, exception=failure)

    def drain(self, drain: Drain) -> None:
        """Start no further handler, and close the stream after the running ones, or after the patience."""
        self._drain = drain
        # With running handlers, the last of them closes the stream (``_end_drained``), or at the latest a
        # deadline.
        if not self.connection.closed:
            self.connection.drain(drain, drain.patience if self.handlers_running else 0)

    def _end_drained(self) -> None:
        if self._drain is not None and not self._running:
            self.connection.drain(self._drain, 0)

    # For handlers...

    def subscribe(self, topic: Hashable) -> None:
        """Subscribe to a topic; see ``AsyncStream.subscribe``."""
        self.connection.check_open()
        if self.topics is None:
            self.topics = set()
        self.topics.add(topic)
        self.broadcaster.topics.subscribe(topic, self)

    def unsubscribe(self, topic: Hashable) -> None:
        """Unsubscribe from a topic; see ``AsyncStream.unsubscribe``."""
        # In this order, so that an unhashable topic changes nothing: set.discard accepts a set, dict.get does not.
        self.broadcaster.topics.unsubscribe(topic, self)
        if self.topics is not None:
            self.topics.discard(topic)

    def start_task(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        """Start a task that belongs to the client; see ``AsyncStream.start_soon``."""
        self.connection.check_open()
        if self._tasks is None:
            self._tasks = StreamTasks(self.app_run.nursery, self._task_failed)
        self._tasks.start_soon(async_fn, args)

    def _task_failed(self, function: object, failure: Exception) -> None:
        self._report("task", function, failure)
        self.connection.close(INTERNAL_ERROR, "", cause=TASK_FAILED, exception=failure)

    def close(self, code: int, reason: str) -> None:
        """Close the stream. A handler that calls this is not cancelled."""
        if not self.connection.closed and self._scopes:
            task = self._handler_around(trio.lowlevel.current_task())
            if task is not None:
                del self._scopes[task]
        self.connection.close(code, reason)

    def _handler_around(self, task: trio.lowlevel.Task | None) -> trio.lowlevel.Task | None:
        """Return the handler task of this stream that is the task or an ancestor of it; None without one."""
        while task is not None and task not in (self._scopes or ()):
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task


async def _do_nothing(*_: object) -> None: ...
