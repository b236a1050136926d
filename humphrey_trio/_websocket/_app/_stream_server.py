"""The machinery of an ``AsyncWebsocketApp``: it takes streams out of a hook, and runs a session for each.

One sweep checks for handlers that run long and for silent clients. The sockets belong to the HTTP side. The
application closes streams, never sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import trio

from ..._failures import failure_of
from ..._server._clock import SweepClock
from ..._type_variables import StreamState
from .._counters import Counters
from .._protocol._close_codes import INTERNAL_ERROR
from .._statistics import AppStatistics
from .._stream._graceful_end import AppEnd
from .._stream._stream import WebsocketStream, connection_of
from ._async_stream import AsyncStream
from ._broadcaster import Broadcaster
from ._session import Session
from ._sessions import Sessions

if TYPE_CHECKING:
    from ..._http._address import Address
    from ..._http._limits import Timeouts
    from .._heartbeat_settings import Heartbeat
    from .._limits import StreamLimits
    from .._stream._connection import WebsocketConnection
    from ._handlers import Handlers

logger = logging.getLogger("humphrey_trio.websocket")

# The number of heartbeat pings between two checkpoints.
_PING_TURN = 100


class StreamServer(Generic[StreamState]):
    """The streams of one application, from the hook to the end of their sessions.

    Args:
        incoming: the receive end of the hook. It is closed at the end.
        handlers: the handlers of the application.
        new_state: returns the ``AsyncStream.state`` of a stream; None for no state.
        limits: the limits of each stream.
        timeouts: the timeouts of clients and of disconnect handlers.
        max_connections: the maximum number of sessions; None for no limit.

    Attributes:
        broadcaster: sends to all clients.
        end: the graceful end of the application.
    """

    __slots__ = (
        "_counters",
        "_handlers",
        "_heartbeat",
        "_incoming",
        "_limits",
        "_new_state",
        "_sessions",
        "_timeouts",
        "broadcaster",
        "end",
    )

    def __init__(
        self,
        incoming: trio.MemoryReceiveChannel[WebsocketStream],
        handlers: Handlers[AsyncStream[StreamState]],
        *,
        new_state: Callable[[WebsocketStream], StreamState] | None,
        limits: StreamLimits,
        timeouts: Timeouts,
        max_connections: int | None,
    ) -> None:
        self._incoming = incoming
        self._handlers = handlers
        self._new_state = new_state
        self._limits = limits
        self._timeouts = timeouts
        self._sessions: Sessions[Session[AsyncStream[StreamState]]] = Sessions(max_connections)
        self._counters = Counters()
        self._heartbeat: Heartbeat | None = None
        self.broadcaster = Broadcaster(self._sessions.by_id)
        self.end = AppEnd()

    def set_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Set the heartbeat of all clients."""
        self._heartbeat = heartbeat

    def set_end(self, end: AppEnd) -> None:
        """Set the graceful end, before ``run``."""
        self.end = end

    def statistics(self) -> AppStatistics:
        """Return the statistics of the application; see ``AsyncWebsocketApp.statistics``."""
        hook, counters, sessions = self._incoming.statistics(), self._counters, self._sessions.all()
        outboxes = [session.connection.outbox for session in sessions]
        return AppStatistics(
            connections=len(sessions),
            waiting_in_hook=hook.current_buffer_used,
            waiting_for_hook=hook.tasks_waiting_send,
            handlers_running=sum(session.handlers_running for session in sessions)
            + len(self._sessions.disconnects),
            tasks_running=sum(session.tasks_running for session in sessions),
            queued_messages=sum(outbox.queued_messages for outbox in outboxes),
            queued_bytes=sum(outbox.queued_bytes for outbox in outboxes),
            read_ahead=sum(session.connection.inbox.read_ahead_count for session in sessions),
            subscribers=self.broadcaster.topics.counts(),
            dropped=counters.dropped,
            unhandled=counters.unhandled,
            slow_closes=counters.slow_closes,
            send_waits=counters.waits,
            read_pauses=counters.pauses,
        )

    async def run(
        self,
        start_http: Callable[[trio.Nursery], Awaitable[tuple[Address, ...]]],
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        """Serve streams until cancelled, or until a graceful end is complete.

        Args:
            start_http: called in the nursery of the streams. It may start an HTTP server there, and returns its
                addresses.
            task_status: started with these addresses.
        """
        # Two nurseries: the sweep must run until the last session has ended. A cancellation from outside reaches
        # both at once, and then the ``finally`` of the sweep limits the disconnect handlers, which are shielded.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            async with trio.open_nursery() as serving:
                serving.start_soon(self._take_streams, serving)
                if self.end.shutdown is not None:
                    serving.start_soon(self._end_gracefully, self.end.shutdown, nursery.cancel_scope)
                task_status.started(await start_http(serving))
            nursery.cancel_scope.cancel()  # only a graceful end leads here

    @trio.lowlevel.enable_ki_protection
    async def _take_streams(self, nursery: trio.Nursery) -> None:
        # Raised after close_hook, or after the user has closed the hook. Neither ends an open stream.
        with suppress(trio.ClosedResourceError, trio.EndOfChannel):
            while True:
                await self._sessions.wait_for_slot()
                self._take(await self._next_incoming(), nursery)

    async def _next_incoming(self) -> WebsocketStream:
        # Not only ``receive``: it executes a checkpoint even if a stream waits, and many may come at once.
        try:
            return self._incoming.receive_nowait()
        except trio.WouldBlock:
            return await self._incoming.receive()

    @trio.lowlevel.enable_ki_protection
    async def _end_gracefully(self, shutdown: trio.Event, scope: trio.CancelScope) -> None:
        """Wait for the shutdown event. Then refuse new streams, and close the open ones."""
        await shutdown.wait()
        scope.deadline = self.end.begin(self._timeouts)
        self.close_hook()
        await self.end.close_all(self._sessions.all())

    def close_hook(self) -> None:
        """Close the streams that wait in the hook. From now on, the routes answer 503."""
        try:
            while True:
                self._turn_away(connection_of(self._incoming.receive_nowait()))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            self._incoming.close()

    def _turn_away(self, connection: WebsocketConnection) -> None:
        if self.end.begun:
            connection.drain(self.end.drain, 0)
        connection.release()

    # One stream...

    def _take(self, stream: WebsocketStream, nursery: trio.Nursery) -> None:
        """Start the session of a stream, unless the stream is closed or the app ends."""
        connection = connection_of(stream)
        if self.end.begun:
            self._turn_away(connection)
        elif not connection.closed:
            connection.take(self._limits, self._timeouts, self._counters, self.end)
            try:
                state = None if self._new_state is None else self._new_state(stream)
            except BaseException as exc:
                self._refuse(connection, failure_of(exc, partial(_log_failed_state, connection)))
            else:
                self._begin_session(connection, state, nursery)

    def _refuse(self, connection: WebsocketConnection, failure: Exception) -> None:
        """Close a stream whose ``stream_state`` function raised."""
        _log_failed_state(connection, failure)
        connection.close(INTERNAL_ERROR, "", cause="its stream_state failed", exception=failure)
        connection.release()

    def _begin_session(self, connection: WebsocketConnection, state: Any, nursery: trio.Nursery) -> None:
        session: Session[AsyncStream[StreamState]] = Session(
            connection, self._handlers, self.broadcaster, self._sessions, nursery
        )
        connection.lifecycle.when_over(session.peer_gone)
        self._sessions.add(session)  # not in its task: the next wait_for_slot must count it
        nursery.start_soon(session.run, AsyncStream(session, state))

    # All streams...

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        """Check readers and clients until the app is cancelled. Then limit the time of the disconnect handlers."""
        clock = SweepClock()
        try:
            while True:
                await clock.wait_for_sweep()
                await self._check_all()
        finally:
            left = self.end.deadline - trio.current_time()
            self._sessions.disconnects.limit(min(self._timeouts.disconnect, left))

    async def _check_all(self) -> None:
        pings = 0
        for session in self._sessions.all():
            if self._heartbeat is not None and session.connection.check_liveness(self._heartbeat):
                pings += 1
                if pings % _PING_TURN == 0:
                    await trio.lowlevel.checkpoint()
            session.check_reader()


def _log_failed_state(connection: WebsocketConnection, failure: Exception) -> None:
    logger.error("stream_state failed for %r", connection, exc_info=failure)
