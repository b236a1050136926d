"""An upgrade to WebSocket, as a route gets it: it decides before anything is promised to the client.

``Upgrade`` is a face; ``OpeningHandshake`` does the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..._http._response import Response
from .._limits import StreamLimits
from ._admission import Accept, Admission
from ._stream import WebsocketStream

if TYPE_CHECKING:
    from typing import Unpack

    from ..._http._headers import HeadersLike
    from ..._http._request import Request
    from .._compression import Deflate
    from .._limits import StreamOptions
    from ._opening import OpeningHandshake

_State = TypeVar("_State")

#: What ``with_websocket_route`` takes.
WebsocketRoute: TypeAlias = Callable[["Upgrade", _State], Awaitable[Response | None]]


class Upgrade:
    """A client's wish to open a WebSocket, as a websocket route gets it.

    The route either accepts it, once, or returns a ``Response`` that refuses it. After an attempt that fails, such
    as a hook without a place, the route may try another hook, or accept it itself. When the route has ended, no
    task can accept it any more.
    """

    __slots__ = ("_opening",)

    def __init__(self, opening: OpeningHandshake) -> None:
        self._opening = opening

    @property
    def request(self) -> Request:
        """The opening handshake, checked."""
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

        The stream lives as long as the route runs: then it is closed with 1000, or with 1011 if the route
        raised. When the client leaves, the route has ``Timeouts.disconnect`` seconds to end before it is
        cancelled.

        Args:
            origins: the pages that may connect, such as ``{"https://example.com", "http://localhost:*"}``. In a
                host ``*`` stands for any run of characters; as a port it is any port. None for the pages of
                the host that they connect to, ``ANY_ORIGIN`` for all.
            subprotocols: those that are spoken, best first; the first that the client offers is taken.
            deflate: how messages are compressed, if the client can do that; None for not at all.
            headers: further header fields of the 101.
            **options: bounds of the stream, as in ``StreamLimits``.

        Raises:
            HandshakeError: the page's origin may not connect, which is logged, or the server ends; let it pass,
                and the client gets its status.
            RuntimeError: the upgrade was accepted before, or its route has refused it.
            ValueError, TypeError: an option or a header is invalid.
        """
        admission = Admission(origins=origins, subprotocols=subprotocols, deflate=deflate)
        admission.check(self.request)
        admitted = admission.agree(self.request, Accept(headers=headers))
        return WebsocketStream(await self._opening.accept(admitted, StreamLimits(**options)))


def opening_of(upgrade: Upgrade) -> OpeningHandshake:
    """The machinery of an upgrade, for the routes of this package. It is the one way from the face to it."""
    return upgrade._opening
