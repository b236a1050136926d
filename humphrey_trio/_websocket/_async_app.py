"""The event-driven WebSocket application: it takes streams out of its hook and runs handlers on them.

Each stream has one reader task, in which its handlers run, one at a time and in order. One sweep looks after
handlers that take long. The sockets belong to the HTTP side; here nothing is closed, only said.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
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
from ._codec import INTERNAL_ERROR, NORMAL, encode_message
from ._errors import ConnectionClosed, LinkError, tells_the_end
from ._handler import async_websocket_handler
from ._handshake import allowed_origins
from ._limits import StreamLimits
from ._message import Message
from ._stream import WebsocketStream

if TYPE_CHECKING:
    from typing import Unpack

    from .._http._request import Request
    from ._limits import StreamOptions
    from ._message import Sendable

logger = logging.getLogger("humphrey_trio.websocket")

_HOOK_SIZE = 64
_DEFAULT_ADDRESS = "0.0.0.0:80"  # Humphrey's
# After so many receivers a broadcast lets the other tasks run.
_BROADCAST_TURN = 100
# A handler that is still running at the second sweep after its beginning gets help.
_SLOW_SWEEPS = 2


class AsyncStream(Generic[StreamState]):
    """A connected client, as the handlers of an ``AsyncWebsocketApp`` get it.

    Attributes:
        state: what the app's ``stream_state`` made for this client; None without one.
    """

    __slots__ = ("_app", "_busy_since", "_closing", "_helper", "_scope", "_websocket", "state")

    def __init__(self, app: AsyncWebsocketApp[Any, Any], websocket: WebsocketStream, state: StreamState) -> None:
        self._app = app
        self._websocket = websocket
        self.state = state
        self._scope: trio.CancelScope | None = None  # around the handlers
        self._closing = False  # by a handler of its own, which then may finish
        self._busy_since = 0  # the sweep in whose time a handler began; 0 while none runs
        self._helper: _Helper | None = None

    # What the app does with it...

    @trio.lowlevel.enable_ki_protection
    async def _next(self) -> Message | None:
        """The next message for a handler; None when there will be none."""
        if self._helper is not None:
            await self._helper.stop()
            self._helper = None
        ahead = self._websocket._ahead
        return ahead.popleft() if ahead else await self._websocket._next()

    def _get_help(self, nursery: trio.Nursery) -> None:
        if self._helper is None:
            self._helper = _Helper(self._websocket)
            nursery.start_soon(self._helper.run)

    def _client_left(self) -> None:
        if self._busy_since and not self._closing and self._scope is not None:
            self._scope.cancel()

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

    async def send(self, message: Sendable) -> None:
        """Send a message to this client; see ``WebsocketStream.send``.

        Raises:
            ConnectionClosed: the stream is closed.
        """
        await self._websocket.send(message)

    async def broadcast(self, message: Sendable) -> None:
        """Send a message to every client of the app, this one too; see ``AsyncSender.broadcast``."""
        await self._app._broadcast(message)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; see ``WebsocketStream.ping``."""
        await self._websocket.ping(payload)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the stream; see ``WebsocketStream.close``. The disconnect handler runs when it has ended."""
        self._closing = True
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

    __slots__ = ("_app",)

    def __init__(self, app: AsyncWebsocketApp[Any, Any]) -> None:
        self._app = app

    async def send(self, stream_id: int, message: Sendable) -> bool:
        """Send a message to one client.

        Returns:
            False if no open stream of the app has that id.
        """
        stream = self._app._streams.get(stream_id)
        if stream is not None:
            with suppress(ConnectionClosed):
                await stream.send(message)
                return True
        await trio.lowlevel.checkpoint()
        return False

    async def broadcast(self, message: Sendable) -> None:
        """Send a message to every client that is connected when it begins.

        It is encoded once and waits for no client: one whose outbox is full is closed with 1013. Broadcasts of
        one app go out one after the other, so that all clients see the same order; a cancelled one has reached
        some. Other tasks run at every hundredth client.

        Raises:
            TypeError: this cannot be sent.
        """
        await self._app._broadcast(message)


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
        origins: of which pages browsers may connect, as for ``Upgrade.accept``; an unlinked app leaves that to
            the routes.
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
        self._origins = allowed_origins(origins)
        self._on_connect: ConnectHandler[StreamState, State] | None = None
        self._on_message: MessageHandler[StreamState, State] | None = None
        self._on_disconnect: DisconnectHandler[StreamState, State] | None = None
        self._streams: dict[int, AsyncStream[StreamState]] = {}
        self._broadcasting = trio.StrictFIFOLock()
        self._turn = 0  # broadcasts and their receivers since other tasks could run
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
        return AsyncSender(self)

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

    def _own_http_app(self) -> App[None]:
        route = async_websocket_handler(self._hook, origins=self._origins)
        return App(timeouts=self._timeouts).with_websocket_route("/*", route)

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
                self._streams[stream.id] = stream
                nursery.start_soon(self._serve, stream)

    async def _wait_for_slot(self) -> None:
        while self._max_connections is not None and len(self._streams) >= self._max_connections:
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
        del self._streams[stream.id]
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
        stream = AsyncStream(self, websocket, state)
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
        """Look after slow handlers, until the app is cancelled; then the disconnect handlers have to hurry."""
        try:
            while True:
                await trio.sleep(SWEEP_INTERVAL)
                self._sweeps += 1
                for stream in tuple(self._streams.values()):
                    if stream._busy_since and self._sweeps - stream._busy_since >= _SLOW_SWEEPS:
                        stream._get_help(nursery)
                        stream._websocket._look_for_peer()
        finally:
            self._parting_limit = trio.current_time() + self._timeouts.disconnect
            for scope in self._parting:
                scope.deadline = self._parting_limit

    @trio.lowlevel.enable_ki_protection
    async def _broadcast(self, message: Sendable) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        frame = encode_message(message)
        try:
            self._broadcasting.acquire_nowait()
        except trio.WouldBlock:
            await self._broadcasting.acquire()
        try:
            for stream in tuple(self._streams.values()):
                stream._websocket._offer(frame)
                if self._turn_is_over():
                    await trio.lowlevel.checkpoint()
            # The broadcast itself counts as well: one to nobody has to let somebody connect.
            if self._turn_is_over():
                await trio.lowlevel.checkpoint()
        finally:
            self._broadcasting.release()

    def _turn_is_over(self) -> bool:
        self._turn += 1
        if self._turn < _BROADCAST_TURN:
            return False
        self._turn = 0
        return True
