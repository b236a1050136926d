"""The two websocket routes: one that runs a coroutine for each connection, one that feeds a connect hook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import trio

from ..._http._response import Response
from ..._runs import Run, check_run, current_run
from ..._state import State
from .._limits import StreamLimits
from ._admission import Admission
from ._stream import WebsocketStream
from ._upgrade import Upgrade, opening_of

if TYPE_CHECKING:
    from typing import Unpack

    from .._compression import Deflate
    from .._limits import StreamOptions
    from ._admission import AcceptHandler
    from ._connection import WebsocketConnection
    from ._upgrade import WebsocketRoute

_DEFAULT_LIMITS = StreamLimits()

# Where the apps of hooks run. A hook is a plain channel, which cannot tell.
_hook_runs: WeakKeyDictionary[trio.MemorySendChannel[WebsocketStream], Run] = WeakKeyDictionary()


def note_hook_run(hook: trio.MemorySendChannel[WebsocketStream]) -> None:
    """Note that the app that receives from a hook runs in this run of trio, so that no other may send."""
    _hook_runs[hook] = current_run()


def forget_hook_run(hook: trio.MemorySendChannel[WebsocketStream]) -> None:
    """Note that the app has ended; what is sent to it is refused anyway."""
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
    """A websocket route that gives each connection to a coroutine of its own.

    Args:
        handler: ``async (stream, state)``; it owns the stream until it returns. Then the stream is closed with
            1000, or with 1011 if it raised. When the client leaves, ``receive`` raises ``ConnectionClosed``
            and ``async for`` ends; a handler that has not returned ``Timeouts.disconnect`` seconds later is
            cancelled.
        origins: the pages that may connect, as for ``Upgrade.accept``.
        subprotocols: those that are spoken, best first; ``stream.subprotocol`` is the first that the client
            offers.
        deflate: how messages are compressed, if the client can do that; None for not at all.
        accept: ``async (request, state)``, asked before the 101; see ``Accept``.
        **options: bounds of each stream, as in ``StreamLimits``.

    Raises:
        ValueError, TypeError: an option is invalid.
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
    """A websocket route that sends each connection through a connect hook.

    The stream gets its place in the hook first, then the client its 101. If there is no place, because the
    WebSocket app has too much to do or is gone, the client gets a 503 with Retry-After. The connection stays
    on loan: the HTTP app closes it, when the stream has ended or when the HTTP app itself ends.

    Args:
        hook: what ``AsyncWebsocketApp.connect_hook`` gives, or the send end of a channel of your own. Many
            routes of many apps may use the same.
        origins: the pages that may connect, as for ``Upgrade.accept``.
        subprotocols: those that are spoken, best first; ``stream.subprotocol`` is the first that the client
            offers.
        deflate: how messages are compressed, if the client can do that; None for not at all.
        accept: ``async (request, state)``, asked before the 101; see ``Accept``.
        place_timeout: seconds to wait for a place.
        take_timeout: seconds after the 101 in which somebody has to take the stream out of the hook; then it
            is closed with 1013.

    Raises:
        TypeError: this is no hook.
        ValueError: a timeout is not above zero, or an origin is one that no browser can send.
    """
    if not isinstance(hook, trio.MemorySendChannel):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"give the hook, app.connect_hook(), not {type(hook).__name__}")
    if not place_timeout > 0 or not take_timeout > 0:
        raise ValueError("place_timeout and take_timeout are seconds above zero")
    admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept)
    return HookRoute(hook, admission, place_timeout, take_timeout)


class HookRoute:
    """What ``async_websocket_handler`` returns: a websocket route for any state.

    A route of your own may end in it: ``return await hook_route(upgrade, state)``. If there is no place for the
    stream it raises ``HandshakeError`` with a 503, and the route may try another hook.
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
        with opening.attempt(admitted, _DEFAULT_LIMITS) as connection:
            # From its place in the hook to the 101 there is no checkpoint: the app that takes it finds it open.
            if not await self._place(connection) or not opening.complete(admitted):
                raise opening.unavailable("no WebSocket app takes this connection now")
        connection.set_take_deadline(self._take_timeout)
        return None

    async def _place(self, connection: WebsocketConnection) -> bool:
        """Put the stream into the hook; False if there is no place in time, or the app is gone."""
        stream = WebsocketStream(connection)
        try:
            try:
                self._hook.send_nowait(stream)
            except trio.WouldBlock:
                with trio.move_on_after(self._place_timeout) as scope:
                    # A graceful end of the server closes the stream: then the client gets its 503 at once.
                    connection.lifecycle.when_over(scope.cancel)
                    await self._hook.send(stream)
                return not scope.cancelled_caught
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True
