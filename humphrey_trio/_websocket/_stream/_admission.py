"""Admission: who may open a WebSocket, and with what. All of it is decided before the 101.

It reads the request and asks the application; it opens nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from ..._http._headers import Headers, HeadersLike
from ..._http._origins import Origins, is_same_host
from ..._http._request import Request
from ..._http._response import Response
from ..._quoting import printable, quoted
from ..._state import State
from .._errors import HandshakeError
from .._protocol._deflate import negotiate, parse_offers

if TYPE_CHECKING:
    from .._compression import Deflate
    from .._protocol._deflate import Offer, PerMessageDeflate

logger = logging.getLogger("humphrey_trio.websocket")

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_PROTOCOL = "Sec-WebSocket-Protocol"
_EXTENSIONS = "Sec-WebSocket-Extensions"
# Twice in a 101, or untrue, they make clients fail (RFC 6455, section 4.1).
_OURS = ("Upgrade", "Connection", "Sec-WebSocket-Accept", _PROTOCOL, _EXTENSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """What an ``accept`` function lets a client in with.

    Attributes:
        subprotocol: one that the client offers; None leaves the choice to the route's ``subprotocols``.
        headers: further header fields of the 101.
        value: anything; the stream carries it as ``value``, and an app's ``stream_state`` factory can use it.
    """

    subprotocol: str | None = None
    headers: HeadersLike = ()
    value: Any = None


#: What ``accept=`` takes: ``async (request, state)``. It lets in with an ``Accept``, or with None as it is, and
#: refuses with a ``Response``.
AcceptHandler: TypeAlias = Callable[[Request, State], Awaitable[Accept | Response | None]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """What was agreed on with one client; ``fields`` are the header fields of the 101 that say so."""

    subprotocol: str | None
    value: Any
    deflate: PerMessageDeflate | None
    fields: Headers


class Admission:
    """A route's rules.

    Args:
        origins: the pages that may connect, as patterns of ``Origins``; None for those of the host that they
            connect to, ``ANY_ORIGIN`` for all.
        subprotocols: those that are spoken, best first; the first that the client offers is taken, and none if
            it offers none of them.
        deflate: how messages are compressed, if the client can do that; None for not at all.
        accept: asks the application, before anything is promised to the client.

    Raises:
        ValueError: no browser can send an origin, or a subprotocol is not a token.
    """

    __slots__ = ("_accept", "_deflate", "_origins", "_subprotocols")

    def __init__(
        self,
        *,
        origins: str | Collection[str] | None = None,
        subprotocols: Collection[str] = (),
        deflate: Deflate | None = None,
        accept: AcceptHandler[Any] | None = None,
    ) -> None:
        self._origins = None if origins is None else Origins(origins)
        self._subprotocols = (subprotocols,) if isinstance(subprotocols, str) else tuple(subprotocols)
        for subprotocol in self._subprotocols:
            if not _TOKEN.fullmatch(subprotocol):
                raise ValueError(f"{subprotocol!r} is no subprotocol: use letters, digits and -!#$%&'*+.^_`|~")
        self._deflate = deflate
        self._accept = accept

    async def admit(self, request: Request, state: Any) -> Admitted | Response:
        """Decide about one handshake.

        Returns:
            What was agreed on, or the response that refuses.

        Raises:
            HandshakeError: the page's origin may not connect, or the handshake is malformed.
            ValueError: the application accepted with what cannot be.
            TypeError: it returned something else, which must let nobody in.
        """
        self.check(request)
        if self._accept is None:
            return self.agree(request, _AS_IT_IS) if self._subprotocols or self._deflate else _NOTHING
        self._offers(request)  # what is malformed is refused before anybody is asked
        accepted = await _ask(self._accept, request, state)
        return accepted if isinstance(accepted, Response) else self.agree(request, accepted)

    def check(self, request: Request) -> None:
        """Refuse the pages that may not connect; clients other than browsers send no Origin and pass.

        A refusal is logged: only the server's side sees why, since browsers do not show the page to a script.

        Raises:
            HandshakeError: with 403 (RFC 6455, section 10.2).
        """
        given = request.headers.get_all("Origin")
        if not given:
            return
        origin, host = ", ".join(given), request.headers.get("Host", "")  # several origins are none
        if is_same_host(origin, host) if self._origins is None else self._origins.matches(origin):
            return
        _log_refused_page(request, origin, host)
        raise HandshakeError(f"pages of {quoted(origin)} may not connect to {quoted(host)}", 403)

    def agree(self, request: Request, accepted: Accept) -> Admitted:
        """Agree with the client on what the application accepts."""
        fields = Headers(accepted.headers)
        for name in _OURS:
            if name in fields:
                raise ValueError(f"the server itself says {name}, so it cannot be among the headers")
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
        """The extensions that the client offers; not looked at where none would be accepted."""
        return [] if self._deflate is None else parse_offers(request.headers.get_all(_EXTENSIONS))

    def _choose(self, request: Request, wanted: str | None) -> str | None:
        """The subprotocol (RFC 6455, section 4.2.2): the server's choice among those that the client offers."""
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
_NOTHING = Admitted(None, None, None, Headers())  # was agreed on


def _log_refused_page(request: Request, origin: str, host: str) -> None:
    extra = {
        "peer_addr": str(request.address),
        "path": printable(request.path),
        "origin": printable(origin),
        "host": printable(host),
    }
    logger.info(
        "refused %s: pages of %s may not connect to %s",
        request.address,
        quoted(origin),
        quoted(host),
        extra=extra,
    )


# A hook's route asks in the connection task, which is protected.
@trio.lowlevel.disable_ki_protection
async def _ask(accept: AcceptHandler[Any], request: Request, state: Any) -> Accept | Response:
    """The application's answer; a value that only happens to be false is none."""
    answer = await accept(request, state)
    if answer is None:
        return _AS_IT_IS
    if not isinstance(answer, (Accept, Response)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an accept function returns an Accept, a Response or None, not {type(answer).__name__}")
    return answer
