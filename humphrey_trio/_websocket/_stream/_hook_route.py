"""The websocket route that sends each stream to a connect hook."""

from __future__ import annotations

import logging
from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING, Any, TypedDict

import trio

from ..._http._response import Response
from ..._quoting import printable
from ..._settings import check_seconds
from ..._trio_runs import check_run
from .._limits import StreamLimits
from ._admission import Admission
from ._hook_use import has_ended_for, is_forgotten_end, use_of
from ._stream import WebsocketStream
from ._upgrade import Upgrade, opening_of

if TYPE_CHECKING:
    from .._deflate_settings import Deflate
    from ._admission import AcceptHandler
    from ._connection import WebsocketConnection

logger = logging.getLogger("humphrey_trio.websocket")

_DEFAULT_LIMITS = StreamLimits()
# A route to a hook from which no stream is taken logs a WARNING at most once in this time.
_WARNING_INTERVAL = 60.0


class HookRouteOptions(TypedDict, total=False):
    """The keyword arguments of ``async_websocket_handler``."""

    origins: str | Collection[str] | None
    subprotocols: Collection[str]
    deflate: Deflate | None
    accept: AcceptHandler[Any] | None
    place_timeout: float
    take_timeout: float


def async_websocket_handler(
    hook: trio.MemorySendChannel[WebsocketStream],
    *,
    origins: str | Collection[str] | None = None,
    subprotocols: Collection[str] = (),
    deflate: Deflate | None = None,
    accept: AcceptHandler[Any] | None = None,
    place_timeout: float = 1.0,
    take_timeout: float = 10.0,
) -> HookRoute:
    """Create a websocket route that sends each stream to a connect hook.

    The stream is put into the hook before the 101 response is sent. If the hook remains full, or if the WebSocket
    app has ended, the client receives 503 with Retry-After. The HTTP app owns the connection: it closes it when
    the stream has ended, or when the HTTP app itself ends.

    Args:
        hook: the result of ``AsyncWebsocketApp.connect_hook``, or the send end of another memory channel. Any
            number of routes and apps may use the same hook.
        origins: the web pages that may connect, as for ``Upgrade.accept``.
        subprotocols: the supported subprotocols, in the order of preference. ``stream.subprotocol`` is the first
            one that the client offers.
        deflate: the settings of compression, if the client offers it; None for no compression.
        accept: ``async (request, state)``, called before the 101 response. It returns an ``Accept``, None to
            accept without further settings, or a ``Response`` to refuse.
        place_timeout: the maximum time in seconds to wait while the hook is full.
        take_timeout: the time in seconds after the 101 within which the stream must be taken from the hook. Else
            it is closed with 1013.

    Returns:
        The route, for ``with_websocket_route``.

    Raises:
        TypeError: ``hook`` is not a ``trio.MemorySendChannel``, or an argument has the wrong type.
        ValueError: a timeout is not above zero, or an origin or subprotocol is malformed.
    """
    if not isinstance(hook, trio.MemorySendChannel):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"async_websocket_handler takes a hook, app.connect_hook(), not {type(hook).__name__}")
    check_seconds("place_timeout=...", place_timeout)
    check_seconds("take_timeout=...", take_timeout)
    admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept)
    return HookRoute(hook, admission, place_timeout, take_timeout)


class HookRoute:
    """A websocket route that sends streams to a hook, the result of ``async_websocket_handler``.

    Another route may call it: ``return await hook_route(upgrade, state)``.

    Attributes:
        take_timeout: as the argument of ``async_websocket_handler``.
        origins: the patterns of web pages that may connect, with ``SAME_HOST`` among them or not.
        accept: the ``accept`` function of the application, or None.

    Raises:
        HandshakeError: when called, with 503 if the hook remains full, if the WebSocket app has ended, or if the
            server is shutting down. Then the calling route may try another hook.
        RuntimeError: when called, if the WebSocket app of the hook runs in another run of trio.
    """

    __slots__ = (
        "_admission",
        "_hook",
        "_next_warning",
        "_pattern",
        "_place_timeout",
        "accept",
        "origins",
        "take_timeout",
    )

    def __init__(
        self,
        hook: trio.MemorySendChannel[WebsocketStream],
        admission: Admission,
        place_timeout: float,
        take_timeout: float,
    ) -> None:
        self._hook = hook
        self._admission = admission
        self._place_timeout = place_timeout
        self.take_timeout = take_timeout
        self.origins = admission.origins
        self.accept = admission.accept
        self._pattern = ""
        self._next_warning = -inf

    def __repr__(self) -> str:
        return f"<the route of async_websocket_handler for {self._pattern or 'a hook'}>"

    def note_pattern(self, pattern: str) -> None:
        """Set the pattern that log lines name. The first one is kept."""
        self._pattern = self._pattern or pattern

    def note_server_end(self) -> None:
        """Note that an HTTP app with this route has shut down gracefully."""
        use = use_of(self._hook)
        if use is not None:
            use.note_http_end()

    async def __call__(self, upgrade: Upgrade, state: object) -> Response | None:
        use = use_of(self._hook)
        if use is not None:
            check_run(use.run, "the WebSocket app of this hook", "run both apps in one trio.run")
        admitted = await self._admission.admit(upgrade.request, state)
        if isinstance(admitted, Response):
            return admitted
        opening = opening_of(upgrade)
        if opening.handover.gate is not None:
            admitted = await opening.pass_layers(admitted)
        connection = opening.begin_attempt(admitted, _DEFAULT_LIMITS)
        try:
            # There is no checkpoint between the hook and the 101, so the app always receives an open stream.
            if not await self._place(connection) or not opening.complete(admitted):
                raise opening.unavailable("no WebSocket app takes this connection now")
        finally:
            opening.end_attempt()
        connection.set_take_deadline(self)
        return None

    def note_untaken(self, path: str) -> None:
        """Log a WARNING if no WebSocket app runs for the hook. An app that runs may have ``max_connections``.

        Args:
            path: the path of the client that waits.
        """
        now = trio.current_time()
        if now < self._next_warning or use_of(self._hook) is not None:
            return
        self._next_warning = now + _WARNING_INTERVAL
        logger.warning(
            "a client of the websocket route %s waits, and nothing takes its stream out of the hook:"
            " run the AsyncWebsocketApp, or receive from the channel. App.with_websocket_app runs the app itself",
            printable(self._pattern or path),
        )

    async def _place(self, connection: WebsocketConnection) -> bool:
        """Put the stream into the hook. Return False if it remains full, or if the app has ended."""
        if has_ended_for(self._hook, connection.server):  # the hook is open for the run of another server
            return False
        stream = WebsocketStream(connection)
        try:
            try:
                self._hook.send_nowait(stream)
            except trio.WouldBlock:
                with trio.move_on_after(self._place_timeout) as scope:
                    # A graceful shutdown of the server closes the stream. Then the client receives 503 at once.
                    connection.lifecycle.when_over(scope.cancel)
                    await self._hook.send(stream)
                if scope.cancelled_caught and not connection.closed:
                    self.note_untaken(connection.request.path)
                return not scope.cancelled_caught
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._note_ended(connection)
            return False
        return True

    def _note_ended(self, connection: WebsocketConnection) -> None:
        """Log a WARNING that the WebSocket app has ended, unless the HTTP app may be about to end as well."""
        now = trio.current_time()
        if now < self._next_warning or connection.closed or not is_forgotten_end(self._hook):
            return
        self._next_warning = now + _WARNING_INTERVAL
        logger.warning(
            "a client of the websocket route %s gets a 503: its AsyncWebsocketApp has ended, or its channel was"
            " closed, and the HTTP app runs on. Call with_shutdown of both with the same event, or link them with"
            " App.with_websocket_app",
            printable(self._pattern or connection.request.path),
        )
