"""Counters of the connections, requests, responses and bytes of an application: plain integers.

Connections increase them on the fast path, so each step is one addition.
"""

from __future__ import annotations

from .._http._statistics import STATUS_CLASSES, HttpStatistics


class HttpCounters:
    """The counters of one application, for all its servers.

    Attributes:
        accepted: connections that were accepted.
        denied: connections that the connection condition refused; not included in ``accepted``.
        requests: requests whose head was read.
        in_flight: requests whose head was read and whose response is not complete.
        bytes_received: received bytes.
        bytes_sent: bytes that the kernel accepted.
    """

    __slots__ = ("_responses", "accepted", "bytes_received", "bytes_sent", "denied", "in_flight", "requests")

    def __init__(self) -> None:
        self.accepted = self.denied = self.requests = self.in_flight = self.bytes_received = self.bytes_sent = 0
        self._responses = [0] * 10  # by the first digit of the status

    def begin_request(self) -> None:
        """Count a request whose head was read."""
        self.requests += 1
        self.in_flight += 1

    def end_request(self) -> None:
        """A request has its response, or its connection has ended before."""
        self.in_flight -= 1

    def count_response(self, status: int) -> None:
        """Count a response.

        Args:
            status: the status code, from 101 to 999.
        """
        self._responses[status // 100] += 1

    def responses(self) -> dict[str, int]:
        """Return the number of responses of each status class.

        A status from 600 on counts as ``"5xx"``, because clients process it like one (RFC 9110, section 15).
        """
        _, *classes = self._responses[:5]
        return dict(zip(STATUS_CLASSES, (*classes, sum(self._responses[5:])), strict=True))

    def statistics(
        self, *, connections: int, lingering: int, lingering_cut: int, events_dropped: int = 0
    ) -> HttpStatistics:
        """Return the statistics of the application.

        Args:
            connections, lingering, lingering_cut, events_dropped: as in ``HttpStatistics``.
        """
        return HttpStatistics(
            connections=connections,
            lingering=lingering,
            lingering_cut=lingering_cut,
            in_flight=self.in_flight,
            accepted=self.accepted,
            denied=self.denied,
            requests=self.requests,
            responses=self.responses(),
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            events_dropped=events_dropped,
        )
