"""One client of an event-driven app, as handlers see it, and the sender for everybody else.

An ``AsyncStream`` holds what belongs to its client besides the connection: topics, tasks, state. Nobody here
runs handlers or waits for a client.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVarTuple

import trio

from .._state import StreamState
from ._codec import INTERNAL_ERROR, NORMAL, POLICY_VIOLATION
from ._connection import DRAINING
from ._errors import ConnectionClosed, tells_the_end
from ._policies import WhenFull, WhenLeft
from ._stream_tasks import StreamTasks

if TYPE_CHECKING:
    from .._http._address import Address
    from .._http._drain import Drain
    from .._http._request import Request
    from ._audience import Audience
    from ._close_record import CloseRecord
    from ._message import Message, Sendable
    from ._policies import FullPolicy
    from ._statistics import StreamStatistics
    from ._stream import WebsocketStream

logger = logging.getLogger("humphrey_trio.websocket")

_Args = TypeVarTuple("_Args")


class AsyncStream(Generic[StreamState]):
    """A connected client, as the handlers of an ``AsyncWebsocketApp`` get it.

    Attributes:
        state: what the app's ``stream_state`` made for this client; None without one.
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

    # What the app does with it...

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
        return record is None or (record.initiator == "client" and self._when_left is WhenLeft.FINISH)

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
        if not (self.closed and tells_the_end(exception)):
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
        if self._handlers_running and drain.patience:
            self._websocket._end_after(drain.patience, drain.code, drain.reason, DRAINING)
        else:
            self._end_drained()

    def _end_drained(self) -> None:
        if self._draining is not None and not self._running:
            self._websocket._close(self._draining.code, self._draining.reason, cause=DRAINING)

    @property
    def _tasks_running(self) -> int:
        return 0 if self._tasks is None else len(self._tasks)

    def _leave(self) -> None:
        """Belong to the app no more."""
        del self._audience.streams[self.id]
        for topic in self._topics or ():
            self._audience.topics.unsubscribe(topic, self._websocket)
        self._websocket._leave()

    async def _end_tasks(self) -> None:
        if self._tasks is not None:
            await self._tasks.end()

    # What a handler does with it...

    @property
    def id(self) -> int:
        """A number that no other stream of this process has."""
        return self._websocket.id

    @property
    def peer_addr(self) -> Address:
        """The client's end of the connection."""
        return self._websocket.peer_addr

    @property
    def request(self) -> Request:
        """The request that opened the stream."""
        return self._websocket.request

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on, or None."""
        return self._websocket.subprotocol

    @property
    def value(self) -> Any:
        """What the route's ``accept`` function let the client in with, or None."""
        return self._websocket.value

    @property
    def latency(self) -> float | None:
        """Seconds from the heartbeat's last ping to its answer; None before the first."""
        return self._websocket.latency

    @property
    def closed(self) -> bool:
        """Whether either side has closed the stream."""
        return self._websocket.closed

    @property
    def close_code(self) -> int | None:
        """The close code as in ``ConnectionClosed``; None while the stream is open."""
        return self._websocket.close_code

    @property
    def close_reason(self) -> str | None:
        """The text beside the close code; None while the stream is open."""
        return self._websocket.close_reason

    @property
    def close_record(self) -> CloseRecord | None:
        """Why it was closed, by whom, and what had happened by then; None while it is open."""
        return self._websocket.close_record

    @property
    def topics(self) -> frozenset[Hashable]:
        """What it has subscribed to."""
        return frozenset(self._topics or ())

    def statistics(self) -> StreamStatistics:
        """What the stream has done so far, and what waits."""
        return self._websocket.statistics()

    async def send(self, message: Sendable, *, compress: bool = True) -> None:
        """Send a message to this client; see ``WebsocketStream.send``.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        await self._websocket.send(message, compress=compress)

    async def broadcast(
        self, message: Sendable, *, compress: bool = True, when_full: FullPolicy = WhenFull.CLOSE
    ) -> None:
        """Send a message to every client of the app, this one too; see ``AsyncSender.broadcast``."""
        await self._audience.broadcast(message, compress, when_full)

    async def publish(
        self,
        topic: Hashable,
        message: Sendable,
        *,
        compress: bool = True,
        when_full: FullPolicy = WhenFull.CLOSE,
    ) -> None:
        """Send a message to the subscribers of a topic, this one too if it is one; see ``AsyncSender.publish``."""
        await self._audience.publish(topic, message, compress, when_full)

    def subscribe(self, topic: Hashable) -> None:
        """Get what is published on a topic, until ``unsubscribe`` or the end of the stream.

        Args:
            topic: anything hashable; it exists while it has subscribers.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        self._check_open()
        if self._topics is None:
            self._topics = set()
        self._topics.add(topic)
        self._audience.topics.subscribe(topic, self._websocket)

    def unsubscribe(self, topic: Hashable) -> None:
        """Get it no more, from now on; one that was not subscribed to is none the less well."""
        if self._topics is not None:
            self._topics.discard(topic)
        self._audience.topics.unsubscribe(topic, self._websocket)

    def start_soon(self, async_fn: Callable[[*_Args], Awaitable[object]], *args: *_Args) -> None:
        """Run ``await async_fn(*args)`` in a task that belongs to this client.

        It is cancelled when the stream has ended, by whichever side, and has ended itself before the disconnect
        handler runs. If it raises, that is logged, and the stream is closed with 1011.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        self._check_open()
        if self._tasks is None:
            self._tasks = StreamTasks(self._nursery, self._task_failed)
        self._tasks.start_soon(async_fn, args)

    def set_deadline(self, seconds: float, code: int = POLICY_VIOLATION, reason: str = "") -> None:
        """Close the stream after so many seconds; see ``WebsocketStream.set_deadline``."""
        self._websocket.set_deadline(seconds, code, reason)

    def _is_handling(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task is a handler of this stream, or a child of one."""
        while task is not None and task is not self._reader:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is not None

    def _check_open(self) -> None:
        if self._websocket.closed:
            raise self._websocket._closed_now()

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; see ``WebsocketStream.ping``."""
        await self._websocket.ping(payload)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream; see ``WebsocketStream.close``. The disconnect handler runs when it has ended."""
        self._closing = self._closing or self._is_handling(trio.lowlevel.current_task())
        await self._websocket.close(code, reason)

    def __repr__(self) -> str:
        return f"<AsyncStream of {self._websocket!r}>"


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


class AsyncSender:
    """Sends to the clients of an app from anywhere in its trio run: before, during and after ``run``.

    From another thread: ``trio.from_thread.run(sender.broadcast, message)``, with ``trio_token=`` if the
    thread was not started by trio.
    """

    __slots__ = ("_audience",)

    def __init__(self, audience: Audience) -> None:
        self._audience = audience

    async def send(self, stream_id: int, message: Sendable, *, compress: bool = True) -> bool:
        """Send a message to one client; see ``WebsocketStream.send``.

        Returns:
            False if no open stream of the app has that id.
        """
        stream = self._audience.streams.get(stream_id)
        if stream is not None:
            with suppress(ConnectionClosed):
                await stream.send(message, compress=compress)
                return True
        await trio.lowlevel.checkpoint()
        return False

    async def broadcast(
        self, message: Sendable, *, compress: bool = True, when_full: FullPolicy = WhenFull.CLOSE
    ) -> None:
        """Send a message to every client that is connected when it begins.

        It is encoded once, and compressed once for all clients that can share that; it waits for no client.
        Broadcasts and publications of one app go out one after the other, so that all clients see the same
        order; a cancelled one has reached some. Other tasks run at every hundredth client.

        Args:
            message: what to send.
            compress: False sends it uncompressed to everybody.
            when_full: what happens to a client whose outbox has no room for it: a ``WhenFull``, or a
                ``KeepLatest`` with a key. It is closed with 1013 by default.

        Raises:
            TypeError: this cannot be sent, or ``when_full`` is no policy.
        """
        await self._audience.broadcast(message, compress, when_full)

    async def publish(
        self,
        topic: Hashable,
        message: Sendable,
        *,
        compress: bool = True,
        when_full: FullPolicy = WhenFull.CLOSE,
    ) -> None:
        """Send a message to those who are subscribed to a topic when it begins; as ``broadcast`` otherwise.

        Args:
            topic: what they have subscribed to; without subscribers nothing happens.
            message, compress, when_full: as for ``broadcast``.

        Raises:
            TypeError: this cannot be sent, or ``when_full`` is no policy.
        """
        await self._audience.publish(topic, message, compress, when_full)
