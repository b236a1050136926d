"""The public object for an upgrade to WebSocket, the first argument of a websocket route.

``Upgrade`` is a face: it passes its calls to an ``OpeningHandshake``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..._http._response import Response
from .._limits import stream_limits
from ._admission import Accept, Admission
from ._stream import WebsocketStream

if TYPE_CHECKING:
    from typing import Unpack

    from ..._http._headers import HeadersLike
    from ..._http._request import Request
    from .._deflate_settings import Deflate
    from .._limits import StreamOptions
    from ._opening import OpeningHandshake

_State = TypeVar("_State")

#: A websocket route, for ``with_websocket_route``: ``async (upgrade, state)``. It accepts the upgrade and returns
#: None, or returns the response that refuses it.
WebsocketRoute: TypeAlias = Callable[["Upgrade", _State], Awaitable[Response | None]]


class Upgrade:
    """A request to open a WebSocket (RFC 6455, section 4.2), the first argument of a websocket route.

    Not created by users. The route either accepts it once, or returns a ``Response`` that refuses it. If an
    attempt to accept it fails, for example because a hook is full, the route may try another hook, or accept it
    itself. When the route has returned, no task can accept it.
    """

    __slots__ = ("_opening",)

    def __init__(self, opening: OpeningHandshake) -> None:
        self._opening = opening

    @property
    def request(self) -> Request:
        """The request of the opening handshake. Its fields have been checked (RFC 6455, section 4.2.1)."""
        return self._opening.handover.request

    async def accept(
        self,
        *,
        origins: str | Collection[str] | None = None,
        subprotocols: Collection[str] = (),
        deflate: Deflate | None = None,
        headers: HeadersLike = (),
        **options: Unpack[StreamOptions],
    ) -> WebsocketStream:
        """Complete the handshake and open the stream.

        When the route has ended, the stream is closed with 1000, or with 1011 if the route raised an exception.
        When the client has left, the route has ``Timeouts.disconnect`` seconds to end. Then it is cancelled.

        Args:
            origins: patterns of the web pages that may connect, such as
                ``{"https://example.com", "http://localhost:*"}``. In a host, ``*`` matches any number of
                characters. As a port, it matches any port. ``SAME_HOST`` stands for the host to which the request
                was sent, ``ANY_ORIGIN`` for all pages. None, the default, is the same as ``SAME_HOST``. Requests
                without an Origin field are always accepted; browsers always send one (RFC 6455, section 10.2).
            subprotocols: the supported subprotocols, in the order of preference. The first one that the client
                offers is used; none if it offers none of them.
            deflate: the settings of compression, if the client offers it; None for no compression.
            headers: further header fields of the 101 response.
            **options: the limits of the stream: ``max_message_size``, ``max_fragments``,
                ``max_outbox_bytes``, ``max_outbox_messages`` and ``max_read_ahead``, whole numbers of at least 1.

        Returns:
            The open stream.

        Raises:
            HandshakeError: the origin may not connect (status 403, logged), the extensions field is malformed
                (400), or the server is shutting down (503). If the route does not catch it, the client receives
                a response with this status.
            RuntimeError: the upgrade was accepted before, another task is accepting it, or the route has ended.
            ValueError, TypeError: an option or a header field is invalid.
        """
        admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate)
        admission.check(self.request)
        admitted = admission.agree(self.request, Accept(headers=headers))
        return WebsocketStream(await self._opening.accept(admitted, stream_limits(options)))


def opening_of(upgrade: Upgrade) -> OpeningHandshake:
    """Return the ``OpeningHandshake`` of an upgrade. This is the only access from the face to it."""
    return upgrade._opening
