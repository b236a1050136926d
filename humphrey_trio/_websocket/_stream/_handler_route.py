"""The websocket route that calls an async function for each stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Generic

from ..._http._response import Response
from ..._signatures import async_function
from ..._type_variables import State
from .._limits import StreamLimits, stream_limits
from ._admission import Admission
from ._stream import WebsocketStream
from ._upgrade import Upgrade, opening_of

if TYPE_CHECKING:
    from typing import Unpack

    from .._deflate_settings import Deflate
    from .._limits import StreamOptions
    from ._admission import AcceptHandler
    from ._upgrade import WebsocketRoute


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
        TypeError: an option is unknown or has the wrong type, or ``handler`` or ``accept`` is not an async
            function with these parameters.
    """
    admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate, accept=accept)
    run = async_function(handler, "stream, state", "the handler of websocket_handler")
    return HandlerRoute(run, admission, stream_limits(options))


class HandlerRoute(Generic[State]):
    """A websocket route that calls an async function for each stream, the result of ``websocket_handler``.

    Args:
        handler: the function.
        admission: the conditions of connecting.
        limits: the limits of each stream.

    Attributes:
        origins: the patterns of web pages that may connect, with ``SAME_HOST`` among them or not.
        accept: the ``accept`` function of the application, or None.
    """

    __slots__ = ("__wrapped__", "_admission", "_limits", "accept", "origins")

    def __init__(
        self,
        handler: Callable[[WebsocketStream, State], Awaitable[object]],
        admission: Admission,
        limits: StreamLimits,
    ) -> None:
        self.__wrapped__ = handler  # the name of the route in log lines is that of the handler
        self._admission = admission
        self._limits = limits
        self.origins = admission.origins
        self.accept = admission.accept

    async def __call__(self, upgrade: Upgrade, state: State) -> Response | None:
        admitted = await self._admission.admit(upgrade.request, state)
        if isinstance(admitted, Response):
            return admitted
        await self.__wrapped__(WebsocketStream(await opening_of(upgrade).accept(admitted, self._limits)), state)
        return None
