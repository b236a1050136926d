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
        ended: those of them that have their response, or whose connection has ended before.
        statuses: responses by their status code.
        bytes_received: received bytes.
        bytes_sent: bytes that the kernel accepted.
    """

    __slots__ = ("accepted", "bytes_received", "bytes_sent", "denied", "ended", "requests", "statuses")

    def __init__(self) -> None:
        self.accepted = self.denied = self.requests = self.ended = self.bytes_received = self.bytes_sent = 0
        self.statuses = [0] * 1000  # to count by the first digit would need a division for each response

    def count_accepted(self) -> None:
        """Count a connection that was accepted."""
        self.accepted += 1

    def count_denied(self) -> None:
        """Count a connection that the connection condition refused."""
        self.denied += 1

    def count_ended(self) -> None:
        """Count a request that has its response, or whose connection has ended before."""
        self.ended += 1

    def count_received(self, size: int) -> None:
        """Count received bytes."""
        self.bytes_received += size

    def count_switched(self, size: int) -> None:
        """Count a 101 response, and its bytes."""
        self.statuses[101] += 1
        self.bytes_sent += size

    def responses(self) -> dict[str, int]:
        """Return the number of responses of each status class.

        A status from 600 on counts as ``"5xx"``, because clients process it like one (RFC 9110, section 15).
        """
        by_digit = [sum(self.statuses[start : start + 100]) for start in range(100, 1000, 100)]
        return dict(zip(STATUS_CLASSES, (*by_digit[:4], sum(by_digit[4:])), strict=True))

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
            in_flight=self.requests - self.ended,
            accepted=self.accepted,
            denied=self.denied,
            requests=self.requests,
            responses=self.responses(),
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            events_dropped=events_dropped,
        )
