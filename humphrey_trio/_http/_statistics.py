"""Statistics of an HTTP application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

#: The status classes of responses (RFC 9110, section 15).
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpStatistics:
    """The connections, requests and responses of an ``App`` at one moment.

    The counters from ``accepted`` on include all connections since the app was created. Numbers of bytes are those
    of HTTP messages, with their heads and without TLS. They do not include WebSocket frames, except for those that
    arrive together with the head of the handshake.

    Attributes:
        connections: open connections, including WebSockets and lingering connections.
        lingering: lingering connections: the last bytes were sent, and the server waits for the peer to close.
        lingering_cut: lingering connections that were closed early, to make room for new connections, since the
            server started.
        in_flight: requests whose head was read and whose response is not complete.
        accepted: connections that were accepted, including those of ``serve_stream``.
        requests: requests whose head was read.
        responses: responses by their status class: ``"1xx"``, ``"2xx"``, ``"3xx"``, ``"4xx"`` and ``"5xx"``. A 101
            is the response of an accepted WebSocket; a 100 is not counted. Responses to requests whose head could
            not be read are included, so there may be more responses than requests.
        bytes_received: received bytes.
        bytes_sent: bytes that the kernel accepted.
        events_dropped: events of a monitor that were dropped because its channel was full.
        denied: connections that the connection condition refused; not included in ``accepted``.
    """

    connections: int
    lingering: int
    lingering_cut: int
    in_flight: int = 0
    accepted: int = 0
    requests: int = 0
    responses: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(STATUS_CLASSES, 0))
    bytes_received: int = 0
    bytes_sent: int = 0
    events_dropped: int = 0
    denied: int = 0

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Return the attributes by name, for structured logs. ``responses`` is a dict."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return named | {"responses": dict(self.responses)}
