"""The access log: one line for each response, with its values as extra fields.

The format of the line is documented in docs/logging.md, and does not change. Everything that a client sent is
escaped, in the line and in the fields.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .._quoting import escaped

if TYPE_CHECKING:
    from .._http._exchange import Exchange

logger = logging.getLogger("humphrey_trio.access")

# For a value that the request does not have, as in the Common Log Format.
_MISSING = "-"


class AccessLog:
    """A ``Recorder`` that logs each response at level INFO to ``humphrey_trio.access``."""

    __slots__ = ()

    @property
    def enabled(self) -> bool:
        """Whether the logger is enabled for level INFO."""
        return logger.isEnabledFor(logging.INFO)

    def record(self, exchange: Exchange) -> None:
        """Log a response."""
        method, path, agent, query_length = _request_fields(exchange)
        client, status = escaped(str(exchange.client)), exchange.status
        size, seconds = exchange.size, exchange.seconds
        extra = {
            "client": client,
            "method": method,
            "path": path,
            "status": status,
            "bytes": size,
            "seconds": seconds,
            "user_agent": agent,
            "query_length": query_length,
            "tls": exchange.tls,
            "route": exchange.route,
        }
        logger.info('%s "%s %s" %d %d %.6f "%s"', client, method, path, status, size, seconds, agent, extra=extra)


def _request_fields(exchange: Exchange) -> tuple[str, str, str, int]:
    """Return the method, the path, the user agent, and the length of the query, which is not logged itself."""
    head = exchange.head
    if head is None:
        return _MISSING, _MISSING, _MISSING, 0
    agent = head.headers.get("User-Agent") or _MISSING
    return escaped(head.method), escaped(head.path), escaped(agent), len(head.query)
