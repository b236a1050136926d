"""What a connection tells its recorders: one ``Exchange`` for each response, when its bytes were sent.

A connection has a ``Recording`` only if something records its responses. Otherwise nothing is timed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from .._http._exchange import Exchange

if TYPE_CHECKING:
    from .._http._request import Request
    from ._observers import Observers, Recorder
    from ._transport import Transport


class _Queued(NamedTuple):
    """A response whose bytes wait to be sent.

    Attributes:
        body, total: bytes of the body, which come last, and of the whole response.
        began: when the head of the request was read; None if it could not be read.
    """

    request: Request | None
    status: int
    body: int
    total: int
    began: float | None
    route: str | None


class Recording:
    """Records the responses of one connection.

    Args:
        recorders: what gets each ``Exchange``.
        transport: the transport of the connection.
    """

    __slots__ = ("_began", "_queued", "_recorders", "_route", "_transport")

    def __init__(self, recorders: tuple[Recorder, ...], transport: Transport) -> None:
        self._recorders = recorders
        self._transport = transport
        self._queued: list[_Queued] = []
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
        self._queued.append(_Queued(request, status, body, total, self._began, self._route))
        self._began = self._route = None

    def note_sent(self, unsent: int = 0) -> None:
        """The queued responses were sent.

        Args:
            unsent: bytes at the end of the queue that were not sent, because the connection has ended.
        """
        queued, self._queued = self._queued, []
        sizes: list[int] = []
        for response in reversed(queued):
            lost = min(unsent, response.total)
            unsent -= lost
            sizes.append(max(0, response.body - lost))
        for response in queued:
            self._record(response, sizes.pop())

    def record(self, request: Request | None, status: int, size: int) -> None:
        """Record a response that was sent, or that has broken off.

        Args:
            request, status: as for ``put``.
            size: bytes of the body that were sent.
        """
        self.put(request, status, size, size)
        self.note_sent()

    def _record(self, response: _Queued, size: int) -> None:
        request, began, transport = response.request, response.began, self._transport
        exchange = Exchange(
            request,
            response.status,
            size,
            0.0 if began is None else trio.current_time() - began,
            transport.peer if request is None else request.client,
            transport.tls_info() is not None,
            response.route,
        )
        for recorder in self._recorders:
            recorder.record(exchange)


def new_recording(observers: Observers, transport: Transport) -> Recording | None:
    """Return the recording of a new connection; None if nothing records its responses."""
    recorders = observers.recorders()
    return Recording(recorders, transport) if recorders else None
