"""The event-driven WebSocket application: it takes streams out of its hook and runs handlers on them.

Each stream has one reader task, in which its handlers run, one at a time and in order. One sweep looks after
handlers that take long. The sockets belong to the HTTP side; here nothing is closed, only said.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, cast

import trio

from .._app import App
from .._failures import report_and_pass
from .._http._address import Address
from .._http._limits import Timeouts
from .._server._listen import open_listeners
from .._server._pacing import SWEEP_INTERVAL
from .._state import NewState, NewStreamState, State, StreamState
from ._async_stream import AsyncSender, AsyncStream, Audience
from ._codec import INTERNAL_ERROR
from ._errors import LinkError, tells_the_end
from ._handler import async_websocket_handler
from ._limits import StreamLimits
from ._message import Message
from ._stream import WebsocketStream

if TYPE_CHECKING:
    from typing import Unpack

    from ._admission import AcceptHandler
    from ._compression import Deflate
    from ._heartbeat import Heartbeat
    from ._limits import StreamOptions

logger = logging.getLogger("humphrey_trio.websocket")

_HOOK_SIZE = 64
_DEFAULT_ADDRESS = "0.0.0.0:80"  # Humphrey's
# A handler that is still running at the second sweep after its beginning gets help.
_SLOW_SWEEPS = 2
# After so many pings of a heartbeat the other tasks run.
_PING_TURN = 100


#: What ``with_connect_handler`` takes: ``async (stream, state)``.
ConnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: What ``with_disconnect_handler`` takes: ``async (stream, state)``.
DisconnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: What ``with_message_handler`` takes: ``async (stream, message, state)``.
MessageHandler: TypeAlias = Callable[[AsyncStream[StreamState], Message, State], Awaitable[object]]


class AsyncWebsocketApp(Generic[State, StreamState]):
    """An event-driven WebSocket application.

    ``AsyncWebsocketApp()`` is linked internally: it runs an HTTP app of its own, whose only route is a
    WebSocket at every path. ``AsyncWebsocketApp.new_unlinked()`` gets its streams from other apps, through its
    connect hook; that nobody links it is no error.

    For one stream, the connect handler ends before the first message handler begins, messages are handled one
    at a time and in order, and the disconnect handler runs once and last, if the connect handler began. A
    stream gets broadcasts from before its connect handler to before its disconnect handler. A handler that
    raises is logged, and its stream closed with 1011. When a client leaves while a handler of its takes long,
    the handler is cancelled.

    Args:
        state: what every handler gets as its last argument.
        stream_state: makes ``stream.state``, called with each new ``WebsocketStream``.
        max_connections: how many streams are served at once; those beyond it wait in the hook. None for no
            bound.
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
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        origins: str | Collection[str] | None = None,
        subprotocols: Collection[str] = (),
        deflate: Deflate | None = None,
        accept: AcceptHandler[State] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        if max_connections is not None and max_connections < 1:
            raise ValueError("max_connections must be at least 1, or None for no bound")
        self._state = state
        self._stream_state = stream_state
        self._max_connections = max_connections
        self._timeouts = timeouts
        self._limits = StreamLimits(**options)
        self._hook, self._incoming = trio.open_memory_channel[WebsocketStream](_HOOK_SIZE)
        self._address: str | None = _DEFAULT_ADDRESS
        self._route = async_websocket_handler(
            self._hook, origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept
        )
        self._on_connect: ConnectHandler[StreamState, State] | None = None
        self._on_message: MessageHandler[StreamState, State] | None = None
        self._on_disconnect: DisconnectHandler[StreamState, State] | None = None
        self._audience = Audience()
        self._heartbeat: Heartbeat | None = None
        self._sweeps = 1
        self._parting: set[trio.CancelScope] = set()
        self._parting_limit = inf
        self._slot_freed: trio.Event | None = None
        self._ran = False

    @classmethod
    def new_unlinked(
        cls,
        state: NewState = None,  # type: ignore[assignment]  # as above
        *,
        stream_state: Callable[[WebsocketStream], NewStreamState] | None = None,
        max_connections: int | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        **options: Unpack[StreamOptions],
    ) -> AsyncWebsocketApp[NewState, NewStreamState]:
        """An app that other apps feed through ``connect_hook``; arguments as for the class."""
        make = cast("type[AsyncWebsocketApp[Any, Any]]", cls)
        app = make(
            state,
            stream_state=stream_state,
            max_connections=max_connections,
            timeouts=timeouts,
            **options,
        )
        app._address = None
        return app

    @property
    def state(self) -> State:
        """What every handler gets."""
        return self._state

    # Building...

    def with_connect_handler(self, handler: ConnectHandler[StreamState, State]) -> Self:
        """Run ``await handler(stream, state)`` for each new stream, before its first message."""
        self._on_connect = handler
        return self

    def with_message_handler(self, handler: MessageHandler[StreamState, State]) -> Self:
        """Run ``await handler(stream, message, state)`` for each message; without one they are read away."""
        self._on_message = handler
        return self

    def with_disconnect_handler(self, handler: DisconnectHandler[StreamState, State]) -> Self:
        """Run ``await handler(stream, state)`` when a stream has ended; it has ``close_code`` by then."""
        self._on_disconnect = handler
        return self

    def with_heartbeat(self, heartbeat: Heartbeat) -> Self:
        """Ping silent clients, and cut off those that do not answer; without it nobody is.

        The disconnect handler of a client that was cut off finds 1006 and the cause.
        """
        self._heartbeat = heartbeat
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
        return AsyncSender(self._audience)

    # Running...

    async def run(self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the streams that come, until cancelled. An app runs once.

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
        try:
            # Outside of the nursery, which would wrap what goes wrong in a group.
            listeners = [] if self._address is None else await open_listeners([self._address])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep, nursery)
                nursery.start_soon(self._take_streams, nursery)
                if self._address is None:
                    task_status.started(())
                else:
                    task_status.started(await nursery.start(self._own_http_app()._server().run, listeners))
        finally:
            self._close_hook()

    def _own_http_app(self) -> App[State]:
        return App(self._state, timeouts=self._timeouts).with_websocket_route("/*", self._route)

    @trio.lowlevel.enable_ki_protection
    async def _take_streams(self, nursery: trio.Nursery) -> None:
        while True:
            await self._wait_for_slot()
            try:
                websocket = self._incoming.receive_nowait()
            except trio.WouldBlock:
                websocket = await self._incoming.receive()
            if not websocket.closed and (stream := self._new_stream(websocket)) is not None:
                # Before its task runs: the next look at the slots has to see it.
                self._audience.streams[stream.id] = stream
                nursery.start_soon(self._serve, stream)

    async def _wait_for_slot(self) -> None:
        while self._max_connections is not None and len(self._audience.streams) >= self._max_connections:
            self._slot_freed = trio.Event()
            await self._slot_freed.wait()

    def _close_hook(self) -> None:
        """Close the streams that nobody took; from now on the routes answer 503."""
        try:
            while True:
                self._incoming.receive_nowait()._leave()
        except (trio.WouldBlock, trio.EndOfChannel):
            self._incoming.close()

    # One stream...

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, stream: AsyncStream[StreamState]) -> None:
        """The reader task of one stream, from its connect handler to its disconnect handler."""
        if stream._websocket.closed:  # it has ended before anybody could greet it
            self._forget(stream)
            return
        try:
            # A scope costs 750 bytes and 15 microseconds; before the first handler there is nothing to cancel.
            message = await stream._next() if self._on_connect is None else None
            if message is not None or self._on_connect is not None:
                with trio.CancelScope() as stream._scope:
                    await self._converse(stream, message)
        except Exception as exc:
            self._report(stream, exc)
        except BaseExceptionGroup as group:
            report_and_pass(group, lambda exc: self._report(stream, exc))
        finally:
            self._forget(stream)
            await self._part(stream)

    def _forget(self, stream: AsyncStream[StreamState]) -> None:
        del self._audience.streams[stream.id]
        stream._websocket._leave()
        if self._slot_freed is not None:
            self._slot_freed.set()

    def _report(self, stream: AsyncStream[StreamState], exception: Exception) -> None:
        """Log what a handler raised, unless it only says that the stream is closed."""
        if not (stream.closed and tells_the_end(exception)):
            logger.error("a handler of %r failed", stream, exc_info=exception)

    def _new_stream(self, websocket: WebsocketStream) -> AsyncStream[StreamState] | None:
        websocket._take(self._limits, self._timeouts)
        state: Any = None
        try:
            if self._stream_state is not None:
                state = self._stream_state(websocket)
        except Exception:
            logger.exception("stream_state failed for %r", websocket)
            websocket._close(INTERNAL_ERROR, "")
            websocket._leave()
            return None
        stream = AsyncStream(self._audience, websocket, state)
        websocket._on_gone = stream._client_left
        return stream

    @trio.lowlevel.disable_ki_protection
    async def _converse(self, stream: AsyncStream[StreamState], message: Message | None) -> None:
        websocket, handler = stream._websocket, self._on_message
        try:
            if self._on_connect is not None:
                stream._busy_since = self._sweeps
                await self._on_connect(stream, self._state)
                stream._busy_since = 0
                message = await stream._next()
            while message is not None:
                if handler is not None and not websocket.closed:
                    stream._busy_since = self._sweeps
                    await handler(stream, message, self._state)
                    stream._busy_since = 0
                message = await stream._next()
        except Exception as exc:
            stream._busy_since = 0
            self._report(stream, exc)
            websocket._close(INTERNAL_ERROR, "")
            # What still comes is read away up to the client's own Close; the close deadline ends that.
            while await stream._next() is not None:
                pass

    @trio.lowlevel.disable_ki_protection
    async def _part(self, stream: AsyncStream[StreamState]) -> None:
        """Run the disconnect handler, whatever is cancelled; an app that ends bounds its time."""
        if self._on_disconnect is None:
            return
        scope = trio.CancelScope(deadline=self._parting_limit, shield=True)
        self._parting.add(scope)
        try:
            with scope:
                await self._on_disconnect(stream, self._state)
        except Exception:
            logger.exception("the disconnect handler of %r failed", stream)
        finally:
            self._parting.discard(scope)
        if scope.cancelled_caught:
            logger.warning("the disconnect handler of %r was cut off, because the app ends", stream)

    # All streams...

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self, nursery: trio.Nursery) -> None:
        """Look after slow handlers and silent clients, until the app is cancelled.

        Then the disconnect handlers have to hurry.
        """
        pings = 0
        try:
            while True:
                await trio.sleep(SWEEP_INTERVAL)
                self._sweeps += 1
                now = trio.current_time()
                for stream in tuple(self._audience.streams.values()):
                    if self._heartbeat is not None and stream._websocket._beat(now, self._heartbeat):
                        pings += 1
                        if pings % _PING_TURN == 0:
                            await trio.lowlevel.checkpoint()
                    if stream._busy_since and self._sweeps - stream._busy_since >= _SLOW_SWEEPS:
                        stream._get_help(nursery)
                        stream._websocket._look_for_peer()
        finally:
            self._parting_limit = trio.current_time() + self._timeouts.disconnect
            for scope in self._parting:
                scope.deadline = self._parting_limit
