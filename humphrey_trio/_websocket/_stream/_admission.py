"""Admission: the decision about a handshake before the 101 response.

It checks the origin, calls the ``accept`` function of the application, and negotiates subprotocol and compression.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from ..._http._headers import TOKEN, Headers, HeadersLike
from ..._http._origins import SAME_HOST, Origins, is_same_host, patterns_of
from ..._http._request import Request
from ..._http._response import Response
from ..._quoting import printable, quoted
from ..._settings import check_type
from ..._signatures import async_function
from ..._type_variables import State
from .._deflate_settings import Deflate
from .._errors import HandshakeError
from .._protocol._deflate import negotiate, parse_offers

if TYPE_CHECKING:
    from .._protocol._deflate import Offer, PerMessageDeflate

logger = logging.getLogger("humphrey_trio.websocket")

_PROTOCOL = "Sec-WebSocket-Protocol"
_EXTENSIONS = "Sec-WebSocket-Extensions"
# Clients fail the connection if one of these is repeated or wrong in the 101 (RFC 6455, section 4.1).
_OURS = ("Upgrade", "Connection", "Sec-WebSocket-Accept", _PROTOCOL, _EXTENSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The result of an ``accept`` function that accepts a client.

    Attributes:
        subprotocol: one of the subprotocols that the client offers; None to choose from ``subprotocols`` of the
            route.
        headers: further header fields of the 101 response.
        value: any object, such as the authenticated user. It is the ``value`` of the stream.
    """

    subprotocol: str | None = None
    headers: HeadersLike = ()
    value: Any = None


#: The type of ``accept``: ``async (request, state)``. It returns an ``Accept`` to accept, None to accept without
#: further settings, or a ``Response`` to refuse.
AcceptHandler: TypeAlias = Callable[[Request, State], Awaitable[Accept | Response | None]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The result of the negotiation with one client. ``fields`` are the header fields of the 101 response."""

    subprotocol: str | None
    value: Any
    deflate: PerMessageDeflate | None
    fields: Headers

    def with_fields(self, extra: Headers) -> Admitted:
        """Return a copy with further header fields of the 101 response.

        Raises:
            ValueError: the server itself sets one of them.
        """
        _check_not_ours(extra)
        return replace(self, fields=Headers((*self.fields, *extra)))


class Admission:
    """The rules of a route.

    Args:
        origins: the web pages that may connect, as for ``Upgrade.accept``.
        subprotocols: the supported subprotocols, in the order of preference.
        deflate: the settings of compression, or None.
        accept: called before the 101 response.

    Attributes:
        origins: the patterns of web pages that may connect, with ``SAME_HOST`` among them or not.
        accept: as the argument.

    Raises:
        ValueError: an origin is malformed, or a subprotocol is not a token.
        TypeError: ``deflate`` is not a ``Deflate``, or ``accept`` is not an async function with these parameters.
    """

    __slots__ = ("_allowed", "_ask", "_deflate", "_same_host", "_subprotocols", "accept", "origins")

    def __init__(
        self,
        *,
        origins: str | Collection[str] | None = None,
        subprotocols: Collection[str] = (),
        deflate: Deflate | None = None,
        accept: AcceptHandler[Any] | None = None,
    ) -> None:
        self.origins = patterns_of(SAME_HOST if origins is None else origins)
        self._same_host = SAME_HOST in self.origins
        self._allowed = Origins([pattern for pattern in self.origins if pattern != SAME_HOST])
        self._subprotocols = (subprotocols,) if isinstance(subprotocols, str) else tuple(subprotocols)
        for subprotocol in self._subprotocols:
            if not isinstance(subprotocol, str) or not TOKEN.fullmatch(subprotocol):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(f"{subprotocol!r} is not a subprotocol: use letters, digits and -!#$%&'*+.^_`|~")
        check_type("deflate", deflate, Deflate, example="", optional=True)
        self._deflate = deflate
        self.accept = accept
        self._ask = None if accept is None else async_function(accept, "request, state", "the accept function")

    async def admit(self, request: Request, state: Any) -> Admitted | Response:
        """Decide about one handshake.

        Returns:
            The result of the negotiation, or the response that refuses.

        Raises:
            HandshakeError: the origin may not connect, or a field is malformed.
            ValueError: the ``accept`` function chose a subprotocol that was not offered, or a reserved field.
            TypeError: the ``accept`` function returned another type. The client is not accepted then.
        """
        self.check(request)
        if self._ask is None:
            return self.agree(request, _AS_IT_IS) if self._subprotocols or self._deflate else _NOTHING
        self._offers(request)  # refuses a malformed field before the application is called
        accepted = await _ask(self._ask, request, state)
        return accepted if isinstance(accepted, Response) else self.agree(request, accepted)

    def check(self, request: Request) -> None:
        """Check the origin of the web page that connects (RFC 6455, section 10.2).

        Requests without Origin are accepted: browsers always send it, and other clients can send any value.
        A refusal is logged, because browsers do not show the response to the page.

        Raises:
            HandshakeError: with 403, if the origin may not connect.
        """
        given = request.headers.get_all("Origin")
        if not given:
            return
        origin, host = ", ".join(given), request.host  # repeated fields match no pattern
        if (self._same_host and _is_same_origin(origin, request)) or self._allowed.matches(origin):
            return
        _log_refused_page(request, origin, host)
        raise HandshakeError(f"pages of {quoted(origin)} may not connect to {quoted(host)}", 403)

    def agree(self, request: Request, accepted: Accept) -> Admitted:
        """Negotiate subprotocol and compression, and collect the header fields of the 101 response.

        Raises:
            HandshakeError: the extensions field is malformed.
            ValueError: the client does not offer the subprotocol of ``accepted``, or a header field is reserved.
        """
        fields = Headers(accepted.headers)
        _check_not_ours(fields)
        subprotocol = self._choose(request, accepted.subprotocol)
        if subprotocol is not None:
            fields = fields.with_header(_PROTOCOL, subprotocol)
        deflate = None
        if self._deflate is not None:
            agreed = negotiate(self._deflate, self._offers(request))
            if agreed is not None:
                fields, deflate = fields.with_header(_EXTENSIONS, agreed[0]), agreed[1]
        return Admitted(subprotocol, accepted.value, deflate, fields)

    def _offers(self, request: Request) -> list[Offer]:
        """Return the offered extensions. Without settings of compression, the field is not parsed."""
        return [] if self._deflate is None else parse_offers(request.headers.get_all(_EXTENSIONS))

    def _choose(self, request: Request, wanted: str | None) -> str | None:
        """Choose the subprotocol from those that the client offers (RFC 6455, section 4.2.2)."""
        if wanted is None and not self._subprotocols:
            return None
        lines = request.headers.get_all(_PROTOCOL)
        offered = {token.strip() for line in lines for token in line.split(",")} - {""}
        if wanted is not None:
            if wanted not in offered:
                raise ValueError(f"the client does not offer the subprotocol {wanted!r}, so it cannot be accepted")
            return wanted
        return next((subprotocol for subprotocol in self._subprotocols if subprotocol in offered), None)


_AS_IT_IS = Accept()
_NOTHING = Admitted(None, None, None, Headers())


def _is_same_origin(origin: str, request: Request) -> bool:
    """Compare a page with the host that was asked for, and with the scheme if a trusted proxy tells it.

    Otherwise the scheme is not known, because a proxy may have terminated TLS.
    """
    forwarded = request.forwarded
    scheme = None if forwarded is None else forwarded.scheme
    return is_same_host(origin, request.host) and (scheme is None or origin.lower().startswith(f"{scheme}://"))


def _log_refused_page(request: Request, origin: str, host: str) -> None:
    extra = {
        "client": str(request.client),
        "peer_addr": str(request.address),
        "path": printable(request.path),
        "origin": printable(origin),
        "host": printable(host),
    }
    logger.info(
        "refused %s: pages of %s may not connect to %s",
        request.client,
        quoted(origin),
        quoted(host),
        extra=extra,
    )


# For a hook, it runs in the connection task, which is protected from KeyboardInterrupt. Code of the user is not.
@trio.lowlevel.disable_ki_protection
async def _ask(accept: AcceptHandler[Any], request: Request, state: Any) -> Accept | Response:
    """Call the ``accept`` function. Values such as False are refused, so that they do not accept a client."""
    answer = await accept(request, state)
    if answer is None:
        return _AS_IT_IS
    if not isinstance(answer, (Accept, Response)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"an accept function must return an Accept, a Response or None, not {type(answer).__name__}:"
            " return Accept(value=...) to accept, and Response(403) to refuse"
        )
    return answer


def _check_not_ours(fields: Headers) -> None:
    for name in _OURS:
        if name in fields:
            raise ValueError(f"the server itself sets {name}: remove it from the headers")
