"""One client of an event-driven app: who reads from it, what runs for it, and how all of that ends.

Nobody here waits for the client, and no handler is run here; whoever runs one notes it down.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic

import trio

from .._state import StreamState
from ._codec import INTERNAL_ERROR
from ._errors import tells_the_end
from ._policies import WhenLeft
from ._stream_tasks import StreamTasks

if TYPE_CHECKING:
    from .._http._drain import Drain
    from ._audience import Audience
    from ._message import Message
    from ._stream import WebsocketStream

logger = logging.getLogger("humphrey_trio.websocket")

# A reader that was busy at so many looks of the app in a row gets help.
_NEGLECT = 2


class Client(Generic[StreamState]):
    """A client, as its app drives it; ``AsyncStream`` is what handlers get of it.

    Attributes:
        state: what the app's ``stream_state`` made for it.
    """

    __slots__ = (
        "_apart",
        "_audience",
        "_busy",
        "_closer",
        "_draining",
        "_helper",
        "_neglected",
        "_nursery",
        "_reader",
        "_running",
        "_scope",
        "_tasks",
        "_topics",
        "_websocket",
        "_when_left",
        "state",
    )

    def __init__(
        self,
        audience: Audience,
        websocket: WebsocketStream,
        state: StreamState,
        nursery: trio.Nursery,
        when_left: WhenLeft,
    ) -> None:
        self._audience = audience
        self._websocket = websocket
        self.state = state
        self._nursery = nursery
        self._when_left = when_left
        self._reader: trio.lowlevel.Task | None = None  # in which the handlers run, or tasks of theirs
        self._scope: trio.CancelScope | None = None  # around the handlers
        self._closer: trio.lowlevel.Task | None = None  # of the handler that closed it, which then may finish
        self._busy = False  # whether the reader task runs a handler, or waits until one may begin
        self._neglected = 0  # looks of the app in a row at which it was busy and nobody read
        self._running = 0  # handlers that have tasks of their own
        self._apart: dict[trio.lowlevel.Task, trio.CancelScope] | None = None  # those tasks, and what cancels them
        self._draining: Drain | None = None  # how it is closed as soon as its handlers have ended
        self._helper: _Helper | None = None
        self._tasks: StreamTasks | None = None
        self._topics: set[Hashable] | None = None

    @trio.lowlevel.enable_ki_protection
    async def _next(self) -> Message | None:
        """The next message for a handler; None when there will be none."""
        await self._stop_reading_ahead()
        if self._draining is not None:
            self._end_drained()
        ahead = self._websocket._ahead
        if ahead:
            return ahead.popleft()
        message = await self._websocket._next()
        if message is None and self._is_wanted:
            message = await self._websocket._next_left()
        return message

    async def _stop_reading_ahead(self) -> None:
        """End the helper if there is one, whatever is cancelled: what it still reads has to be counted."""
        if self._helper is not None:
            with trio.CancelScope(shield=True):
                await self._helper.stop()
            self._helper = None

    def _look_after(self) -> None:
        """Have somebody read ahead while the reader is busy, be it with one handler or with many in a row.

        Where nobody reads even so, because enough was read ahead, notice that the client has left; one whose
        handlers may finish is not missed.
        """
        if not self._busy or self._websocket._filling:
            self._neglected = 0
            return
        self._neglected += 1
        if self._neglected >= _NEGLECT and self._helper is None:
            self._helper = _Helper(self._websocket)
            self._nursery.start_soon(self._helper.run)
        if self._neglected > _NEGLECT and self._when_left is WhenLeft.CANCEL:
            self._websocket._look_for_peer()

    @property
    def _is_wanted(self) -> bool:
        """Whether its messages still go to the handler: those of a client that has left may have to."""
        if self._draining is not None:
            return False  # an app that ends lets handlers finish, and begins none
        record = self._websocket._closed
        return record is None or (record.initiator == "client" and self._when_left is WhenLeft.FINISH)

    @property
    def _handlers_running(self) -> int:
        return self._running or int(self._busy)

    def _client_left(self) -> None:
        if self._tasks is not None:
            self._tasks.cancel()
        if self._when_left is WhenLeft.FINISH:
            return
        for task, scope in (self._apart or {}).items():
            if task is not self._closer:
                scope.cancel()
        # With tasks of their own there, the reader waits for those, and then comes to the end by itself.
        if self._busy and not self._running and self._closer is not self._reader and self._scope is not None:
            self._scope.cancel()

    def _report(self, exception: Exception) -> None:
        """Log what a handler or a task raised, unless it only says that the stream is closed."""
        if not (self._websocket.closed and tells_the_end(exception)):
            logger.error("a handler or task of %r failed", self, exc_info=exception)

    def _fail(self, exception: Exception, cause: str) -> None:
        """A handler or a task of this client has failed."""
        self._report(exception)
        self._websocket._close(INTERNAL_ERROR, "", cause=cause, exception=exception)

    def _task_failed(self, exception: Exception) -> None:
        self._fail(exception, "a task of it failed")

    def _drain(self, drain: Drain) -> None:
        """The app ends: close, behind what the handlers that run still send."""
        self._draining = drain
        if not self._websocket.closed:
            self._websocket._drain_after(drain.patience if self._handlers_running else 0, drain)

    def _end_drained(self) -> None:
        if self._draining is not None and not self._running:
            self._websocket._drain_after(0, self._draining)

    @property
    def _tasks_running(self) -> int:
        return 0 if self._tasks is None else len(self._tasks)

    def _leave(self) -> None:
        """Get no more broadcasts; a stream that is still open is closed."""
        del self._audience.streams[self._websocket.id]
        for topic in self._topics or ():
            self._audience.topics.unsubscribe(topic, self._websocket)
        if self._draining is not None:
            self._websocket._drain_after(0, self._draining)  # even if it was cancelled at last
        self._websocket._leave()

    async def _end_tasks(self) -> None:
        if self._tasks is not None:
            await self._tasks.end()
            self._tasks = None  # they refer to this

    def _handler_around(self, task: trio.lowlevel.Task | None) -> trio.lowlevel.Task | None:
        """The task of the handler of this stream that a task is, or is a child of; None if it is neither."""
        while task is not None and task is not self._reader and task not in (self._apart or ()):
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task

    def _check_open(self) -> None:
        if self._websocket.closed:
            raise self._websocket._closed_now()


class _Helper:
    """Reads ahead on one stream while a handler is busy, so that pings are answered and a leave is noticed.

    Two tasks never read at once: the reader stops its helper before it goes on itself.
    """

    __slots__ = ("_done", "_scope", "_websocket")

    def __init__(self, websocket: WebsocketStream) -> None:
        self._websocket = websocket
        self._scope = trio.CancelScope()
        self._done = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        try:
            with self._scope:
                await self._websocket._read_ahead()
        finally:
            self._done.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._done.wait()
