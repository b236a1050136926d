"""The two kinds of websocket routes: one calls an async function for each stream, one sends streams to a hook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import trio

from ..._http._response import Response
from ..._trio_runs import Run, check_run, current_run
from ..._type_variables import State
from .._limits import StreamLimits
from ._admission import Admission
from ._stream import WebsocketStream
from ._upgrade import Upgrade, opening_of

if TYPE_CHECKING:
    from typing import Unpack

    from .._deflate_settings import Deflate
    from .._limits import StreamOptions
    from ._admission import AcceptHandler
    from ._connection import WebsocketConnection
    from ._upgrade import WebsocketRoute

_DEFAULT_LIMITS = StreamLimits()

# The runs of trio of the apps that receive from hooks. A hook is a plain channel, which cannot store it.
_hook_runs: WeakKeyDictionary[trio.MemorySendChannel[WebsocketStream], Run] = WeakKeyDictionary()


def note_hook_run(hook: trio.MemorySendChannel[WebsocketStream]) -> None:
    """Note that the app of a hook runs in this run of trio. Routes in other runs refuse to send to it."""
    _hook_runs[hook] = current_run()


def forget_hook_run(hook: trio.MemorySendChannel[WebsocketStream]) -> None:
    """Forget the run of a hook, because its app has ended. The hook is closed by then."""
    _hook_runs.pop(hook, None)


def websocket_handler(
    handler: Callable[[WebsocketStream, State], Awaitable[object]],
    *,
    origins: str | Collection[str] | None = None,
    subprotocols: Collection[str] = (),
    deflate: Deflate | None = None,
    accept: AcceptHandler[State] | None = None,
    **options: Unpack[StreamOptions],
) -> WebsocketRoute[State]:
    """Create a websocket route that calls an async function for each stream.

    Args:
        handler: ``async (stream, state)``. When it returns, the stream is closed with 1000; if it raises an
            exception, with 1011. When the client leaves, ``receive`` raises ``ConnectionClosed``, and ``async
            for`` ends. If the handler has not returned ``Timeouts.disconnect`` seconds later, it is cancelled.
        origins: the web pages that may connect, as for ``Upgrade.accept``.
        subprotocols: the supported subprotocols, in the order of preference. ``stream.subprotocol`` is the first
            one that the client offers.
        deflate: the settings of compression, if the client offers it; None for no compression.
        accept: ``async (request, state)``, called before the 101 response. It returns an ``Accept``, None to
            accept without further settings, or a ``Response`` to refuse.
        **options: the limits of each stream: ``max_message_size``, ``max_fragments``,
            ``max_outbox_bytes``, ``max_outbox_messages`` and ``max_read_ahead``, whole numbers of at least 1.

    Returns:
        The route, for ``with_websocket_route``.

    Raises:
        ValueError: an option is out of its range, or an origin or subprotocol is malformed.
        TypeError: an option is unknown or has the wrong type.
    """
    limits = StreamLimits(**options)
    admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept)

    async def route(upgrade: Upgrade, state: State) -> Response | None:
        admitted = await admission.admit(upgrade.request, state)
        if isinstance(admitted, Response):
            return admitted
        await handler(WebsocketStream(await opening_of(upgrade).accept(admitted, limits)), state)
        return None

    return route


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
        TypeError: ``hook`` is not a ``trio.MemorySendChannel``.
        ValueError: a timeout is not above zero, or an origin or subprotocol is malformed.
    """
    if not isinstance(hook, trio.MemorySendChannel):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"pass the hook, app.connect_hook(), not {type(hook).__name__}")
    if not place_timeout > 0 or not take_timeout > 0:
        raise ValueError("place_timeout and take_timeout must be above zero (seconds)")
    admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept)
    return HookRoute(hook, admission, place_timeout, take_timeout)


class HookRoute:
    """A websocket route that sends streams to a hook, the result of ``async_websocket_handler``.

    Another route may call it: ``return await hook_route(upgrade, state)``.

    Raises:
        HandshakeError: when called, with 503 if the hook remains full, if the WebSocket app has ended, or if the
            server is shutting down. Then the calling route may try another hook.
        RuntimeError: when called, if the WebSocket app of the hook runs in another run of trio.
    """

    __slots__ = ("_admission", "_hook", "_place_timeout", "_take_timeout")

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
        self._take_timeout = take_timeout

    async def __call__(self, upgrade: Upgrade, state: object) -> Response | None:
        admitted = await self._admission.admit(upgrade.request, state)
        if isinstance(admitted, Response):
            return admitted
        check_run(_hook_runs.get(self._hook), "the WebSocket app of this hook", "run both apps in one trio.run")
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
        connection.set_take_deadline(self._take_timeout)
        return None

    async def _place(self, connection: WebsocketConnection) -> bool:
        """Put the stream into the hook. Return False if it remains full, or if the app has ended."""
        stream = WebsocketStream(connection)
        try:
            try:
                self._hook.send_nowait(stream)
            except trio.WouldBlock:
                with trio.move_on_after(self._place_timeout) as scope:
                    # A graceful shutdown of the server closes the stream. Then the client receives 503 at once.
                    connection.lifecycle.when_over(scope.cancel)
                    await self._hook.send(stream)
                return not scope.cancelled_caught
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True
