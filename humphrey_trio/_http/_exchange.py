"""One response with the request that it answers, as the access log and the monitor record it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ._address import Address
from ._headers import Headers


class RequestHead(Protocol):
    """What is recorded of a request: a ``Request``, or the head of one whose body was not read."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(slots=True)  # frozen would cost a microsecond for each response
class Exchange:
    """One response and its request. Not changed after it was recorded.

    Attributes:
        head: the request; None if its head could not be read.
        status: the status code, from 101 to 999.
        size: bytes of the body that were sent. 0 for the response to a HEAD request.
        seconds: from the end of the request's head to the end of the response.
        client: the address of the client. Behind trusted proxies it is not that of the peer.
        tls: whether the connection of the peer uses TLS.
        route: the pattern of the route; None if no route was found.
    """

    head: RequestHead | None
    status: int
    size: int
    seconds: float
    client: Address
    tls: bool = False
    route: str | None = None

    def take_off(self, unsent: int) -> None:
        """Reduce the size by bytes that were not sent. It does not become negative."""
        self.size = max(0, self.size - unsent)

    def end(self, now: float) -> None:
        """Note the time of the end. Until then, ``seconds`` is the time of the begin."""
        self.seconds = now - self.seconds
