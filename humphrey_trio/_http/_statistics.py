"""What an HTTP application says of itself while it runs, in the manner of trio's ``statistics()``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpStatistics:
    """The connections of an ``App`` at one moment.

    Attributes:
        connections: those that are open, upgraded and lingering ones included.
        lingering: those whose last bytes were sent, and that wait for their peer to end them too.
        lingering_cut: lingering connections that were closed early to make room, since the server began.
    """

    connections: int
    lingering: int
    lingering_cut: int
