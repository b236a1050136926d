"""Statistics of an HTTP application."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpStatistics:
    """The connections of an ``App`` at one moment.

    Attributes:
        connections: open connections, including WebSockets and lingering connections.
        lingering: lingering connections: the last bytes were sent, and the server waits for the peer to close.
        lingering_cut: lingering connections that were closed early, to make room for new connections, since the
            server started.
    """

    connections: int
    lingering: int
    lingering_cut: int
