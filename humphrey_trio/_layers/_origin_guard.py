"""Protection against cross-origin requests that change something (CSRF), by the fields that browsers send.

The rules are those of ``http.CrossOriginProtection`` in the standard library of Go. There is no token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .._http._errors import HttpError
from .._http._origins import ANY_ORIGIN, Origins, is_same_host
from .._http._request import Request
from .._http._response import Response
from .._quoting import printable, quoted
from .._type_variables import State
from ._layer import CallNext

logger = logging.getLogger("humphrey_trio.http")

# Safe methods (RFC 9110, section 9.2.1). TRACE is one as well, but no page can send it.
_SAFE = ("GET", "HEAD", "OPTIONS")
# Of the same origin, or sent by the user: from the address bar, a bookmark (Fetch Metadata, section 2.1).
_OWN_SITES = ("same-origin", "none")


def cross_origin_guard(*, allowed_origins: str | Iterable[str] = ()) -> OriginGuard:
    """Create a layer that refuses requests with which a page of another origin could change something.

    GET, HEAD and OPTIONS pass. Other methods are refused with 403 if a browser tells that a page of another origin
    sent the request:

    1. With a Sec-Fetch-Site field, ``same-origin`` and ``none`` pass. ``same-site`` does not: other subdomains
       may belong to others.
    2. Otherwise, with an Origin field, it has to have the host and port of the request (``Request.host``).
    3. Without both, the client is not a current browser, and passes.

    Every refusal is logged at INFO, because browsers do not show the response to the page. WebSocket handshakes
    are GET requests and have a check of their own, the ``origins`` of their route.

    Args:
        allowed_origins: pages of these origins pass, too. Patterns as for ``Cors.origins``.

    Returns:
        The layer, for ``with_layer``.

    Raises:
        ValueError: an origin is malformed, or ``"*"``, which would allow everything.
        TypeError: an origin is not a str.
    """
    return OriginGuard(allowed_origins)


class OriginGuard:
    """The layer of ``cross_origin_guard``."""

    def __init__(self, allowed_origins: str | Iterable[str]) -> None:
        patterns = (allowed_origins,) if isinstance(allowed_origins, str) else tuple(allowed_origins)
        if ANY_ORIGIN in patterns:
            raise ValueError("cross_origin_guard(allowed_origins='*') refuses nothing: omit the layer instead")
        self._patterns = patterns
        self._allowed = Origins(patterns)

    def __repr__(self) -> str:
        return f"cross_origin_guard(allowed_origins={self._patterns!r})"

    async def __call__(self, request: Request, state: State, call_next: CallNext) -> Response:
        if request.method in _SAFE or self._passes(request):
            return await call_next(request)
        _log_refused(request)
        raise HttpError(403, "a page of another origin must not send this request")

    def _passes(self, request: Request) -> bool:
        # Repeated fields are joined, and then match nothing.
        site, origin = (", ".join(request.headers.get_all(name)) for name in ("Sec-Fetch-Site", "Origin"))
        is_own = site in _OWN_SITES if site else not origin or is_same_host(origin, request.host)
        return is_own or self._allowed.matches(origin)


def _log_refused(request: Request) -> None:
    """Log a refusal. All values but the addresses are the client's."""
    origin, site = (request.headers.get(name, "") for name in ("Origin", "Sec-Fetch-Site"))
    extra = {
        "client": str(request.client),
        "peer_addr": str(request.address),
        "method": printable(request.method),
        "path": printable(request.path),
        "origin": printable(origin),
        "site": printable(site),
    }
    logger.info(
        "refused %s %s of %s: Origin %s, Sec-Fetch-Site %s",
        printable(request.method),
        quoted(request.path),
        request.client,
        quoted(origin),
        quoted(site),
        extra=extra,
    )
