"""What a connection tells its recorders: one ``Exchange`` for each response, when its bytes were sent.

A connection has a ``Recording`` only if something records its responses. Otherwise nothing is timed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._http._exchange import Exchange

if TYPE_CHECKING:
    from .._http._request import Request
    from ._observers import Observers, Recorder
    from ._transport import Transport


class Recording:
    """Records the responses of one connection.

    Args:
        recorders: what gets each ``Exchange``.
        transport: the transport of the connection.
    """

    __slots__ = ("_began", "_peer", "_queued", "_recorders", "_route", "_tls")

    def __init__(self, recorders: tuple[Recorder, ...], transport: Transport) -> None:
        self._recorders = recorders
        self._peer = transport.peer
        self._tls = transport.tls_info() is not None
        # Responses whose bytes wait to be sent, with the number of these bytes. ``seconds`` is when they began.
        self._queued: list[tuple[Exchange, int]] = []
        self._began: float | None = None
        self._route: str | None = None

    def begin(self, route: str | None) -> None:
        """The head of a request was read.

        Args:
            route: the pattern of its route; None if no route was found.
        """
        self._began, self._route = trio.current_time(), route

    def put(self, request: Request | None, status: int, body: int, total: int) -> None:
        """A whole response was queued. It is recorded by the next ``note_sent``.

        Args:
            request: the request; None if its head could not be read.
            status: the status code.
            body, total: bytes of the body, which come last, and of the whole response.
        """
        client = self._peer if request is None else request.client
        began = trio.current_time() if self._began is None else self._began
        self._queued.append((Exchange(request, status, body, began, client, self._tls, self._route), total))
        self._began = self._route = None

    def note_sent(self, unsent: int = 0) -> None:
        """The queued responses were sent: record them.

        Args:
            unsent: bytes at the end of the queue that were not sent, because the connection has ended.
        """
        if not self._queued:
            return
        queued, self._queued = self._queued, []
        if unsent:
            _take_off(queued, unsent)
        now = trio.current_time()
        for exchange, _ in queued:
            exchange.end(now)
            for recorder in self._recorders:
                recorder.record(exchange)

    def record(self, request: Request | None, status: int, size: int) -> None:
        """Record a response that was sent, or that has broken off.

        Args:
            request, status: as for ``put``.
            size: bytes of the body that were sent.
        """
        self.put(request, status, size, size)
        self.note_sent()


def _take_off(queued: list[tuple[Exchange, int]], unsent: int) -> None:
    """Reduce the sizes of the last responses by bytes that were not sent."""
    for exchange, total in reversed(queued):
        exchange.take_off(unsent)
        unsent = max(0, unsent - total)


def new_recording(observers: Observers, transport: Transport) -> Recording | None:
    """Return the recording of a new connection; None if nothing records its responses."""
    recorders = observers.recorders()
    return Recording(recorders, transport) if recorders else None
