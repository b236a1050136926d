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


class Client(Generic[StreamState]):
    """A client, as its app drives it; ``AsyncStream`` is what handlers get of it.

    Attributes:
        state: what the app's ``stream_state`` made for it.
    """

    __slots__ = (
        "_audience",
        "_busy_since",
        "_closing",
        "_draining",
        "_helper",
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
        self._closing = False  # by a handler of its own, which then may finish
        self._busy_since = 0  # the sweep in whose time the reader task left off reading; 0 while it reads
        self._running = 0  # handlers that have tasks of their own
        self._draining: Drain | None = None  # how it is closed as soon as its handlers have ended
        self._helper: _Helper | None = None
        self._tasks: StreamTasks | None = None
        self._topics: set[Hashable] | None = None

    @trio.lowlevel.enable_ki_protection
    async def _next(self) -> Message | None:
        """The next message for a handler; None when there will be none."""
        if self._helper is not None:
            await self._helper.stop()
            self._helper = None
        if self._draining is not None:
            self._end_drained()
        ahead = self._websocket._ahead
        return ahead.popleft() if ahead else await self._websocket._next()

    def _get_help(self) -> None:
        if self._helper is None:
            self._helper = _Helper(self._websocket)
            self._nursery.start_soon(self._helper.run)

    def _look_for_client(self) -> None:
        """Notice that a client has left that nobody reads from; one whose handlers may finish is not missed."""
        if self._when_left is WhenLeft.CANCEL:
            self._websocket._look_for_peer()

    @property
    def _is_wanted(self) -> bool:
        """Whether its messages still go to the handler: those of a client that has left may have to."""
        record = self._websocket._closed
        if record is None:
            return self._draining is None  # an app that ends lets handlers finish, and begins none
        return record.initiator == "client" and self._when_left is WhenLeft.FINISH

    @property
    def _handlers_running(self) -> int:
        return self._running or bool(self._busy_since)

    def _client_left(self) -> None:
        if self._tasks is not None:
            self._tasks.cancel()
        if self._closing or self._when_left is WhenLeft.FINISH:
            return
        if self._handlers_running and self._scope is not None:
            self._scope.cancel()

    def _report(self, exception: Exception) -> None:
        """Log what a handler or a task raised, unless it only says that the stream is closed."""
        if not (self._websocket.closed and tells_the_end(exception)):
            logger.error("a handler of %r failed", self, exc_info=exception)

    def _fail(self, exception: Exception, cause: str) -> None:
        """A handler or a task of this client has failed."""
        self._report(exception)
        self._websocket._close(INTERNAL_ERROR, "", cause=cause, exception=exception)

    def _task_failed(self, exception: Exception) -> None:
        self._fail(exception, "a task of it failed")

    def _drain(self, drain: Drain) -> None:
        """The app ends: close, behind what the handlers that run still send."""
        if self._websocket.closed:
            return
        self._draining = drain
        self._websocket._drain_after(drain.patience if self._handlers_running else 0, drain)

    def _end_drained(self) -> None:
        if self._draining is not None and not self._running:
            self._websocket._drain_after(0, self._draining)

    @property
    def _tasks_running(self) -> int:
        return 0 if self._tasks is None else len(self._tasks)

    def _leave(self) -> None:
        """Belong to the app no more."""
        del self._audience.streams[self._websocket.id]
        for topic in self._topics or ():
            self._audience.topics.unsubscribe(topic, self._websocket)
        self._websocket._leave()

    async def _end_tasks(self) -> None:
        if self._tasks is not None:
            await self._tasks.end()

    def _is_handling(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task is a handler of this stream, or a child of one."""
        while task is not None and task is not self._reader:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is not None

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
