"""The public object for an event-driven WebSocket application: its settings, handlers and links.

``AsyncWebsocketApp`` is a face: a ``StreamServer`` serves the streams.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, cast

import trio

from ..._app._app import App, servers_of
from ..._http._address import refuse_address
from ..._http._drain import Drain
from ..._http._limits import Timeouts
from ..._http._when_left import WhenLeft
from ..._server._open_listeners import check_targets, open_listeners
from ..._server._server import check_shutdown
from ..._settings import check_argument, check_type, check_whole
from ..._signatures import async_function, check_parameters
from ..._trio_runs import check_trio, current_run
from ..._type_variables import NewState, NewStreamState, State, StreamState
from .._errors import LinkError
from .._heartbeat_settings import Heartbeat
from .._limits import stream_limits
from .._message import Message
from .._statistics import AppStatistics
from .._stream._graceful_end import AppEnd
from .._stream._hook_route import async_websocket_handler
from .._stream._hook_use import forget_use, note_use
from .._stream._stream import WebsocketStream
from ._async_stream import AsyncSender, AsyncStream
from ._handlers import Handlers
from ._hosted import HostedStreams
from ._sessions import AppRun
from ._stream_server import StreamServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from ..._http._address import Address
    from ..._server._given_listener import ListenTarget
    from ..._server._listener import Listener
    from .._deflate_settings import Deflate
    from .._limits import StreamOptions
    from .._stream._admission import AcceptHandler

#: The handler of ``with_connect_handler``: ``async (stream, state)``.
ConnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: The handler of ``with_disconnect_handler``: ``async (stream, state)``.
DisconnectHandler: TypeAlias = Callable[[AsyncStream[StreamState], State], Awaitable[object]]
#: The handler of ``with_message_handler``: ``async (stream, message, state)``.
MessageHandler: TypeAlias = Callable[[AsyncStream[StreamState], Message, State], Awaitable[object]]

_HOOK_SIZE = 64
_INTERNAL = "this app is linked internally: create it with AsyncWebsocketApp.new_unlinked()"
_DEFAULT_ADDRESS = "0.0.0.0:80"  # the default of Humphrey
# Options that are applied before a stream is put into a hook, so they belong to the route.
_OF_ROUTES = ("origins", "subprotocols", "deflate", "accept")


class _Link(enum.Enum):
    """How an application gets its streams."""

    INTERNAL = enum.auto()
    """From an HTTP app of its own."""
    NONE = enum.auto()
    """From the routes of other apps, beside which it runs."""
    HOSTED = enum.auto()
    """From the routes of other apps, one of which runs it."""


class AsyncWebsocketApp(Generic[State, StreamState]):
    """An event-driven WebSocket application.

    ``AsyncWebsocketApp()`` is linked internally: it runs an HTTP app of its own, whose only route accepts
    WebSockets at every path. ``AsyncWebsocketApp.new_unlinked()`` receives its streams from other apps. Either an
    ``App`` runs it (``App.with_websocket_app``), or it runs beside them, and their routes have its connect hook.
    An unlinked app without a link serves no streams; that is not an error.

    For each stream:

    - The connect handler ends before the first message handler begins.
    - Message handlers run one at a time, in the order of the messages.
    - The disconnect handler runs once, after all others, if the connect handler began.
    - Broadcasts are sent to the stream from before its connect handler until before its disconnect handler.

    If a handler raises an exception, it is logged, and the stream is closed with 1011. The same applies to a
    ``trio.Cancelled`` that the handler raises although it was not cancelled.

    Args:
        state: the state of the application, the last argument of every handler. Not copied.
        stream_state: a function that is called with each new ``WebsocketStream`` and returns its
            ``AsyncStream.state``. None for no state.
        max_connections: the maximum number of streams that are served at once. A stream counts until its
            disconnect handler has returned. Further streams wait in the hook. None for no limit.
        concurrency: the maximum number of message handlers of one stream that run at once. If it is above 1,
            they begin in the order of the messages, and may end in any order.
        when_left: what happens to running handlers when the client leaves.
        timeouts: the timeouts of clients and of disconnect handlers.
        origins, subprotocols, deflate, accept: the conditions of connecting, as for
            ``async_websocket_handler``. Only for an internally linked app; else the routes have them.
        **options: the limits of each stream: ``max_message_size``, ``max_fragments``,
            ``max_outbox_bytes``, ``max_outbox_messages`` and ``max_read_ahead``, whole numbers of at least 1.

    Raises:
        ValueError: an option is out of its range, an origin or subprotocol is malformed, or ``state`` is an
            address.
        TypeError: an option is unknown or has the wrong type.
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
        refuse_address(state, "pass it to with_address, or to run of the App", "AsyncWebsocketApp")
        if max_connections is not None:
            check_whole("max_connections", max_connections, hint=", or None for no limit")
        check_whole("concurrency", concurrency, hint=", which handles one message at a time")
        check_type("timeouts", timeouts, Timeouts)
        if stream_state is not None:
            check_parameters(stream_state, "stream", "stream_state")
        self._handlers: Handlers[AsyncStream[StreamState]] = Handlers(state, concurrency, WhenLeft(when_left))
        self._timeouts = timeouts
        self._hook, incoming = trio.open_memory_channel[WebsocketStream](_HOOK_SIZE)
        self._link = _Link.INTERNAL
        self._listens_on: tuple[ListenTarget, int | None] = (_DEFAULT_ADDRESS, None)
        self._end = AppEnd()
        self._route = async_websocket_handler(
            self._hook, origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept
        )
        self._streams = StreamServer(
            incoming,
            self._handlers,
            new_state=stream_state,
            limits=stream_limits(options),
            max_connections=max_connections,
        )
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
        """Create an app that receives its streams through ``connect_hook``.

        Args:
            state, stream_state, max_connections, concurrency, when_left, timeouts, **options: as for the class.

        Returns:
            The app.

        Raises:
            LinkError: ``origins``, ``subprotocols``, ``deflate`` or ``accept`` was passed. Pass it to
                ``async_websocket_handler`` instead.
            ValueError, TypeError: as for the class.
        """
        if misplaced := [name for name in options if name in _OF_ROUTES]:
            raise LinkError(f"{misplaced[0]}= belongs to a route: pass it to async_websocket_handler(hook, ...)")
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
        app._unlink()
        return app

    def _unlink(self) -> None:
        self._link = _Link.NONE

    @property
    def state(self) -> State:
        """The state of the application, the last argument of every handler."""
        return cast("State", self._handlers.state)

    # Building...

    def with_connect_handler(self, handler: ConnectHandler[StreamState, State]) -> Self:
        """Set the handler of new streams. It replaces a handler that was set before.

        No message of the stream is handled before the handler has returned.

        Args:
            handler: ``async (stream, state)``, called once for each stream.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: it is not an async function, or has other parameters.
        """
        self._handlers.set_connect(async_function(handler, "stream, state", "the connect handler"))
        return self

    def with_message_handler(self, handler: MessageHandler[StreamState, State]) -> Self:
        """Set the handler of messages. It replaces a handler that was set before.

        Without a message handler, messages are received and discarded.

        Args:
            handler: ``async (stream, message, state)``, called for each message.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: it is not an async function, or has other parameters.
        """
        self._handlers.set_message(async_function(handler, "stream, message, state", "the message handler"))
        return self

    def with_disconnect_handler(self, handler: DisconnectHandler[StreamState, State]) -> Self:
        """Set the handler of streams that have ended. It replaces a handler that was set before.

        It is called once for each stream whose connect handler began. ``stream.close_record`` is set by then.
        It is not cancelled when the client leaves. When the app ends, it has at most ``Timeouts.disconnect``
        seconds.

        Args:
            handler: ``async (stream, state)``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: it is not an async function, or has other parameters.
        """
        self._handlers.set_disconnect(async_function(handler, "stream, state", "the disconnect handler"))
        return self

    def with_heartbeat(self, heartbeat: Heartbeat) -> Self:
        """Send Pings to silent clients (RFC 6455, section 5.5.2), and cut off those that do not answer.

        Without a heartbeat, silent clients are neither pinged nor cut off. The close record of a client that
        was cut off has code 1006 and the cause.

        Args:
            heartbeat: the interval of Pings and the timeout of the answer.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: ``heartbeat`` is not a ``Heartbeat``.
        """
        check_argument("with_heartbeat", heartbeat, Heartbeat, "interval, timeout")
        self._streams.set_heartbeat(heartbeat)
        return self

    def with_shutdown(self, event: trio.Event, drain: Drain = Drain()) -> Self:  # noqa: B008  (frozen)
        """Shut down gracefully when an event is set. Then ``run`` returns.

        New upgrades are refused with 503 and Retry-After. The streams are closed one by one, spread over
        ``drain.spread`` seconds. Before a stream is closed, its running handlers have ``drain.patience`` seconds
        to end, and no further handlers begin. Messages that were sent before are written before the Close. Then
        the disconnect handlers run. Everything that remains ``Timeouts.drain`` seconds after the event is
        cancelled.

        Args:
            event: the event that starts the shutdown. Pass the same event to both apps of a linked pair.
            drain: how streams are closed.

        Returns:
            This object, so that calls can be chained.

        Raises:
            LinkError: an ``App`` runs this app.
            ValueError: ``drain.spread`` is too long for ``Timeouts.drain``.
            TypeError: ``event`` is not a ``trio.Event``, or ``drain`` is not a ``Drain``.
        """
        if self._link is _Link.HOSTED:
            raise LinkError("an App runs this app: call with_shutdown of the App, which ends both")
        check_shutdown(event, drain, self._timeouts)
        self._end = AppEnd(event, drain)
        return self

    def with_address(self, address: ListenTarget, *, unix_mode: int | None = None) -> Self:
        """Set the address to listen on. The default is ``0.0.0.0:80``.

        Args:
            address: an address or a socket that listens, as for ``App.run``.
            unix_mode: the mode of the file of a Unix socket, as for ``App.run``.

        Returns:
            This object, so that calls can be chained.

        Raises:
            LinkError: the app is unlinked.
            ValueError, TypeError: as for ``App.run``.
        """
        if self._link is not _Link.INTERNAL:
            raise LinkError("an unlinked app does not listen: pass the address to run of the HTTP app")
        check_targets([address], unix_mode)
        self._listens_on = (address, unix_mode)
        return self

    def connect_hook(self) -> trio.MemorySendChannel[WebsocketStream]:
        """Return the send end of the channel from which this app receives its streams.

        Pass it to ``async_websocket_handler``. It may be used in any number of routes and apps. The channel
        holds 64 streams. The routes do not close it. After this app has ended, sending raises
        ``trio.BrokenResourceError``, and the routes answer 503.

        Returns:
            The same send end for every call.

        Raises:
            LinkError: the app is linked internally.
        """
        if self._link is _Link.INTERNAL:
            raise LinkError(_INTERNAL)
        return self._hook

    def adopt(self, timeouts: Timeouts) -> HostedStreams:
        """Let an ``App`` run this app. ``App.with_websocket_app`` calls it; other code need not.

        Args:
            timeouts: the timeouts of the ``App``, which replace those of this app.

        Returns:
            The object that the ``App`` runs beside each of its servers.

        Raises:
            LinkError: another ``App`` runs this app, it is linked internally, it has run, or it has settings that
                the ``App`` must have.
        """
        self._check_adoptable(timeouts)
        self._link = _Link.HOSTED
        return HostedStreams(self._streams, self._hook)

    def _move_into_app(self) -> App[State]:
        """Let an HTTP app run this app, with the route, the timeouts and the shutdown of this app."""
        app = App(self.state, timeouts=self._timeouts)
        if self._link is _Link.INTERNAL:
            self._link = _Link.NONE
        if self._link is _Link.NONE and self._end.shutdown is not None:
            app.with_shutdown(self._end.shutdown, self._end.drain)
            self._end = AppEnd()
        servers_of(app).hosting.adopt(self, self._timeouts)
        servers_of(app).use_scheme("ws")
        return app.with_websocket_route("/*", self._route)

    def _check_adoptable(self, timeouts: Timeouts) -> None:
        if self._link is _Link.HOSTED:
            raise LinkError(
                "another App runs this app: for a route of this App, write"
                " with_websocket_route(pattern, async_websocket_handler(websocket_app.connect_hook()))"
            )
        if self._link is _Link.INTERNAL:
            raise LinkError(_INTERNAL)
        if self._ran:
            raise LinkError("this app was run before: create a new AsyncWebsocketApp and do not call its run")
        if self._end.shutdown is not None:
            raise LinkError("this app has a with_shutdown: call with_shutdown of the App instead, which ends both")
        if self._timeouts not in (Timeouts(), timeouts):
            raise LinkError("this app has timeouts of its own: pass timeouts= to the App, which runs it with them")

    def sender(self) -> AsyncSender:
        """Return an ``AsyncSender``, which sends to the clients of this app from any task."""
        return AsyncSender(self._streams.broadcaster)

    def statistics(self) -> AppStatistics:
        """Return the current statistics. The call takes time proportional to the number of streams."""
        return self._streams.statistics()

    # Running...

    async def run(self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve streams until cancelled, or until a shutdown set by ``with_shutdown`` is complete.

        An app can run only once. If cancelled, it closes every stream with 1001, including those that wait in
        the hook, and gives the disconnect handlers ``Timeouts.disconnect`` seconds.

        Args:
            task_status: for ``nursery.start``, which returns a tuple with the ``Address`` of each listener; an
                empty tuple for an unlinked app.

        Raises:
            LinkError: an ``App`` runs this app.
            RuntimeError: the app has run before, or the call is not in a run of trio.
            OSError: the address of an internally linked app cannot be listened on.
        """
        if self._link is _Link.HOSTED:
            raise LinkError("an App runs this app (with_websocket_app): remove this call of run")
        if self._ran:
            raise RuntimeError("an AsyncWebsocketApp can run only once: create a new one")
        check_trio("trio.run(app.run)")
        self._ran = True
        # Outside the nursery of the streams, which would wrap an OSError in an exception group.
        listeners = await self._open_listeners()
        self._streams.broadcaster.bind(current_run())
        run = AppRun(self._end, self._timeouts, note_use(self._hook))
        try:
            await self._streams.run(run, partial(self._start_http, listeners), task_status)
        finally:
            forget_use(self._hook)

    async def _open_listeners(self) -> Sequence[Listener]:
        if self._link is not _Link.INTERNAL:
            return ()
        target, unix_mode = self._listens_on
        return await open_listeners([target], unix_mode)

    async def _start_http(self, listeners: Sequence[Listener], nursery: trio.Nursery) -> tuple[Address, ...]:
        """Start the HTTP app of an internally linked app. Returns its addresses; none for an unlinked app."""
        if not listeners:
            return ()
        server = servers_of(self._own_http_app()).new_server()
        addresses: tuple[Address, ...] = await nursery.start(partial(server.run, listeners, scheme="ws"))
        return addresses

    def _own_http_app(self) -> App[State]:
        app = App(self.state, timeouts=self._timeouts).with_websocket_route("/*", self._route)
        end = self._end
        return app if end.shutdown is None else app.with_shutdown(end.shutdown, end.drain)


def http_app_of(websocket_app: AsyncWebsocketApp[Any, Any]) -> App[Any]:
    """Return an HTTP app that serves only a WebSocket app, at every path.

    The addresses and the certificate are then those of the HTTP app. The WebSocket app must not be run by itself.

    Raises:
        LinkError: another ``App`` runs it, or it has run.
    """
    return websocket_app._move_into_app()
