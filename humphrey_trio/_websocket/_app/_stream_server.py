"""The machinery of an ``AsyncWebsocketApp``: it takes streams out of a hook, and runs a session for each.

One sweep checks for handlers that run long and for silent clients. The sockets belong to the HTTP side. The
application closes streams, never sockets.

An application that an ``App`` runs has one run for each server of the ``App``: two if ``run`` and ``run_tls`` are
called. One of them takes the streams of all. Each session belongs to the run of its own server, and ends with it.
All of them are clients of one application.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn

import trio

from ..._failures import failure_of
from ..._server._clock import SweepClock
from ..._type_variables import StreamState
from .._causes import STATE_FAILED
from .._counters import Counters
from .._protocol._close_codes import INTERNAL_ERROR
from .._statistics import AppStatistics
from .._stream._stream import WebsocketStream, connection_of
from ._async_stream import AsyncStream
from ._broadcaster import Broadcaster
from ._failure_log import log_failure
from ._session import Session
from ._sessions import Sessions

if TYPE_CHECKING:
    from ..._http._address import Address
    from .._heartbeat_settings import Heartbeat
    from .._limits import StreamLimits
    from .._stream._connection import WebsocketConnection
    from ._handlers import Handlers
    from ._sessions import AppRun

logger = logging.getLogger("humphrey_trio.websocket")

# The number of heartbeat pings between two checkpoints.
_PING_TURN = 100

# Otherwise trio would format the name of the function for each task, which takes time and 100 bytes.
_TASK_NAME = "humphrey_trio: WebSocket"


class StreamServer(Generic[StreamState]):
    """The streams of one application, from the hook to the end of their sessions.

    Args:
        incoming: the receive end of the hook.
        handlers: the handlers of the application.
        new_state: returns the ``AsyncStream.state`` of a stream; None for no state.
        limits: the limits of each stream.
        max_connections: the maximum number of sessions; None for no limit.

    Attributes:
        broadcaster: sends to all clients.
    """

    __slots__ = (
        "_counters",
        "_handlers",
        "_heartbeat",
        "_incoming",
        "_limits",
        "_new_state",
        "_runs",
        "_sessions",
        "_taking",
        "broadcaster",
    )

    def __init__(
        self,
        incoming: trio.MemoryReceiveChannel[WebsocketStream],
        handlers: Handlers[AsyncStream[StreamState]],
        *,
        new_state: Callable[[WebsocketStream], StreamState] | None,
        limits: StreamLimits,
        max_connections: int | None,
    ) -> None:
        self._incoming = incoming
        self._handlers = handlers
        self._new_state = new_state
        self._limits = limits
        self._sessions: Sessions[Session[AsyncStream[StreamState]]] = Sessions(max_connections)
        self._counters = Counters()
        self._heartbeat: Heartbeat | None = None
        self._runs: dict[object, AppRun] = {}  # by the server whose streams they have
        self._taking = trio.Lock()  # held by the run that takes streams
        self.broadcaster = Broadcaster(self._sessions.by_id)

    @property
    def running(self) -> bool:
        """Whether the application has a run."""
        return bool(self._runs)

    def set_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Set the heartbeat of all clients."""
        self._heartbeat = heartbeat

    def statistics(self) -> AppStatistics:
        """Return the statistics of the application; see ``AsyncWebsocketApp.statistics``."""
        hook, counters, sessions = self._incoming.statistics(), self._counters, self._sessions.all()
        outboxes = [session.connection.outbox for session in sessions]
        return AppStatistics(
            connections=len(sessions),
            waiting_in_hook=hook.current_buffer_used,
            waiting_for_hook=hook.tasks_waiting_send,
            handlers_running=sum(session.handlers_running for session in sessions)
            + sum(len(run.disconnects) for run in self._runs.values()),
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
        run: AppRun,
        start_http: Callable[[trio.Nursery], Awaitable[tuple[Address, ...]]],
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        """Serve streams until cancelled, or until a graceful end is complete.

        Args:
            run: what the sessions of this run share.
            start_http: called in the nursery of the streams. It may start an HTTP server there, and returns its
                addresses.
            task_status: started with these addresses.
        """
        self._runs[run.server] = run
        try:
            await self._run(run, start_http, task_status)
        finally:
            del self._runs[run.server]
            self._leave_hook(run)

    async def _run(
        self,
        run: AppRun,
        start_http: Callable[[trio.Nursery], Awaitable[tuple[Address, ...]]],
        task_status: trio.TaskStatus[tuple[Address, ...]],
    ) -> None:
        # Two nurseries: the sweep must run until the last session has ended. A cancellation from outside reaches
        # both at once, and then the ``finally`` of the sweep limits the disconnect handlers, which are shielded.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep, run)
            async with trio.open_nursery() as serving:
                run.begin(serving)
                serving.start_soon(self._take_streams, run)
                if run.end.shutdown is not None:
                    serving.start_soon(self._end_gracefully, run, run.end.shutdown, nursery.cancel_scope)
                task_status.started(await start_http(serving))
            nursery.cancel_scope.cancel()  # only a graceful end leads here

    @trio.lowlevel.enable_ki_protection
    async def _take_streams(self, run: AppRun) -> None:
        """Take streams for all runs, while no other run does."""
        try:
            # Raised if the user has closed the hook. This does not end an open stream.
            with run.taking, suppress(trio.ClosedResourceError, trio.EndOfChannel):
                await self._take_all(run)
        finally:
            # This task is in the nursery of the run. So no other run puts a session into a nursery that is closed.
            run.taking.cancel()

    async def _take_all(self, run: AppRun) -> NoReturn:
        async with self._taking:
            while True:
                await self._sessions.wait_for_slot()
                self._take(await self._next_incoming(), run)

    async def _next_incoming(self) -> WebsocketStream:
        # Not only ``receive``: it executes a checkpoint even if a stream waits, and many may come at once.
        try:
            return self._incoming.receive_nowait()
        except trio.WouldBlock:
            return await self._incoming.receive()

    @trio.lowlevel.enable_ki_protection
    async def _end_gracefully(self, run: AppRun, shutdown: trio.Event, scope: trio.CancelScope) -> None:
        """Wait for the shutdown event. Then take no more streams, and close the open ones."""
        await shutdown.wait()
        scope.deadline = run.end.begin(run.timeouts)
        run.taking.cancel()
        self._leave_hook(run)
        await run.end.close_all(self._sessions.of(run))

    def _leave_hook(self, run: AppRun) -> None:
        """Close the streams that wait in the hook, unless another run takes them.

        If there can be no other run, close the hook as well. From now on, the routes answer 503.
        """
        if any(not other.taking.cancel_called for other in self._runs.values()):
            return
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                _turn_away(connection_of(self._incoming.receive_nowait()), run)
        if run.is_only_one:
            self._incoming.close()

    # One stream...

    def _take(self, stream: WebsocketStream, taker: AppRun) -> None:
        """Start the session of a stream, unless the stream is closed or its run ends.

        Args:
            stream: the stream.
            taker: the run that has taken it. The session is in this run if the server of the stream has none.
        """
        connection = connection_of(stream)
        run = self._run_of(connection, taker)
        if run.end.begun:
            _turn_away(connection, run)
        elif not connection.closed:
            connection.take(self._limits, run.timeouts, self._counters, run.end)
            try:
                state = None if self._new_state is None else self._new_state(stream)
            except BaseException as exc:
                report = partial(log_failure, "stream_state function", self._new_state, connection)
                failure = failure_of(exc, report)
                report(failure)
                self._refuse(connection, failure)
            else:
                self._begin_session(connection, state, run)

    def _run_of(self, connection: WebsocketConnection, taker: AppRun) -> AppRun:
        """Return the run of the server of a stream, if it has one that was not cancelled."""
        run = self._runs.get(connection.server, taker)
        return taker if run.taking.cancel_called and not run.end.begun else run

    def _refuse(self, connection: WebsocketConnection, failure: Exception) -> None:
        """Close a stream whose ``stream_state`` function raised."""
        connection.close(INTERNAL_ERROR, "", cause=STATE_FAILED, exception=failure)
        connection.release()

    def _begin_session(self, connection: WebsocketConnection, state: Any, run: AppRun) -> None:
        session: Session[AsyncStream[StreamState]] = Session(
            connection, self._handlers, self.broadcaster, self._sessions, run
        )
        connection.lifecycle.when_over(session.peer_gone)
        self._sessions.add(session)  # not in its task: the next wait_for_slot must count it
        run.nursery.start_soon(session.run, AsyncStream(session, state), name=_TASK_NAME)

    # All streams...

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self, run: AppRun) -> None:
        """Check readers and clients until the run is cancelled. Then limit the time of the disconnect handlers."""
        clock = SweepClock()
        try:
            while True:
                await clock.wait_for_sweep()
                await self._check_all(run)
                self._check_forgotten(run)
        finally:
            left = run.end.deadline - trio.current_time()
            run.disconnects.limit(min(run.timeouts.disconnect, left))

    async def _check_all(self, run: AppRun) -> None:
        pings = 0
        for session in self._sessions.of(run):
            if self._heartbeat is not None and session.connection.check_liveness(self._heartbeat):
                pings += 1
                if pings % _PING_TURN == 0:
                    await trio.lowlevel.checkpoint()
            session.check_reader()

    def _check_forgotten(self, run: AppRun) -> None:
        """Log a WARNING if an HTTP app has shut down, and nothing would end this run."""
        if run.use.take_forgotten() and run.end.shutdown is None and not self._sessions:
            logger.warning(
                "an HTTP app has shut down, and the AsyncWebsocketApp of its route still runs:"
                " call its with_shutdown with the same event, or link it with App.with_websocket_app"
            )


def _turn_away(connection: WebsocketConnection, run: AppRun) -> None:
    """Close a stream that gets no session."""
    if run.end.begun:
        connection.drain(run.end.drain, 0)
    connection.release()
