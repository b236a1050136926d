"""The event-driven WebSocket application: it takes streams out of its hook, and runs a session for each.

One sweep checks handlers that take long and clients that are silent. The sockets belong to the HTTP side; the
application never closes one, it only closes streams.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, cast

import trio

from ..._app._app import App
from ..._failures import failure_of
from ..._http._address import Address
from ..._http._drain import Drain
from ..._http._limits import Timeouts
from ..._runs import current_run
from ..._server._clock import SweepClock
from ..._server._listen import open_listeners
from ..._server._server import check_shutdown
from ..._state import NewState, NewStreamState, State, StreamState
from .._counters import Counters
from .._errors import LinkError
from .._heartbeat import Heartbeat
from .._limits import StreamLimits
from .._message import Message
from .._policies import WhenLeft
from .._protocol._close_codes import INTERNAL_ERROR
from .._statistics import AppStatistics
from .._stream._graceful_end import AppEnd
from .._stream._routes import async_websocket_handler, forget_hook_run, note_hook_run
from .._stream._stream import WebsocketStream, connection_of
from ._async_stream import AsyncSender, AsyncStream
from ._broadcaster import Broadcaster
from ._handlers import Handlers
from ._session import Session
from ._sessions import Sessions

if TYPE_CHECKING:
    from typing import Unpack

    from .._compression import Deflate
    from .._limits import StreamOptions
    from .._stream._admission import AcceptHandler
    from .._stream._connection import WebsocketConnection

logger = logging.getLogger("humphrey_trio.websocket")

#: What ``with_connect_handler`` takes: ``async (stream, state)``.
ConnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: What ``with_disconnect_handler`` takes: ``async (stream, state)``.
DisconnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: What ``with_message_handler`` takes: ``async (stream, message, state)``.
MessageHandler: TypeAlias = Callable[[AsyncStream[StreamState], Message, State], Awaitable[object]]

_HOOK_SIZE = 64
_DEFAULT_ADDRESS = "0.0.0.0:80"  # Humphrey's
# What is decided before a stream goes into a hook.
_OF_ROUTES = ("origins", "subprotocols", "deflate", "accept")
# After so many pings of a heartbeat the other tasks run.
_PING_TURN = 100


class AsyncWebsocketApp(Generic[State, StreamState]):
    """An event-driven WebSocket application.

    ``AsyncWebsocketApp()`` is linked internally: it runs an HTTP app of its own, whose only route is a
    WebSocket at every path. ``AsyncWebsocketApp.new_unlinked()`` gets its streams from other apps, through its
    connect hook; that nobody links it is no error.

    For one stream, the connect handler ends before the first message handler begins, messages are handled one
    at a time and in order, and the disconnect handler runs once and last, if the connect handler began. A
    stream gets broadcasts from before its connect handler to before its disconnect handler. A handler that
    raises is logged, and its stream closed with 1011; a ``trio.Cancelled`` of another task counts as that.

    Args:
        state: what every handler gets as its last argument.
        stream_state: makes ``stream.state``, called with each new ``WebsocketStream``.
        max_connections: how many streams are served at once, each until its disconnect handler has returned;
            those beyond it wait in the hook. None for no bound.
        concurrency: how many message handlers of one stream may run at once. With more than one they begin in
            the order of the messages, and end in any.
        when_left: what happens to the handlers of a client that leaves while they run.
        timeouts: how long clients and disconnect handlers may take.
        origins, subprotocols, deflate, accept: who may connect and with what, as for
            ``async_websocket_handler``; an unlinked app leaves that to the routes.
        **options: bounds of each stream, as in ``StreamLimits``.

    Raises:
        ValueError, TypeError: an option is invalid.
    """

    def __init__(
        self,
        state: State = None,  # type: ignore[assignment]  # the default of State itself
        *,
        stream_state: Callable[[WebsocketStream], StreamState] | None = None,
        max_connections: int | None = None,
        concurrency: int = 1,
        when_left: WhenLeft = WhenLeft.CANCEL,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        origins: str | Collection[str] | None = None,
        subprotocols: Collection[str] = (),
        deflate: Deflate | None = None,
        accept: AcceptHandler[State] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        if max_connections is not None and max_connections < 1:
            raise ValueError("max_connections must be at least 1, or None for no bound")
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1: that is one message after the other")
        self._handlers: Handlers[AsyncStream[StreamState]] = Handlers(state, concurrency, WhenLeft(when_left))
        self._stream_state = stream_state
        self._timeouts = timeouts
        self._limits = StreamLimits(**options)
        self._hook, self._incoming = trio.open_memory_channel[WebsocketStream](_HOOK_SIZE)
        self._address: str | None = _DEFAULT_ADDRESS
        self._route = async_websocket_handler(
            self._hook, origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept
        )
        self._sessions: Sessions[Session[AsyncStream[StreamState]]] = Sessions(max_connections)
        self._broadcaster = Broadcaster(self._sessions.by_id)
        self._counters = Counters()
        self._heartbeat: Heartbeat | None = None
        self._end = AppEnd()
        self._ran = False

    @classmethod
    def new_unlinked(
        cls,
        state: NewState = None,  # type: ignore[assignment]  # as above
        *,
        stream_state: Callable[[WebsocketStream], NewStreamState] | None = None,
        max_connections: int | None = None,
        concurrency: int = 1,
        when_left: WhenLeft = WhenLeft.CANCEL,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        **options: Unpack[StreamOptions],
    ) -> AsyncWebsocketApp[NewState, NewStreamState]:
        """An app that other apps feed through ``connect_hook``; arguments as for the class.

        Raises:
            LinkError: ``origins``, ``subprotocols``, ``deflate`` or ``accept`` is given, which the routes have.
            ValueError, TypeError: an option is invalid.
        """
        if misplaced := [name for name in options if name in _OF_ROUTES]:
            raise LinkError(f"{misplaced[0]}= is for the routes: give it to async_websocket_handler(hook, ...)")
        make = cast("type[AsyncWebsocketApp[Any, Any]]", cls)
        app = make(
            state,
            stream_state=stream_state,
            max_connections=max_connections,
            concurrency=concurrency,
            when_left=when_left,
            timeouts=timeouts,
            **options,
        )
        app._address = None
        return app

    @property
    def state(self) -> State:
        """What every handler gets."""
        return cast("State", self._handlers.state)

    # Building...

    def with_connect_handler(self, handler: ConnectHandler[StreamState, State]) -> Self:
        """Run ``await handler(stream, state)`` for each new stream, before its first message."""
        self._handlers.set_connect(handler)
        return self

    def with_message_handler(self, handler: MessageHandler[StreamState, State]) -> Self:
        """Run ``await handler(stream, message, state)`` for each message; without one they are read away."""
        self._handlers.set_message(handler)
        return self

    def with_disconnect_handler(self, handler: DisconnectHandler[StreamState, State]) -> Self:
        """Run ``await handler(stream, state)`` when a stream has ended; it has its ``close_record`` by then."""
        self._handlers.set_disconnect(handler)
        return self

    def with_heartbeat(self, heartbeat: Heartbeat) -> Self:
        """Ping silent clients, and cut off those that do not answer; without it nobody is.

        The disconnect handler of a client that was cut off finds 1006 and the cause.

        Raises:
            TypeError: this is no ``Heartbeat``.
        """
        if not isinstance(heartbeat, Heartbeat):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"with_heartbeat takes a Heartbeat(interval, timeout), not {type(heartbeat).__name__}")
        self._heartbeat = heartbeat
        return self

    def with_shutdown(self, event: trio.Event, drain: Drain = Drain()) -> Self:  # noqa: B008  (frozen)
        """End gracefully when the event is set; then ``run`` returns.

        New upgrades get a 503 with Retry-After. The streams are closed, spread over ``drain.spread`` seconds:
        what was sent before goes out first, and a handler that runs has ``drain.patience`` seconds to end
        before. The disconnect handlers run. What is left ``Timeouts.drain`` seconds later is cancelled,
        whatever its client does.

        Args:
            event: set by whoever wants the end; of a linked pair, both apps get the same.
            drain: how the streams are closed.

        Raises:
            ValueError: the drain's spread is too long for ``Timeouts.drain``.
            TypeError: the event is none of trio's.
        """
        check_shutdown(event, drain, self._timeouts)
        self._end = AppEnd(event, drain)
        return self

    def with_address(self, address: str) -> Self:
        """Listen there, instead of on ``0.0.0.0:80``; the form is that of ``App.run``.

        Raises:
            LinkError: the app is unlinked.
            ValueError: this is no address.
        """
        if self._address is None:
            raise LinkError("an unlinked app does not listen: give the address to the HTTP app's run")
        self._address = str(Address.parse(address))
        return self

    def connect_hook(self) -> trio.MemorySendChannel[WebsocketStream]:
        """The send end of the channel that feeds this app, for ``async_websocket_handler``.

        It holds 64 streams, may be used on any number of routes and apps, and is closed by nobody: when this
        app ends, sending on it raises ``trio.BrokenResourceError``.

        Raises:
            LinkError: the app is linked internally.
        """
        if self._address is not None:
            raise LinkError("this app is linked internally: make it with AsyncWebsocketApp.new_unlinked()")
        return self._hook

    def sender(self) -> AsyncSender:
        """Something to send to this app's clients with, from anywhere; see ``AsyncSender``."""
        return AsyncSender(self._broadcaster)

    def statistics(self) -> AppStatistics:
        """What the app does at this moment; it looks at every stream."""
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
            subscribers=self._broadcaster.topics.counts(),
            dropped=counters.dropped,
            unhandled=counters.unhandled,
            slow_closes=counters.slow_closes,
            send_waits=counters.waits,
            read_pauses=counters.pauses,
        )

    # Running...

    async def run(self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the streams that come, until cancelled, or until ``with_shutdown`` ends it. An app runs once.

        Cancelled, it closes every stream with 1001, those that still wait in the hook too, and gives the
        disconnect handlers ``Timeouts.disconnect`` seconds.

        Args:
            task_status: for ``nursery.start``: the bound addresses of an internally linked app, or ().

        Raises:
            RuntimeError: the app has run before.
            ValueError, OSError: as ``App.run``, if it is linked internally.
        """
        if self._ran:
            raise RuntimeError("a WebSocket app runs once: its hook is closed when it has ended")
        self._ran = True
        self._broadcaster.bind(current_run())
        note_hook_run(self._hook)
        try:
            # Outside of the nursery, which would wrap what goes wrong in a group.
            listeners = [] if self._address is None else await open_listeners([self._address])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                async with trio.open_nursery() as serving:
                    serving.start_soon(self._take_streams, serving)
                    if self._end.shutdown is not None:
                        serving.start_soon(self._end_gracefully, self._end.shutdown, nursery.cancel_scope)
                    if self._address is None:
                        task_status.started(())
                    else:
                        task_status.started(await serving.start(self._own_http_app()._server().run, listeners))
                nursery.cancel_scope.cancel()  # only a graceful end leads here
        finally:
            self._close_hook()
            forget_hook_run(self._hook)

    def _own_http_app(self) -> App[State]:
        app = App(self.state, timeouts=self._timeouts).with_websocket_route("/*", self._route)
        end = self._end
        return app if end.shutdown is None else app.with_shutdown(end.shutdown, end.drain)

    @trio.lowlevel.enable_ki_protection
    async def _take_streams(self, nursery: trio.Nursery) -> None:
        # The end of taking; or a user has closed the hook, which ends no stream.
        with suppress(trio.ClosedResourceError, trio.EndOfChannel):
            while True:
                await self._sessions.wait_for_slot()
                self._take(await self._next_incoming(), nursery)

    async def _next_incoming(self) -> WebsocketStream:
        try:
            return self._incoming.receive_nowait()
        except trio.WouldBlock:
            return await self._incoming.receive()

    @trio.lowlevel.enable_ki_protection
    async def _end_gracefully(self, shutdown: trio.Event, scope: trio.CancelScope) -> None:
        """When it is time, take no more streams, and close those that are there; the rest is their own."""
        await shutdown.wait()
        scope.deadline = self._end.begin(self._timeouts)
        self._close_hook()
        await self._end.close_all(self._sessions.all())

    def _close_hook(self) -> None:
        """Close the streams that no app took; from now on the routes answer 503."""
        try:
            while True:
                self._turn_away(connection_of(self._incoming.receive_nowait()))
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            self._incoming.close()

    def _turn_away(self, connection: WebsocketConnection) -> None:
        if self._end.begun:
            connection.drain(self._end.drain, 0)
        connection.leave()

    # One stream...

    def _take(self, stream: WebsocketStream, nursery: trio.Nursery) -> None:
        """Begin the session of a stream, unless it has ended or the app ends."""
        connection = connection_of(stream)
        if self._end.begun:
            self._turn_away(connection)
        elif not connection.closed:
            connection.take(self._limits, self._timeouts, self._counters, self._end)
            try:
                state = None if self._stream_state is None else self._stream_state(stream)
            except BaseException as exc:
                self._refuse(connection, failure_of(exc, partial(_log_failed_state, connection)))
            else:
                self._begin_session(connection, state, nursery)

    def _refuse(self, connection: WebsocketConnection, failure: Exception) -> None:
        """Close a stream whose ``stream_state`` has failed."""
        _log_failed_state(connection, failure)
        connection.close(INTERNAL_ERROR, "", cause="its stream_state failed", exception=failure)
        connection.leave()

    def _begin_session(self, connection: WebsocketConnection, state: Any, nursery: trio.Nursery) -> None:
        session: Session[AsyncStream[StreamState]] = Session(
            connection, self._handlers, self._broadcaster, self._sessions, nursery
        )
        connection.lifecycle.when_over(session.peer_gone)
        self._sessions.add(session)  # before its task runs: the next look at the slots has to see it
        nursery.start_soon(session.run, AsyncStream(session, state))

    # All streams...

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        """Check busy readers and silent clients until the app is cancelled; then bound the disconnect handlers."""
        clock = SweepClock()
        try:
            while True:
                await clock.wait_for_sweep()
                await self._check_all()
        finally:
            left = self._end.deadline - trio.current_time()
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
